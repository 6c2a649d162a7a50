// Judging hits right or wrong: the query moves towards the ones and away from the others, by Rocchio's formula over the
// stored vectors. What each weighs is shown and can be changed.

import { addHitAction } from "./actions.js";
import { $, input } from "./dom.js";
import { chosenChanged, hitsChanged, keyOf, ROCCHIO, searchWanted, state, stateRestored } from "./state.js";

/** @import { Hit } from "./api.js" */

const SLIDERS = /** @type {const} */ (["query", "relevant", "not_relevant"]);

/**
 * Judge a hit, or take the judgement back, and search again.
 * @param {Hit} hit
 * @param {"right" | "wrong"} how
 */
export function judge(hit, how) {
  if (hit.score === undefined) return;
  const key = keyOf(hit);
  if (state.judged.get(key) === how) state.judged.delete(key);
  else state.judged.set(key, how);
  showJudged();
  chosenChanged.send();
  searchWanted.send({});
}

function showJudged() {
  const all = [...state.judged.values()];
  const [right, wrong] = [all.filter((how) => how === "right").length, all.filter((how) => how === "wrong").length];
  $("judged").hidden = !all.length;
  $("judged-count").textContent = `Judged: ${right} right, ${wrong} wrong`;
  for (const name of SLIDERS) {
    input(`rocchio-${name}`).value = String(state.rocchio[name]);
    $(`rocchio-${name}-value`).textContent = state.rocchio[name].toFixed(2);
  }
  const hit = state.open === null ? undefined : state.hits[state.open];
  for (const how of ["right", "wrong"]) {
    $(`detail-${how}`).setAttribute("aria-pressed", String(hit !== undefined && state.judged.get(keyOf(hit)) === how));
  }
}

const isHit = (/** @type {Hit} */ hit) => hit.score !== undefined;
addHitAction({ id: "detail-right", label: "Right", key: "+", title: "Rank such pictures higher (+)", available: isHit, run: (hit) => judge(hit, "right") });
addHitAction({ id: "detail-wrong", label: "Wrong", key: "-", title: "Rank such pictures lower (−)", available: isHit, run: (hit) => judge(hit, "wrong") });

for (const name of SLIDERS) {
  input(`rocchio-${name}`).addEventListener("input", () => {
    state.rocchio[name] = Number(input(`rocchio-${name}`).value);
    showJudged();
  });
  input(`rocchio-${name}`).addEventListener("change", () => searchWanted.send({}));
}
$("judged-clear").addEventListener("click", () => {
  state.judged.clear();
  state.rocchio = { ...ROCCHIO };
  showJudged();
  searchWanted.send({});
});
stateRestored.add(showJudged);
chosenChanged.add(showJudged);
hitsChanged.add(showJudged);
