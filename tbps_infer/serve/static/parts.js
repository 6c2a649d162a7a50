// The parts of a score, each with its stripe of the picture; stripes are selected to search with them alone.

import { $, bar, make, makeButton } from "./dom.js";
import { likeParts } from "./examples.js";
import { state } from "./state.js";

/** @import { Hit, Segment } from "./api.js" */

const PART = /^fine\.(\d+)$/;

/** @type {Hit | undefined} */
let shown;
/** @type {Set<number>} Stripes from the top. */
let selected = new Set();

const fineParts = () => (state.about?.segments ?? []).filter((each) => PART.test(each.name));

/** @param {Hit} hit */
export function showParts(hit) {
  shown = hit;
  selected = new Set();
  $("parts").replaceChildren(...(state.about?.segments ?? []).map((segment) => row(segment, hit.split?.[segment.name])));
  $("parts-hint").hidden = !fineParts().length;
  showSelected();
}

/**
 * @param {Segment} segment
 * @param {number} [share]
 */
function row(segment, share) {
  const item = make("li");
  const part = PART.exec(segment.name);
  const number = Number(part?.[1]);
  const name = part ? makeButton(segment.name, () => toggle(number)) : make("span", "", segment.name);
  item.append(name);
  if (share !== undefined) {
    const most = state.most[segment.name] ?? segment.weight;
    item.append(bar(most ? share / most : 0), make("span", "", `${share.toFixed(3)} of ${most.toFixed(3)}`));
  }
  if (part) {
    name.dataset.part = part[1];
    name.title = "The stripe of the picture that this part belongs to";
    const show = () => showStripe(number, number);
    for (const event of ["pointerenter", "focusin"]) item.addEventListener(event, show);
    for (const event of ["pointerleave", "focusout"]) item.addEventListener(event, showSelected);
  }
  return item;
}

/** @param {number} part */
function toggle(part) {
  if (!selected.delete(part)) selected.add(part);
  showSelected();
}

/**
 * Mark the stripes from one to another.
 * @param {number} first
 * @param {number} last
 */
function showStripe(first, last) {
  const [stripe, count] = [$("stripe"), fineParts().length || 1];
  stripe.style.top = `${(100 * first) / count}%`;
  stripe.style.height = `${(100 * (last - first + 1)) / count}%`;
  stripe.hidden = false;
}

function showSelected() {
  for (const each of /** @type {NodeListOf<HTMLElement>} */ ($("parts").querySelectorAll("button"))) {
    each.setAttribute("aria-pressed", String(selected.has(Number(each.dataset.part))));
  }
  const search = $("parts-search");
  search.hidden = !selected.size;
  search.textContent = `Search with ${[...selected].sort((one, other) => one - other).map((part) => `fine.${part}`).join(", ")}`;
  $("stripe").hidden = !selected.size;
  if (selected.size) showStripe(Math.min(...selected), Math.max(...selected));
}

/**
 * The stripe that a pointer is on.
 * @param {PointerEvent} event
 */
function stripeAt(event) {
  const box = $("detail-picture").getBoundingClientRect();
  const count = fineParts().length;
  return Math.min(count - 1, Math.max(0, Math.floor((count * (event.clientY - box.top)) / box.height)));
}

/** @type {number | null} Where a drag over the picture began. */
let begun = null;
const frame = $("detail-picture");
frame.addEventListener("pointerdown", (event) => {
  if (!fineParts().length || event.button) return;
  event.preventDefault(); // else the picture itself is dragged
  begun = stripeAt(event);
  frame.setPointerCapture(event.pointerId);
});
frame.addEventListener("pointermove", (event) => {
  if (begun !== null) select(begun, stripeAt(event));
});
frame.addEventListener("pointerup", (event) => {
  if (begun !== null) select(begun, stripeAt(event));
  begun = null;
});
frame.addEventListener("pointercancel", () => { begun = null; });

/**
 * @param {number} one
 * @param {number} other
 */
function select(one, other) {
  const first = Math.min(one, other);
  selected = new Set(Array.from({ length: Math.abs(one - other) + 1 }, (_, index) => first + index));
  showSelected();
}

$("parts-search").addEventListener("click", () => {
  if (shown) likeParts(shown, [...selected].sort((one, other) => one - other).map((part) => `fine.${part}`));
});
