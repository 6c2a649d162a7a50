// The state in the address: what is searched survives a reload, can be sent to others, and has Back and Forward.
// Pictures that were added are too large for an address: the browser keeps them beside it.

import { field } from "./dom.js";
import { FIELDS, sentences } from "./query.js";
import { keyOf, placeOf, ROCCHIO, scrolledTo, searchWanted, state, stateRestored } from "./state.js";

/** @import { Example, PictureExample } from "./state.js" */

const JUDGED = /** @type {const} */ (["right", "wrong"]);
const WEIGHTS = /** @type {const} */ (["query", "relevant", "not_relevant"]);
const SETTLED_MS = 250;

function toAddress() {
  const told = new URLSearchParams();
  for (const sentence of sentences()) told.append("q", sentence);
  for (const [id, [name, usual]] of Object.entries(FIELDS)) {
    const value = field(id).value.trim();
    if (value && value !== usual) told.set(name, value);
  }
  for (const camera of state.cameras) told.append("camera", camera);
  for (const gallery of state.galleries) told.append("gallery", gallery);
  for (const each of state.examples) {
    if ("place" in each) told.append(each.segments ? "part" : "like", [keyOf(each.place), ...(each.segments ?? [])].join(":"));
  }
  for (const [key, how] of state.judged) told.append(how, key);
  for (const name of WEIGHTS) if (state.rocchio[name] !== ROCCHIO[name]) told.set(`weight-${name}`, String(state.rocchio[name]));
  for (const [name, weight] of Object.entries(state.partWeights)) told.append("weight", `${name}:${weight}`);
  return told;
}

/**
 * @param {URLSearchParams} told
 * @param {PictureExample[]} pictures
 */
function fromAddress(told, pictures) {
  const galleries = new Set(state.about?.galleries.map((each) => each.name));
  state.galleries = told.getAll("gallery").filter((name) => galleries.has(name));
  const [first = "", ...others] = told.getAll("q");
  field("sentence").value = first;
  for (const [id, [name, usual]] of Object.entries(FIELDS)) field(id).value = told.get(name) ?? usual;
  state.cameras = new Set(told.getAll("camera"));
  state.examples = [...told.getAll("like"), ...told.getAll("part")].map(recordExample);
  state.examples.push(...pictures.map(withUrl));
  state.judged = new Map(JUDGED.flatMap((how) => told.getAll(how).map((key) => [key, how])));
  state.rocchio = { ...ROCCHIO };
  for (const name of WEIGHTS) if (told.has(`weight-${name}`)) state.rocchio[name] = finite(told.get(`weight-${name}`), ROCCHIO[name]);
  state.partWeights = Object.fromEntries(told.getAll("weight").map((each) => {
    const at = each.lastIndexOf(":");
    return [each.slice(0, at), finite(each.slice(at + 1), 1)];
  }));
  return others;
}

/**
 * @param {string} text
 * @returns {Example}
 */
function recordExample(text) {
  const [key, ...segments] = text.split(":");
  return { place: placeOf(key), ...(segments.length ? { segments } : {}) };
}

/**
 * @param {string | null} text
 * @param {number} otherwise
 */
function finite(text, otherwise) {
  const value = Number(text);
  return text && Number.isFinite(value) ? value : otherwise;
}

/**
 * A picture from an earlier visit has lost its address.
 * @param {PictureExample} example
 * @returns {PictureExample}
 */
function withUrl(example) {
  const bytes = Uint8Array.from(atob(example.picture), (letter) => letter.charCodeAt(0));
  return { ...example, url: URL.createObjectURL(new Blob([bytes])) };
}

/** Begin a new entry of the history, unless the query is the one that is there. */
export function keepInHistory() {
  const told = toAddress();
  const pictures = state.examples.flatMap((each) => ("picture" in each ? [each] : []));
  const now = new URLSearchParams(location.search);
  now.delete("at");
  const names = (/** @type {PictureExample[]} */ list) => JSON.stringify(list.map((each) => each.name));
  if (String(now) === String(told) && names(history.state?.pictures ?? []) === names(pictures)) return;
  history.pushState({ pictures }, "", `${location.pathname}${String(told) ? `?${told}` : ""}`);
}

/** Show what the address says. */
export function restore() {
  const told = new URLSearchParams(location.search);
  extraSentences = fromAddress(told, history.state?.pictures ?? []);
  stateRestored.send();
  searchWanted.send({ remember: false, at: Math.max(0, Math.floor(finite(told.get("at"), 0))) });
}

/** @type {string[]} The sentences after the first of what was restored. */
export let extraSentences = [];

/** @type {number | undefined} */
let settling;
scrolledTo.add((place) => {
  clearTimeout(settling);
  settling = setTimeout(() => {
    const told = new URLSearchParams(location.search);
    if (place) told.set("at", String(place));
    else told.delete("at");
    history.replaceState(history.state, "", `${location.pathname}${String(told) ? `?${told}` : ""}`);
  }, SETTLED_MS);
});

history.scrollRestoration = "manual";
addEventListener("popstate", restore);
