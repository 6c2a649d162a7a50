// The fields, and what the state holds beside them, as a request.

import { $, field } from "./dom.js";
import { placeOf, state } from "./state.js";

/** @import { Filter, Query, Reference } from "./api.js" */

/** Stored vectors of near-duplicates have at least this cosine. */
export const ALIKE = 0.97;

/** The fields that an address holds, with the name there and the value that need not be in it. */
export const FIELDS = /** @type {const} */ ({
  exclude: ["not", ""], combine: ["combine", "mean"], "image-weight": ["picture", "0.5"],
  after: ["after", ""], before: ["before", ""], where: ["where", ""], group: ["group", ""],
});

const value = (/** @type {string} */ id) => field(id).value.trim();

const extraFields = () => /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("#more-sentences input"));

export function sentences() {
  return [field("sentence").value, ...[...extraFields()].map((each) => each.value)].map((each) => each.trim()).filter(Boolean);
}

/** @returns {Filter} */
export const filter = () => ({
  camera: [...state.cameras], after: value("after") || null, before: value("before") || null, where: value("where") || null,
});

/** @returns {Query} */
export function query() {
  const judged = (/** @type {string} */ how) => [...state.judged].filter(([, each]) => each === how).map(([key]) => reference(key));
  const records = state.examples.flatMap((each) => ("place" in each ? [each] : []));
  return {
    texts: sentences(),
    combine: value("combine"),
    pictures: state.examples.flatMap((each) => ("picture" in each ? [each.picture] : [])),
    like: records.filter((each) => !each.segments).map((each) => each.place),
    parts: records.flatMap((each) => (each.segments ? [{ record: each.place, segments: each.segments }] : [])),
    exclude: value("exclude") ? [value("exclude")] : [],
    image_weight: Number(value("image-weight")),
    relevant: judged("right"),
    not_relevant: judged("wrong"),
    rocchio: state.rocchio,
    part_weights: state.partWeights,
    per_id: value("group") === "id",
    alike: value("group") === "alike" ? ALIKE : null,
    gallery: state.galleries,
    filter: filter(),
  };
}

/** @param {Query} asked */
export const isEmpty = (asked) => !(asked.texts.length || asked.pictures.length || asked.like.length || asked.parts.length);

/**
 * @param {string} key
 * @returns {Reference}
 */
const reference = (key) => placeOf(key);

export function filtersUsed() {
  return state.cameras.size + ["after", "before", "where"].filter((id) => value(id)).length;
}

export function showWeights() {
  $("weights").hidden = !state.examples.length || !sentences().length;
}
