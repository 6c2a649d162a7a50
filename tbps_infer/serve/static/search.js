// Searching: the query is sent, and what was found is shown.

import { keepInHistory } from "./address.js";
import { call, isAbort } from "./api.js";
import { $, make, number } from "./dom.js";
import { focusHit } from "./hits.js";
import { filtersUsed, query, showWeights } from "./query.js";
import { rememberSentence } from "./remembered.js";
import { searchWanted, state } from "./state.js";
import { only, showBelow, showFailure, showStart, showTotal, tell } from "./views.js";

/** @import { Found } from "./api.js" */

/** @type {AbortController | undefined} */
let running;

export async function search({ remember = true } = {}) {
  const asked = query();
  if (!asked.texts.length && !asked.pictures.length && !asked.like.length) {
    showStart();
    tell(asked.exclude.length ? "Describe the person as well." : "");
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  const started = performance.now();
  $("busy").hidden = false;
  $("hits").classList.add("old");
  try {
    /** @type {Found} */
    const found = await (await call("/api/v1/search", asked, mine.signal)).json();
    Object.assign(state, { asked, hits: found.hits, focus: 0 });
    state.chosen.clear();
    if (remember) {
      asked.texts.forEach(rememberSentence);
      keepInHistory();
    }
    showFound(found, performance.now() - started);
  } catch (error) {
    if (!isAbort(error)) showFailure(error);
  } finally {
    if (running === mine) {
      $("busy").hidden = true;
      $("hits").classList.remove("old");
    }
  }
}

/**
 * @param {Found} found
 * @param {number} milliseconds
 */
function showFound(found, milliseconds) {
  showTotal(found.total);
  showWeights();
  only(found.hits.length ? null : "empty");
  $("empty-clear").hidden = !filtersUsed();
  $("warnings").replaceChildren(...found.warnings.map((text) => make("li", "warning", text)));
  showBelow(found.hits.length ? "status" : "empty");
  const among = found.searched === found.total ? number(found.total) : `${number(found.searched)} that pass the filters`;
  tell(found.hits.length ? `The ${number(found.hits.length)} best of ${among}, in ${Math.max(1, Math.round(milliseconds))} ms` : "");
}

searchWanted.add(async ({ remember, focus }) => {
  await search({ remember });
  if (focus) focusHit();
});

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  searchWanted.send({ focus: true });
});
