// Cameras, with how many pictures each has: a list that can be searched, and the largest ones on the start page.

import { $, field, make, makeButton, number } from "./dom.js";
import { filtersChanged, openFilters } from "./filters.js";
import { aboutKnown, state, stateRestored } from "./state.js";

const MOST_SHOWN = 40;
const MOST_ON_START = 8;

function showCameras() {
  const all = Object.entries(state.about?.cameras ?? {});
  const found = field("camera-find").value.trim().toLowerCase();
  const matching = all.filter(([name]) => name.toLowerCase().includes(found));
  const ordered = [...matching.filter(([name]) => state.cameras.has(name)), ...matching.filter(([name]) => !state.cameras.has(name))];
  $("cameras-field").hidden = !all.length;
  $("camera-find").hidden = all.length <= MOST_ON_START;
  $("cameras").replaceChildren(...ordered.slice(0, MOST_SHOWN).map(chip));
  const rest = ordered.length - MOST_SHOWN;
  $("cameras-rest").textContent = !matching.length ? "No camera has this in its name." : rest > 0 ? `and ${number(rest)} more: type a part of the name` : "";
  const largest = [...all].sort((one, other) => other[1] - one[1]).slice(0, MOST_ON_START);
  $("start-cameras").replaceChildren(...largest.map(chip));
  if (all.length > MOST_ON_START) $("start-cameras").append(makeButton(`All ${number(all.length)} cameras`, () => openFilters("camera-find"), "quiet"));
  $("start-cameras-part").hidden = !all.length;
}

/** @param {[string, number]} camera */
function chip([name, count]) {
  const made = makeButton(name, () => {
    if (!state.cameras.delete(name)) state.cameras.add(name);
    for (const each of document.querySelectorAll("#cameras button, #start-cameras button")) {
      if (each.hasAttribute("aria-pressed")) each.setAttribute("aria-pressed", String(state.cameras.has(each.firstChild?.textContent ?? "")));
    }
    filtersChanged();
  });
  made.setAttribute("aria-pressed", String(state.cameras.has(name)));
  made.append(make("small", "", number(count)));
  return made;
}

field("camera-find").addEventListener("input", showCameras);
aboutKnown.add(showCameras);
stateRestored.add(showCameras);
