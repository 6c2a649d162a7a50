// One hit in full: its picture, what is known about it, and which parts its score comes from.

import { showActions } from "./actions.js";
import { call, recordPath, told } from "./api.js";
import { $, button, dialog, image, make, makeButton } from "./dom.js";
import { showChosen } from "./chosen.js";
import { mostOfAll, setFocus } from "./hits.js";
import { showParts } from "./parts.js";
import { detailWanted, state } from "./state.js";

/** @import { Facts, Hit, Value } from "./api.js" */

/** @param {number} index */
async function openDetail(index) {
  const hit = state.hits[index];
  if (!hit) return;
  state.open = index;
  button("previous").disabled = index === 0;
  button("next").disabled = index === state.hits.length - 1;
  showAlike(hit);
  showChosen();
  if (!dialog("detail").open) dialog("detail").showModal();
  await show(hit);
}

/**
 * Show a hit: the one that was opened, or one of its stack.
 * @param {Hit} hit
 */
async function show(hit) {
  const index = state.open;
  $("detail-title").textContent = hit.name;
  $("detail-score").textContent = hit.score === undefined ? "" : `Rank ${hit.rank} · score ${hit.score.toFixed(4)} of ${Number(mostOfAll().toFixed(2))} at most`;
  image("detail-picture").alt = `Picture ${hit.name}`;
  image("detail-picture").src = recordPath(hit, "/picture");
  showParts(hit);
  showMetadata(hit.metadata);
  tellState("");
  showActions();
  try {
    /** @type {Facts} */
    const facts = await (await call(recordPath(hit))).json();
    if (state.open !== index || $("detail-title").textContent !== hit.name) return;
    showMetadata({ ...facts.metadata, record: facts.record, file: facts.path });
    tellState(facts.state === "same" ? "" : facts.state === "missing"
      ? "The file is not there any more."
      : "The file has changed since it was embedded: the score is that of the earlier one.");
  } catch (error) {
    tellState(told(error));
  }
}

/**
 * The pictures that were stacked on a hit, to look at.
 * @param {Hit} hit
 */
function showAlike(hit) {
  const all = hit.alike?.length ? [hit, ...hit.alike] : [];
  $("alike-part").hidden = !all.length;
  $("alike-title").textContent = `${all.length} pictures that look the same`;
  $("alike").replaceChildren(...all.map((each) => {
    const made = makeButton("", () => show(each));
    const picture = make("img");
    picture.src = recordPath(each, "/thumbnail");
    picture.alt = each.score === undefined ? each.name : `Rank ${each.rank}, ${each.name}`;
    made.append(picture);
    return made;
  }));
}

/** @param {string} text */
function tellState(text) {
  $("detail-state").hidden = !text;
  $("detail-state").textContent = text;
}

/** @param {Record<string, Value>} metadata */
function showMetadata(metadata) {
  $("metadata").replaceChildren(...Object.entries(metadata).flatMap(([name, value]) => [make("dt", "", name), make("dd", "", String(value))]));
}

detailWanted.add(openDetail);
$("previous").addEventListener("click", () => openDetail((state.open ?? 0) - 1));
$("next").addEventListener("click", () => openDetail((state.open ?? 0) + 1));
$("detail").addEventListener("close", () => {
  const index = state.open;
  state.open = null;
  if (index !== null && state.hits.length) setFocus(index, { scroll: true });
});
