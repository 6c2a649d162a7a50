// Finding and making elements. Text comes in as text, never as markup.

/**
 * The element of an id, which the page has.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function $(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`The page has no element ${id}.`);
  return element;
}

/** @typedef {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} Field */

export const field = (/** @type {string} */ id) => /** @type {Field} */ ($(id));
export const input = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ ($(id));
export const button = (/** @type {string} */ id) => /** @type {HTMLButtonElement} */ ($(id));
export const dialog = (/** @type {string} */ id) => /** @type {HTMLDialogElement} */ ($(id));
export const image = (/** @type {string} */ id) => /** @type {HTMLImageElement} */ ($(id));

/**
 * A new element.
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {string} [className]
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * A new button that does not submit a form.
 * @param {string} text
 * @param {() => void} onClick
 * @param {string} [className]
 */
export function makeButton(text, onClick, className) {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/**
 * A number as people read it.
 * @param {number} value
 */
export const number = (value) => value.toLocaleString("en");

/**
 * "2024-06-11T06:59:00+02:00" to the minute, with its zone, as people write it; any other form as it is.
 * @param {string} time
 */
export function shortTime(time) {
  const found = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::\d\d(?:[.,]\d+)?)? ?(Z|[+-]\d\d:?\d\d)?$/.exec(time);
  return found ? [found[1], found[2], found[3] === "Z" ? "UTC" : found[3]].filter(Boolean).join(" ") : time;
}

/**
 * A bar that is filled by a share, 0 to 1.
 * @param {number} share
 */
export function bar(share) {
  const outer = make("div", "bar");
  const inner = make("i");
  inner.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  outer.append(inner);
  return outer;
}

export function closeDialogs() {
  for (const open of /** @type {NodeListOf<HTMLDialogElement>} */ (document.querySelectorAll("dialog[open]"))) open.close();
}
