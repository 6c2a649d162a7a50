// Removing chosen hits for good: asked twice, by two buttons at different places.

import { call, told } from "./api.js";
import { $, dialog } from "./dom.js";
import { search } from "./search.js";
import { placeOf, state } from "./state.js";
import { tell } from "./views.js";

/** @param {boolean} again */
function ask(again) {
  const count = state.chosen.size;
  $("removal-title").textContent = again ? `Really remove ${count}? This cannot be undone here.` : `Remove ${count} from the gallery?`;
  $("removal-first").hidden = again;
  $("removal-second").hidden = !again;
  $("removal-problem").hidden = true;
}

async function removeChosen() {
  const records = [...state.chosen].map(placeOf);
  try {
    const gone = await (await call("/api/v1/remove", { records, confirm: records.length })).json();
    dialog("removal").close();
    await search({ remember: false });
    tell(`Removed ${gone.removed}.`);
  } catch (error) {
    $("removal-problem").textContent = told(error);
    $("removal-problem").hidden = false;
  }
}

$("remove").addEventListener("click", () => {
  ask(false);
  dialog("removal").showModal();
});
$("removal-first").addEventListener("click", () => ask(true));
$("removal-second").addEventListener("click", removeChosen);
