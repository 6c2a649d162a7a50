// What each part of an embedding counts: factors of its share of every score, 1 where nothing is changed.

import { $, input, make } from "./dom.js";
import { aboutKnown, searchWanted, state, stateRestored } from "./state.js";

function showPartWeights() {
  const segments = state.about?.segments ?? [];
  $("part-weights-open").hidden = segments.length < 2;
  $("part-weights-count").hidden = !Object.keys(state.partWeights).length;
  $("part-weights-count").textContent = String(Object.keys(state.partWeights).length);
  if ($("part-weights-list").childElementCount !== segments.length) $("part-weights-list").replaceChildren(...segments.map(({ name }) => slider(name)));
  for (const { name } of segments) {
    const value = state.partWeights[name] ?? 1;
    input(`part-weight-${name}`).value = String(value);
    $(`part-weight-${name}-value`).textContent = value.toFixed(1);
  }
}

/** @param {string} name */
function slider(name) {
  const label = make("label", "field");
  const range = Object.assign(make("input"), { type: "range", id: `part-weight-${name}`, min: "0", max: "3", step: "0.1" });
  const value = make("output");
  value.id = `part-weight-${name}-value`;
  label.append(make("span", "", name), range, value);
  range.addEventListener("input", () => {
    if (Number(range.value) === 1) delete state.partWeights[name];
    else state.partWeights[name] = Number(range.value);
    showPartWeights();
  });
  range.addEventListener("change", () => searchWanted.send({}));
  return label;
}

$("part-weights-open").addEventListener("click", () => {
  const hidden = !$("part-weights").hidden;
  $("part-weights").hidden = hidden;
  $("part-weights-open").setAttribute("aria-expanded", String(!hidden));
});
$("part-weights-reset").addEventListener("click", () => {
  state.partWeights = {};
  showPartWeights();
  searchWanted.send({});
});
aboutKnown.add(showPartWeights);
stateRestored.add(showPartWeights);
