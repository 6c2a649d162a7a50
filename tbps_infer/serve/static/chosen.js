// Choosing hits, and saving the chosen ones.

import { addHitAction } from "./actions.js";
import { call, told } from "./api.js";
import { $, make } from "./dom.js";
import { chosenChanged, hitsChanged, keyOf, placeOf, state } from "./state.js";
import { tell } from "./views.js";

/** @import { Hit } from "./api.js" */

/** @param {Hit} hit */
export function choose(hit) {
  if (!state.chosen.delete(keyOf(hit))) state.chosen.add(keyOf(hit));
  chosenChanged.send();
}

/**
 * Choose the hits from the last chosen one before a place up to there.
 * @param {number} index
 */
export function chooseTo(index) {
  const last = state.hits.findLastIndex((hit, at) => at < index && state.chosen.has(keyOf(hit)));
  for (let at = last < 0 ? index : last; at <= index; at += 1) state.chosen.add(keyOf(state.hits[at]));
  chosenChanged.send();
}

export function showChosen() {
  $("chosen").hidden = !state.chosen.size;
  $("remove").hidden = !state.about?.removal;
  for (const id of ["save-csv", "save-zip"]) $(id).hidden = !state.asked; // the table holds scores of a query
  $("chosen-count").textContent = `${state.chosen.size} chosen`;
  const pressed = state.open !== null && state.hits[state.open] && state.chosen.has(keyOf(state.hits[state.open]));
  $("detail-choose").setAttribute("aria-pressed", String(pressed));
  $("detail-choose").textContent = pressed ? "Chosen ✓" : "Choose";
}

/** @param {"csv" | "zip"} format */
async function save(format) {
  const records = [...state.chosen].map(placeOf);
  $("busy").hidden = false;
  try {
    const answer = await call("/api/v1/export", { format, records, search: state.asked });
    const missing = answer.headers.get("X-Missing-Records")?.split(",").length ?? 0;
    const link = make("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `hits.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    const rest = missing ? ` ${missing} of the chosen have been removed since.` : "";
    tell(`Saved ${records.length - missing} as hits.${format}.${rest}`);
  } catch (error) {
    tell(told(error));
  } finally {
    $("busy").hidden = true;
  }
}

addHitAction({ id: "detail-choose", label: "Choose", key: " ", run: (hit) => choose(hit) });

chosenChanged.add(showChosen);
hitsChanged.add(showChosen);
$("save-csv").addEventListener("click", () => save("csv"));
$("save-zip").addEventListener("click", () => save("zip"));
$("choose-none").addEventListener("click", () => {
  state.chosen.clear();
  chosenChanged.send();
  document.getElementById(`hit-${state.focus}`)?.focus();
});
