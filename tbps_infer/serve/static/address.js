// Back and Forward: what was typed and chosen, with the pictures in memory.

import { input } from "./dom.js";
import { showExamples } from "./examples.js";
import { showCameras } from "./filters.js";
import { DEFAULTS } from "./query.js";
import { searchWanted, state } from "./state.js";

/** @import { Example } from "./state.js" */

/**
 * @typedef {object} Kept
 * @property {Record<string, string>} fields
 * @property {boolean} perId
 * @property {string[]} cameras
 * @property {Example[]} examples
 * @property {string} [key]
 */

export function keepInHistory() {
  const fields = Object.fromEntries(Object.keys(DEFAULTS).map((id) => [id, input(id).value]));
  /** @type {Kept} */
  const kept = { fields, perId: input("per-id").checked, cameras: [...state.cameras], examples: state.examples };
  if (history.state?.key !== key(kept)) history.pushState({ ...kept, key: key(kept) }, "");
}

/** @param {Kept} kept */
function key(kept) {
  return JSON.stringify([kept.fields, kept.perId, kept.cameras, kept.examples.map((each) => ("like" in each ? each.like : each.name))]);
}

/** @param {Kept | null} kept */
function restore(kept) {
  for (const [id, value] of Object.entries(kept?.fields ?? DEFAULTS)) input(id).value = value;
  input("per-id").checked = kept?.perId ?? false;
  state.cameras = new Set(kept?.cameras ?? []);
  state.examples = kept?.examples ?? [];
  showExamples();
  showCameras();
  searchWanted.send({ remember: false });
}

addEventListener("popstate", (event) => restore(event.state));
