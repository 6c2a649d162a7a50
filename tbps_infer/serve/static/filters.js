// Which records are searched.

import { $, input, make, makeButton, number } from "./dom.js";
import { filtersUsed } from "./query.js";
import { aboutKnown, searchWanted, state } from "./state.js";

export function showCameras() {
  const cameras = Object.entries(state.about?.cameras ?? {});
  $("cameras-field").hidden = !cameras.length;
  $("cameras").replaceChildren(...cameras.map(([name, count]) => {
    const chip = makeButton(name, () => {
      if (!state.cameras.delete(name)) state.cameras.add(name);
      chip.setAttribute("aria-pressed", String(state.cameras.has(name)));
      filtersChanged();
    });
    chip.setAttribute("aria-pressed", String(state.cameras.has(name)));
    chip.append(make("small", "", number(count)));
    return chip;
  }));
  showFilterCount();
}

function showFilterCount() {
  $("filters-count").hidden = !filtersUsed();
  $("filters-count").textContent = String(filtersUsed());
}

function filtersChanged() {
  showFilterCount();
  if (state.asked) searchWanted.send({});
}

function clearFilters() {
  for (const id of ["after", "before", "where"]) input(id).value = "";
  input("per-id").checked = false;
  state.cameras.clear();
  showCameras();
  filtersChanged();
}

export function toggleFilters() {
  const hidden = !$("filters").hidden;
  $("filters").hidden = hidden;
  $("filters-open").setAttribute("aria-expanded", String(!hidden));
  if (!hidden) /** @type {HTMLElement | null} */ ($("filters").querySelector("button, input"))?.focus();
}

aboutKnown.add(() => {
  showCameras();
  $("where-help").textContent = `Comparisons joined by and, or, not; over: ${["record", "path", ...(state.about?.columns ?? [])].join(", ")}`;
});
for (const id of ["after", "before", "where", "k", "per-id", "image-weight"]) $(id).addEventListener("change", filtersChanged);
$("filters-open").addEventListener("click", toggleFilters);
$("filters-clear").addEventListener("click", clearFilters);
$("empty-clear").addEventListener("click", clearFilters);
