// The fields of the query and of the filters, as a request.

import { $, input } from "./dom.js";
import { state } from "./state.js";

/** @import { Query } from "./api.js" */

export const DEFAULTS = { sentence: "", exclude: "", after: "", before: "", where: "", k: "24", "image-weight": "0.5" };

/** @returns {Query} */
export function query() {
  const text = input("sentence").value.trim();
  const exclude = input("exclude").value.trim();
  return {
    texts: text ? [text] : [],
    pictures: state.examples.flatMap((each) => ("picture" in each ? [each.picture] : [])),
    like: state.examples.flatMap((each) => ("like" in each ? [each.like] : [])),
    exclude: exclude ? [exclude] : [],
    image_weight: Number(input("image-weight").value),
    k: Number(input("k").value),
    per_id: input("per-id").checked,
    filter: {
      camera: [...state.cameras],
      after: input("after").value || null,
      before: input("before").value || null,
      where: input("where").value.trim() || null,
    },
  };
}

export function filtersUsed() {
  return state.cameras.size + ["after", "before", "where"].filter((id) => input(id).value.trim()).length;
}

export function showWeights() {
  $("weights").hidden = !state.examples.length || !input("sentence").value.trim();
}
