// What can be done with a hit: buttons of the detail view, which other modules add.

import { told } from "./api.js";
import { $, make, makeButton } from "./dom.js";
import { state } from "./state.js";

/** @import { Hit } from "./api.js" */

/**
 * @typedef {object} HitAction
 * @property {string} id The button's id.
 * @property {string} label The button's text, or what gives it for a hit.
 * @property {string} [title]
 * @property {string} [key] A key that does the same, on a focused hit and in the detail view.
 * @property {boolean} [main] Whether it is the first thing to do.
 * @property {(hit: Hit) => boolean} [available] Whether a hit has it; every hit where this is left out.
 * @property {(hit: Hit, panel: HTMLElement) => void | Promise<void>} run What it does. The panel is below the buttons
 *   of the detail view, empty whenever a hit is opened. What it throws is told there.
 */

/** @type {HitAction[]} */
const actions = [];

/**
 * Add a button to every hit, in the order of calls.
 * @param {HitAction} action
 */
export function addHitAction(action) {
  actions.push(action);
  const made = makeButton(action.label, () => shown() && runAction(action, /** @type {Hit} */ (shown())), action.main ? "main" : "");
  made.id = action.id;
  if (action.title) made.title = action.title;
  $("detail-actions").append(made);
}

/** Show the buttons of the hit that has been opened, and an empty panel. */
export function showActions() {
  const hit = shown();
  for (const action of actions) $(action.id).hidden = !hit || !(action.available?.(hit) ?? true);
  $("detail-panel").replaceChildren();
}

/**
 * The action of a key, where the hit has it.
 * @param {string} key
 * @param {Hit} hit
 */
export const actionOfKey = (key, hit) => actions.find((each) => each.key === key && (each.available?.(hit) ?? true));

/**
 * @param {HitAction} action
 * @param {Hit} hit
 */
export async function runAction(action, hit) {
  const panel = $("detail-panel");
  try {
    await action.run(hit, panel);
  } catch (error) {
    if (shown() === hit) panel.replaceChildren(make("p", "warning", told(error)));
  }
}

/** The hit that the detail view shows. */
const shown = () => (state.open === null ? undefined : state.hits[state.open]);
