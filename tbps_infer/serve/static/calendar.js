// A month with how many pictures each day has; days are chosen as clocks showed them, in the zone of the hits.

import { ask, told } from "./api.js";
import { $, field, make, makeButton, number } from "./dom.js";
import { filtersChanged } from "./filters.js";
import { filter } from "./query.js";
import { state, stateRestored } from "./state.js";
import { tell } from "./views.js";

/** @import { Browsed } from "./api.js" */

const DAY_MS = 86_400_000;
const WEEKDAYS = ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"];
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/** The first of the month that is shown: a clock's time, computed with as if it were UTC. */
let month = new Date(0);
/** @type {string | null} The first day of a range that is being chosen. */
let begun = null;

const day = (/** @type {Date | number} */ date) => new Date(date).toISOString().slice(0, 10);

async function showMonth() {
  const next = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth() + 1));
  $("calendar-title").textContent = `${MONTHS[month.getUTCMonth()]} ${month.getUTCFullYear()}`;
  const counts = await countsOf(month, next);
  const cells = [];
  for (let date = month.getTime(); date < next.getTime(); date += DAY_MS) cells.push(dayCell(day(date), counts.get(day(date)) ?? 0));
  const blank = (month.getUTCDay() + 6) % 7;
  $("calendar-days").replaceChildren(...WEEKDAYS.map((name) => make("b", "", name)), ...Array.from({ length: blank }, () => make("span")), ...cells);
}

/**
 * @param {Date} first
 * @param {Date} end
 */
async function countsOf(first, end) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  try {
    const among = { ...filter(), after: day(first), before: day(end) };
    const { timeline } = /** @type {Browsed} */ (await ask("/api/v1/browse", { gallery: state.galleries, filter: among, k: 0 }));
    timeline?.counts.forEach((count, index) => {
      const date = day(1000 * (timeline.start_s + index * timeline.step_s));
      counts.set(date, (counts.get(date) ?? 0) + count);
    });
  } catch (error) {
    tell(told(error));
  }
  return counts;
}

/**
 * @param {string} date
 * @param {number} count
 */
function dayCell(date, count) {
  const cell = makeButton(String(Number(date.slice(8))), () => chooseDay(date));
  cell.append(make("small", "", count ? number(count) : ""));
  cell.setAttribute("aria-label", `${date}: ${number(count)} ${count === 1 ? "picture" : "pictures"}`);
  const [after, before] = [field("after").value.slice(0, 10), field("before").value];
  cell.setAttribute("aria-pressed", String(Boolean(after) && date >= after && (!before || `${date}T00:00` < before)));
  return cell;
}

/**
 * One day, or with the day chosen before it all between the two.
 * @param {string} date
 */
function chooseDay(date) {
  const [first, last] = begun && begun < date ? [begun, date] : [date, date];
  begun = begun ? null : date;
  field("after").value = `${first}T00:00`;
  field("before").value = `${day(Date.parse(last) + DAY_MS)}T00:00`;
  filtersChanged();
  showMonth();
}

/** @param {number} by */
function turn(by) {
  month = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth() + by));
  showMonth();
}

$("calendar-open").addEventListener("click", () => {
  const hidden = !$("calendar").hidden;
  $("calendar").hidden = hidden;
  $("calendar-open").setAttribute("aria-expanded", String(!hidden));
  if (hidden) return;
  const latest = Date.parse(field("after").value.slice(0, 10)) || 1000 * (state.about?.last_time ?? Date.now() / 1000);
  month = new Date(Date.UTC(new Date(latest).getUTCFullYear(), new Date(latest).getUTCMonth()));
  begun = null;
  showMonth();
});
$("calendar-back").addEventListener("click", () => turn(-1));
$("calendar-on").addEventListener("click", () => turn(1));
stateRestored.add(() => { begun = null; });
