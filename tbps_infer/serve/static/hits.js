// The hits, as a grid: cards, and moving the focus among them.

import { thumbnail } from "./api.js";
import { $, bar, make, shortTime } from "./dom.js";
import { choose, chooseTo } from "./chosen.js";
import { chosenChanged, detailWanted, hitsChanged, state } from "./state.js";

/** @import { Hit } from "./api.js" */

const SHOWN_AT_ONCE = 12;

export function wholeWeight() {
  return state.about?.segments.reduce((sum, each) => sum + each.weight, 0) || 1;
}

const cards = () => /** @type {HTMLElement[]} */ ([...$("hits").children]);

/**
 * @param {Hit} hit
 * @param {number} index
 */
function card(hit, index) {
  const item = make("li", "hit");
  const about = [hit.metadata.camera, shortTime(String(hit.metadata.time ?? ""))].filter((each) => each !== undefined && each !== null && each !== "").map(String);
  item.id = `hit-${index}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", String(state.chosen.has(hit.record)));
  item.setAttribute("aria-label", [`Rank ${hit.rank}, score ${hit.score.toFixed(3)}`, ...about, hit.name].join(", "));
  item.tabIndex = index === state.focus ? 0 : -1;
  item.title = [hit.name, ...Object.entries(hit.metadata).map(([name, value]) => `${name}: ${value}`)].join("\n");
  const shot = make("div", "shot");
  const picture = make("img");
  picture.alt = "";
  picture.decoding = "async";
  picture.loading = index < SHOWN_AT_ONCE ? "eager" : "lazy";
  picture.addEventListener("error", () => picture.replaceWith(make("div", "gone", "picture not there any more")));
  picture.src = thumbnail(hit.record);
  const tick = make("span", "tick", "✓");
  tick.setAttribute("aria-hidden", "true");
  shot.append(picture, tick);
  const caption = make("div", "caption");
  caption.append(make("b", "", String(hit.rank)), make("span", "", hit.score.toFixed(3)));
  item.append(shot, caption, bar(hit.score / wholeWeight()), ...about.map((text) => make("div", "meta", text)));
  item.addEventListener("click", (event) => {
    setFocus(index);
    if (event.target === tick || event.ctrlKey || event.metaKey) choose(hit);
    else if (event.shiftKey) chooseTo(index);
    else detailWanted.send(index);
  });
  return item;
}

/** @param {number} index */
export function setFocus(index, { scroll = false } = {}) {
  const all = cards();
  if (!all.length) return;
  all[state.focus]?.setAttribute("tabindex", "-1");
  state.focus = Math.min(Math.max(index, 0), all.length - 1);
  all[state.focus].tabIndex = 0;
  all[state.focus].focus({ preventScroll: true });
  if (scroll) all[state.focus].scrollIntoView({ block: "nearest" });
}

export function focusHit() {
  if (state.hits.length) setFocus(state.focus);
}

export function columnsOfGrid() {
  const all = cards();
  const wrapped = all.findIndex((each) => each.offsetTop !== all[0].offsetTop);
  return wrapped < 0 ? all.length : wrapped;
}

hitsChanged.add(() => {
  $("hits").replaceChildren(...state.hits.map(card));
  $("hits").scrollTop = 0;
});
chosenChanged.add(() => {
  cards().forEach((item, index) => {
    item.setAttribute("aria-selected", String(state.chosen.has(state.hits[index]?.record)));
  });
});
