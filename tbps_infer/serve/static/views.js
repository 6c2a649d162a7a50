// Which part of the page is shown: the start with the newest records, hits, that there are none, or a failure.

import { Failure } from "./api.js";
import { $, number } from "./dom.js";
import { hitsChanged, state } from "./state.js";

/** @typedef {"start" | "empty" | "failure"} View */

/**
 * Show one view, or the hits alone. Only the start has records beside it.
 * @param {View | null} shown
 */
export function only(shown) {
  for (const id of ["start", "empty", "failure"]) $(id).hidden = id !== shown;
  $("warnings").replaceChildren();
  if (shown === "empty" || shown === "failure") {
    Object.assign(state, { hits: [], loaded: 0, complete: true });
    state.chosen.clear();
  }
  hitsChanged.send();
}

/**
 * In a narrow window the fields can fill it: bring what was found into sight, there to the top of the window.
 * @param {string} id
 */
export function showBelow(id) {
  const narrow = matchMedia("(max-width: 620px)").matches;
  requestAnimationFrame(() => $(id).scrollIntoView({ block: narrow ? "start" : "nearest" }));
}

/** @param {unknown} error */
export function showFailure(error) {
  only("failure");
  tell("");
  showBelow("failure");
  const [title, hint] = [$("failure").querySelector("h2"), $("failure").querySelector("p")];
  if (title) title.textContent = error instanceof Error ? error.message : String(error);
  if (hint) hint.textContent = error instanceof Failure ? error.hint : "";
}

/**
 * Say something in the status line, which screen readers read aloud.
 * @param {string} text
 */
export function tell(text) {
  $("status").textContent = text;
}

/** @param {number} total */
export function showTotal(total) {
  $("gallery").textContent = `${number(total)} ${total === 1 ? "record" : "records"}`;
}
