// Which records are searched, and how hits are grouped.

import { $, field } from "./dom.js";
import { filtersUsed } from "./query.js";
import { aboutKnown, searchWanted, state, stateRestored } from "./state.js";

function showFilterCount() {
  $("filters-count").hidden = !filtersUsed();
  $("filters-count").textContent = String(filtersUsed());
  $("start-clear").hidden = !filtersUsed();
}

export function filtersChanged() {
  showFilterCount();
  searchWanted.send({});
}

function clearFilters() {
  for (const id of ["after", "before", "where"]) field(id).value = "";
  state.cameras.clear();
  aboutKnown.send();
  filtersChanged();
}

export function toggleFilters() {
  const hidden = !$("filters").hidden;
  $("filters").hidden = hidden;
  $("filters-open").setAttribute("aria-expanded", String(!hidden));
  if (!hidden) /** @type {HTMLElement | null} */ ($("filters").querySelector("button:not([hidden]), input:not([hidden])"))?.focus();
}

/**
 * Show the filters, and go to one.
 * @param {string} id
 */
export function openFilters(id) {
  if ($("filters").hidden) toggleFilters();
  $(id).focus();
}

aboutKnown.add(() => {
  showFilterCount();
  $("where-help").textContent = `Comparisons joined by and, or, not; over: ${["record", "path", ...(state.about?.columns ?? [])].join(", ")}`;
});
stateRestored.add(showFilterCount);
for (const id of ["after", "before", "where", "group", "image-weight"]) $(id).addEventListener("change", filtersChanged);
$("filters-open").addEventListener("click", toggleFilters);
for (const id of ["filters-clear", "empty-clear", "start-clear"]) $(id).addEventListener("click", clearFilters);
