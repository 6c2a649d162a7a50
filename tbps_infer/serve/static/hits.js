// The hits, as a grid of which only the rows in sight and those near them are made.

import { recordPath } from "./api.js";
import { $, bar, make, shortTime } from "./dom.js";
import { choose, chooseTo } from "./chosen.js";
import { judge } from "./judged.js";
import { aboutKnown, chosenChanged, detailWanted, hitsAdded, hitsChanged, keyOf, moreWanted, scrolledTo, state } from "./state.js";

/** @import { Hit } from "./api.js" */

const NEAR_END_PX = 400;

/** The most that a score of the query can be. */
export const mostOfAll = () => Object.values(state.most).reduce((sum, each) => sum + each, 0) || 1;

/** @type {Map<number, HTMLElement>} The cards that are there, by place. */
let cards = new Map();
let rowHeight = 0;

/**
 * What a card says of its hit, beside the picture.
 * @param {Hit} hit
 */
function words(hit) {
  const { camera, time } = hit.metadata;
  return [camera, time && shortTime(String(time))].filter((each) => each !== undefined && each !== null && each !== "").map(String);
}

/** @param {Hit} hit */
function label(hit) {
  const score = hit.score === undefined ? [] : [`Rank ${hit.rank}, score ${hit.score.toFixed(3)}`];
  const judged = state.judged.get(keyOf(hit));
  return [...score, ...words(hit), ...(judged ? [`judged ${judged}`] : []), ...others(hit), hit.name].join(", ");
}

/**
 * How many pictures stand behind this one, in words.
 * @param {Hit} hit
 */
function others(hit) {
  if (hit.alike?.length) return [`${hit.alike.length} more like it`];
  return hit.pictures && hit.pictures > 1 ? [`${hit.pictures} pictures`] : [];
}

/**
 * @param {Hit} hit
 * @param {number} index
 */
function card(hit, index) {
  const item = make("li", "hit");
  item.id = `hit-${index}`;
  item.setAttribute("role", "option");
  item.title = [hit.name, ...Object.entries(hit.metadata).map(([name, value]) => `${name}: ${value}`)].join("\n");
  const shot = make("div", "shot");
  const picture = make("img");
  picture.alt = "";
  picture.decoding = "async";
  picture.addEventListener("error", () => picture.replaceWith(make("div", "gone", "picture not there any more")));
  picture.src = recordPath(hit, "/thumbnail");
  const marks = hiddenMarks(hit);
  shot.append(picture, ...marks, make("span", "stack"));
  const about = make("div", "about");
  about.append(...words(hit).map((text) => make("div", "meta", text)));
  item.append(shot);
  if (hit.score !== undefined) {
    const caption = make("div", "caption");
    caption.append(make("b", "", String(hit.rank)), make("span", "", hit.score.toFixed(3)));
    item.append(caption, bar(hit.score / mostOfAll()));
  }
  item.append(about);
  item.addEventListener("focus", () => {
    cards.get(state.focus)?.setAttribute("tabindex", "-1");
    item.tabIndex = 0;
    state.focus = index;
  });
  item.addEventListener("click", (event) => {
    setFocus(index);
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.classList.contains("right") || target.classList.contains("wrong")) judge(hit, target.classList.contains("right") ? "right" : "wrong");
    else if (target.classList.contains("tick") || event.ctrlKey || event.metaKey) choose(hit);
    else if (event.shiftKey) chooseTo(index);
    else detailWanted.send(index);
  });
  mark(item, hit, index);
  return item;
}

/**
 * What the pointer finds on a card; by keyboard and for screen readers there are keys, and buttons in the detail view.
 * @param {Hit} hit
 */
function hiddenMarks(hit) {
  const all = hit.score === undefined ? ["tick"] : ["tick", "right", "wrong"];
  return all.map((name) => {
    const made = make("span", `mark ${name}`, { tick: "✓", right: "+", wrong: "−" }[name]);
    made.setAttribute("aria-hidden", "true");
    made.title = { tick: "Choose (Space)", right: "Right: rank such pictures higher (+)", wrong: "Wrong: rank such pictures lower (−)" }[name] ?? "";
    return made;
  });
}

/**
 * Show on a card what may change while it is there.
 * @param {HTMLElement} item
 * @param {Hit} hit
 * @param {number} index
 */
function mark(item, hit, index) {
  item.setAttribute("aria-selected", String(state.chosen.has(keyOf(hit))));
  item.setAttribute("aria-label", label(hit));
  item.setAttribute("aria-posinset", String(index + 1));
  item.setAttribute("aria-setsize", state.complete ? String(state.hits.length) : "-1");
  item.dataset.judged = state.judged.get(keyOf(hit)) ?? "";
  item.tabIndex = index === state.focus ? 0 : -1;
  const stack = item.querySelector(".stack");
  if (stack) stack.textContent = others(hit)[0] ?? "";
}

export const columnsOfGrid = () => getComputedStyle($("hits")).gridTemplateColumns.split(" ").length;

/** Make the rows in sight and those within one window's height of it; remove the others. */
function draw() {
  const grid = $("hits");
  if (!state.hits.length) {
    cards.clear();
    grid.replaceChildren();
    grid.style.padding = "0";
    return;
  }
  const columns = columnsOfGrid();
  if (!rowHeight) measure();
  const rows = Math.ceil(state.hits.length / columns);
  const top = grid.getBoundingClientRect().top;
  const first = clamp(Math.floor((-top - innerHeight) / rowHeight), 0, rows - 1);
  const last = clamp(Math.ceil((2 * innerHeight - top) / rowHeight), first + 1, rows);
  const wanted = new Map();
  for (let index = first * columns; index < Math.min(last * columns, state.hits.length); index += 1) {
    wanted.set(index, cards.get(index) ?? card(state.hits[index], index));
  }
  const held = cards.get(state.focus);
  if (held && held === document.activeElement && !wanted.has(state.focus)) grid.focus({ preventScroll: true });
  if (wanted.size !== cards.size || [...wanted.keys()].some((index) => !cards.has(index))) show(wanted);
  grid.style.paddingTop = `${first * rowHeight}px`;
  grid.style.paddingBottom = `${(rows - last) * rowHeight}px`;
  scrolledTo.send(clamp(Math.ceil((headerHeight() - top - 1) / rowHeight), 0, rows - 1) * columns); // whole rows alone
  if (!state.complete && grid.getBoundingClientRect().bottom < innerHeight + NEAR_END_PX) moreWanted.send();
}

/**
 * Put cards into the grid; those that are there stay as they are, with the focus and their pictures.
 * @param {Map<number, HTMLElement>} wanted
 */
function show(wanted) {
  for (const [index, item] of cards) if (!wanted.has(index)) item.remove();
  const grid = $("hits");
  let before = /** @type {Element | null} */ (grid.firstElementChild);
  for (const item of wanted.values()) {
    if (item === before) before = before.nextElementSibling;
    else grid.insertBefore(item, before);
  }
  cards = wanted;
}

/** All cards are as high: the first one tells. */
function measure() {
  const grid = $("hits");
  const probe = card(state.hits[0], 0);
  grid.append(probe);
  rowHeight = probe.offsetHeight + Number.parseFloat(getComputedStyle(grid).rowGap);
  probe.remove();
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** What the header covers of the window. */
function headerHeight() {
  const header = /** @type {HTMLElement} */ (document.querySelector("header"));
  return getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
}

/**
 * Scroll so that a hit is in sight: at the top, or only as far as needed.
 * @param {number} index
 */
export function scrollToHit(index, { nearest = false } = {}) {
  if (!rowHeight) return;
  const margin = 12;
  const top = $("hits").getBoundingClientRect().top + Math.floor(index / columnsOfGrid()) * rowHeight;
  const [above, below] = [headerHeight() + margin, innerHeight - ($("chosen").hidden ? 0 : $("chosen").offsetHeight) - margin];
  if (!nearest || top < above) scrollBy({ top: top - above });
  else if (top + rowHeight > below) scrollBy({ top: Math.min(top - above, top + rowHeight - below) });
  draw();
}

/** @param {number} index */
export function setFocus(index, { scroll = false } = {}) {
  if (!state.hits.length) return;
  const place = clamp(index, 0, state.hits.length - 1);
  if (scroll || !cards.has(place)) scrollToHit(place, { nearest: true });
  cards.get(place)?.focus({ preventScroll: true });
}

export function focusHit() {
  if (state.hits.length) setFocus(state.focus);
}

function markAll() {
  for (const [index, item] of cards) mark(item, state.hits[index], index);
}

let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

// Where nothing has a time, cards have no room for it.
aboutKnown.add(() => $("hits").classList.toggle("timeless", state.about?.first_time === null));
hitsChanged.add(() => {
  cards = new Map();
  rowHeight = 0;
  $("hits").replaceChildren();
  draw();
});
hitsAdded.add(() => {
  markAll();
  draw();
});
chosenChanged.add(markAll);
addEventListener("scroll", drawSoon, { passive: true });
addEventListener("resize", () => {
  rowHeight = 0;
  drawSoon();
});
