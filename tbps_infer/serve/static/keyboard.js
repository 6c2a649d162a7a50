// Everything by keyboard.

import { actionOfKey, runAction } from "./actions.js";
import { $, dialog } from "./dom.js";
import { toggleFilters } from "./filters.js";
import { columnsOfGrid, focusHit, setFocus } from "./hits.js";
import { detailWanted, state } from "./state.js";

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.matches("select, textarea, input:not([type=checkbox], [type=range])")) {
    if (event.key === "Escape") {
      target.blur();
      focusHit();
    }
    return;
  }
  const open = document.querySelector("dialog[open]");
  const done = open ? open.id === "detail" && onDetailKey(event, target) : onPageKey(event, target);
  if (done) event.preventDefault();
}

/**
 * @param {KeyboardEvent} event
 * @param {HTMLElement} target
 * @returns {boolean} Whether the key means something.
 */
function onDetailKey(event, target) {
  const index = state.open ?? 0;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    detailWanted.send(index + (event.key === "ArrowLeft" ? -1 : 1));
    return true;
  }
  const hit = state.hits[index];
  const action = hit && actionOfKey(event.key, hit);
  if (!action || (event.key === " " && target.closest("button"))) return false;
  runAction(action, hit);
  return true;
}

/**
 * @param {KeyboardEvent} event
 * @param {HTMLElement} target
 * @returns {boolean} Whether the key means something.
 */
function onPageKey(event, target) {
  const inGrid = target.closest("#hits") !== null;
  /** @type {Record<string, () => void>} */
  const keys = { "/": () => /** @type {HTMLTextAreaElement} */ ($("sentence")).select(), "?": () => dialog("help").showModal(), f: toggleFilters };
  if (state.hits.length && (inGrid || target === document.body)) Object.assign(keys, movesFrom(state.focus, inGrid));
  const hit = inGrid ? state.hits[state.focus] : undefined;
  const action = hit && actionOfKey(event.key, hit);
  if (action) runAction(action, hit);
  else if (hit && event.key === "Enter") detailWanted.send(state.focus);
  else if (event.key in keys) keys[event.key]();
  else return false;
  return true;
}

/**
 * @param {number} from
 * @param {boolean} inGrid
 * @returns {Record<string, () => void>}
 */
function movesFrom(from, inGrid) {
  const columns = columnsOfGrid();
  const to = (/** @type {number} */ index) => () => setFocus(index, { scroll: true });
  const toSentence = () => {
    scrollTo({ top: 0 });
    $("sentence").focus();
  };
  return {
    ArrowLeft: to(from - 1), ArrowRight: to(from + 1), Home: to(0), End: to(state.hits.length - 1),
    ArrowUp: from < columns ? toSentence : to(from - columns), ArrowDown: to(inGrid ? from + columns : from),
  };
}

document.addEventListener("keydown", onKey);
$("help-open").addEventListener("click", () => dialog("help").showModal());
