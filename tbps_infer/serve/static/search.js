// Searching: the query is sent, what was found is shown, and more of it while the page scrolls. Without a query the
// newest records are shown in the same way.

import { keepInHistory } from "./address.js";
import { ask, isAbort, told } from "./api.js";
import { showTimeline } from "./timeline.js";
import { $, make, number } from "./dom.js";
import { focusHit, scrollToHit } from "./hits.js";
import { filter, filtersUsed, isEmpty, query, showWeights } from "./query.js";
import { rememberSentence } from "./remembered.js";
import { underline } from "./sentences.js";
import { hitsAdded, keyOf, moreWanted, searchWanted, state } from "./state.js";
import { only, showBelow, showFailure, showTotal, tell } from "./views.js";

/** @import { Browsed, Found, Hit } from "./api.js" */

const FIRST_PAGE = 24;
const PAGE = 96;
const LARGEST_PAGE = 200;

/** @type {AbortController | undefined} */
let running;

/** Ask for what the fields say; `at` is the place of a hit that was in sight. */
export async function search({ remember = true, at = 0 } = {}) {
  const asked = query();
  const browsing = isEmpty(asked);
  const most = Math.min(state.about?.limits.hits ?? LARGEST_PAGE, LARGEST_PAGE);
  const k = Math.min(most, at ? at + FIRST_PAGE : FIRST_PAGE);
  const started = performance.now();
  const found = await busy(async (signal) => {
    const answer = await page(browsing ? null : asked, 0, k, signal);
    Object.assign(state, { asked: browsing ? null : asked, hits: [], loaded: 0, focus: 0, most: answer.most });
    state.chosen.clear();
    add(answer, k);
    if (remember) {
      asked.texts.forEach(rememberSentence);
      keepInHistory();
    }
    return answer;
  });
  if (!found) return;
  showTotal(found.total);
  showWeights();
  underline(found.unknown);
  if (browsing) showNewest(found, asked.exclude.length > 0);
  else showFound(found, performance.now() - started);
  if (at) await scrollBackTo(at);
  else if (!browsing) showBelow(found.hits.length ? "status" : "empty");
}

async function more() {
  if (state.complete || !$("busy").hidden) return;
  const k = Math.min(PAGE, depth() - state.loaded);
  await busy(async (signal) => add(await page(state.asked, state.loaded, k, signal), k), tell);
  hitsAdded.send();
}

/**
 * One page of hits, or of the newest records where there is no query.
 * @param {import("./api.js").Query | null} asked
 * @param {number} skip
 * @param {number} k
 * @param {AbortSignal} signal
 * @returns {Promise<Found & { timeline: import("./api.js").Timeline | null }>}
 */
async function page(asked, skip, k, signal) {
  if (asked) return { timeline: null, ... /** @type {Found} */ (await ask("/api/v1/search", { ...asked, skip, k }, signal)) };
  /** @type {Browsed} */
  const { records, passing, total, timeline } = await ask("/api/v1/browse", { gallery: state.galleries, filter: filter(), skip, k }, signal);
  return { hits: records, searched: passing, total, timeline, warnings: [], unknown: [], most: {} };
}

/**
 * Add a page to the hits: what looks like a better hit goes onto its stack.
 * @param {{ hits: Hit[], searched: number }} found
 * @param {number} wanted
 */
function add(found, wanted) {
  const known = new Set(state.hits.map(keyOf)); // the gallery may have changed between two pages
  const byRank = new Map(state.hits.map((hit) => [hit.rank, hit]));
  for (const hit of found.hits) {
    const under = hit.stack ? byRank.get(hit.stack) : undefined;
    if (under) (under.alike ??= []).push(hit);
    else if (!known.has(keyOf(hit))) {
      state.hits.push(hit);
      byRank.set(hit.rank, hit);
    }
  }
  state.loaded += found.hits.length;
  state.complete = found.hits.length < wanted || state.loaded >= Math.min(found.searched, depth());
}

/** How many can be loaded. */
function depth() {
  if (!state.asked) return Infinity;
  return (state.asked.alike === null ? state.about?.limits.depth : state.about?.limits.stacked) ?? 0;
}

/**
 * Do something that can be cut short by the next search, and show that it runs and how it failed.
 * @template Result
 * @param {(signal: AbortSignal) => Promise<Result>} work
 * @param {(text: string) => void} [tellOnly] Told of a failure instead of showing it in place of the hits.
 */
async function busy(work, tellOnly) {
  running?.abort();
  const mine = (running = new AbortController());
  $("busy").hidden = false;
  if (!tellOnly) $("hits").classList.add("old");
  try {
    return await work(mine.signal);
  } catch (error) {
    if (isAbort(error)) return undefined;
    if (tellOnly) tellOnly(told(error));
    else showFailure(error);
    state.complete = true;
    return undefined;
  } finally {
    if (running === mine) {
      $("busy").hidden = true;
      $("hits").classList.remove("old");
    }
  }
}

/** @param {number} at */
async function scrollBackTo(at) {
  while (state.hits.length <= at && !state.complete) await more();
  scrollToHit(Math.min(at, state.hits.length - 1));
}

/**
 * @param {Found} found
 * @param {number} milliseconds
 */
function showFound(found, milliseconds) {
  only(found.hits.length ? null : "empty");
  $("empty-clear").hidden = !filtersUsed();
  $("warnings").replaceChildren(...found.warnings.map((text) => make("li", "warning", text)));
  tell(found.hits.length ? `The ${number(found.hits.length)} best of ${among(found)}, in ${Math.max(1, Math.round(milliseconds))} ms` : "");
}

/**
 * @param {Found & { timeline: import("./api.js").Timeline | null }} found
 * @param {boolean} excludes
 */
function showNewest(found, excludes) {
  only("start");
  showTimeline(found.timeline);
  $("newest-title").textContent = found.hits.length ? `Newest of ${among(found)}` : "No picture passes the filters";
  tell(excludes ? "Describe the person as well." : "");
}

/** @param {Found} found */
const among = (found) => (found.searched === found.total ? number(found.total) : `${number(found.searched)} that pass the filters`);

searchWanted.add(async ({ remember, focus, at }) => {
  await search({ remember, at });
  if (focus) focusHit();
});
moreWanted.add(more);

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  searchWanted.send({ focus: true });
});
