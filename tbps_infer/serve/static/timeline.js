// How many pictures there are over time, as bars to jump to.

import { $, field, make, number } from "./dom.js";
import { filtersChanged } from "./filters.js";

/** @import { Timeline } from "./api.js" */

const BAR_PX = 26; // wide enough for a finger, with the gap between two

/** @type {Timeline | null} */
let shown = null;

/** @param {Timeline | null} timeline */
export function showTimeline(timeline) {
  shown = timeline;
  $("timeline-part").hidden = !timeline || timeline.counts.length < 2;
  if (!timeline || timeline.counts.length < 2) return;
  const bars = Math.max(2, Math.floor($("timeline").clientWidth / BAR_PX));
  const each = Math.ceil(timeline.counts.length / bars);
  /** @type {number[]} */
  const counts = [];
  timeline.counts.forEach((count, index) => { counts[Math.floor(index / each)] = (counts[Math.floor(index / each)] ?? 0) + count; });
  const largest = Math.max(...counts);
  const step = each * timeline.step_s;
  $("timeline").replaceChildren(...counts.map((count, index) => barOf(count, largest, timeline.start_s + index * step, step)));
  /** @type {HTMLElement} */ ($("timeline").firstElementChild).tabIndex = 0;
  const last = timeline.start_s + timeline.counts.length * timeline.step_s;
  $("timeline-ends").replaceChildren(make("span", "", clock(timeline.start_s, timeline.step_s)), make("span", "", clock(last, timeline.step_s)));
}

/**
 * @param {number} count
 * @param {number} largest
 * @param {number} start
 * @param {number} step
 */
function barOf(count, largest, start, step) {
  const bar = make("button");
  bar.type = "button";
  bar.tabIndex = -1;
  bar.disabled = !count;
  const said = `${clock(start, step)} to ${clock(start + step, step)}: ${number(count)} ${count === 1 ? "picture" : "pictures"}`;
  bar.title = said;
  bar.setAttribute("aria-label", said);
  const inner = make("i");
  inner.style.height = `${count ? Math.max(6, (100 * count) / largest) : 0}%`;
  bar.append(inner);
  bar.addEventListener("click", () => {
    field("after").value = iso(start);
    field("before").value = iso(start + step);
    filtersChanged();
  });
  return bar;
}

/** @param {number} seconds */
const iso = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16);

/**
 * A clock's time as people read it, to the day where steps are days.
 * @param {number} seconds
 * @param {number} step
 */
const clock = (seconds, step) => iso(seconds).slice(0, step % 86400 ? 16 : 10).replace("T", " ");

$("timeline").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!move) return;
  const bars = /** @type {HTMLButtonElement[]} */ ([...$("timeline").children]);
  let place = bars.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement)) + move;
  while (bars[place]?.disabled) place += move;
  if (!bars[place]) return;
  event.preventDefault();
  for (const bar of bars) bar.tabIndex = -1;
  bars[place].tabIndex = 0;
  bars[place].focus();
});
addEventListener("resize", () => showTimeline(shown));
