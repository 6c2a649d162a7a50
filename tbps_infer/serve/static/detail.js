// One hit in full: its picture, what is known about it, and which parts its score comes from.

import { showActions } from "./actions.js";
import { call, picture, told } from "./api.js";
import { $, bar, button, dialog, image, make } from "./dom.js";
import { showChosen } from "./chosen.js";
import { setFocus, wholeWeight } from "./hits.js";
import { detailWanted, state } from "./state.js";

/** @import { Facts, Segment, Value } from "./api.js" */

/** @param {number} index */
async function openDetail(index) {
  const hit = state.hits[index];
  if (!hit) return;
  state.open = index;
  $("detail-title").textContent = hit.name;
  $("detail-score").textContent = `Rank ${hit.rank} · score ${hit.score.toFixed(4)} of ${wholeWeight().toFixed(0)} at most`;
  image("detail-picture").alt = `Picture ${hit.name}`;
  image("detail-picture").src = picture(hit.record);
  $("stripe").hidden = true;
  $("parts").replaceChildren(...(state.about?.segments ?? []).map((segment) => partRow(segment, hit.split[segment.name])));
  showMetadata(hit.metadata);
  $("detail-state").hidden = true;
  button("previous").disabled = index === 0;
  button("next").disabled = index === state.hits.length - 1;
  showActions();
  showChosen();
  if (!dialog("detail").open) dialog("detail").showModal();
  try {
    /** @type {Facts} */
    const facts = await (await call(`/api/v1/records/${hit.record}`)).json();
    if (state.open !== index) return;
    showMetadata({ ...facts.metadata, record: facts.record, file: facts.path });
    tellState(facts.state === "same" ? "" : facts.state === "missing"
      ? "The file is not there any more."
      : "The file has changed since it was embedded: the score is that of the earlier one.");
  } catch (error) {
    tellState(told(error));
  }
}

/** @param {string} text */
function tellState(text) {
  $("detail-state").hidden = !text;
  $("detail-state").textContent = text;
}

/**
 * @param {Segment} segment
 * @param {number} share
 */
function partRow(segment, share) {
  const row = make("li");
  const part = /^fine\.(\d+)$/.exec(segment.name);
  row.tabIndex = part ? 0 : -1;
  row.append(make("span", "", segment.name), bar(share / segment.weight), make("span", "", `${share.toFixed(3)} of ${segment.weight.toFixed(3)}`));
  if (part) {
    const count = state.about?.segments.filter((each) => each.name.startsWith("fine.")).length ?? 1;
    const show = () => showStripe(Number(part[1]), count);
    const hide = () => { $("stripe").hidden = true; };
    row.title = "The stripe of the picture that this part belongs to";
    row.addEventListener("pointerenter", show);
    row.addEventListener("focus", show);
    row.addEventListener("pointerleave", hide);
    row.addEventListener("blur", hide);
  }
  return row;
}

/**
 * @param {number} part
 * @param {number} count
 */
function showStripe(part, count) {
  const stripe = $("stripe");
  stripe.style.top = `${(100 * part) / count}%`;
  stripe.style.height = `${100 / count}%`;
  stripe.hidden = false;
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
