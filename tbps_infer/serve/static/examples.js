// Example pictures of the query: records of the gallery, and files that are chosen, dropped or pasted.

import { addHitAction } from "./actions.js";
import { Failure, recordPath } from "./api.js";
import { $, closeDialogs, field, input, make, makeButton } from "./dom.js";
import { showWeights } from "./query.js";
import { searchWanted, state, stateRestored } from "./state.js";
import { showFailure } from "./views.js";

/** @import { Hit } from "./api.js" */

function showExamples() {
  $("examples").replaceChildren(...state.examples.map((each, index) => {
    const chip = make("span", "example");
    const picture = make("img");
    picture.alt = "";
    picture.src = "place" in each ? recordPath(each.place, "/thumbnail") : each.url;
    const name = "picture" in each ? each.name : each.segments ? `${each.segments.join(", ")} of record ${each.place.record}` : `like record ${each.place.record}`;
    const remove = makeButton("✕", () => {
      state.examples.splice(index, 1);
      showExamples();
      searchWanted.send({});
      $("sentence").focus();
    });
    remove.setAttribute("aria-label", `Remove ${name}`);
    chip.append(picture, make("span", "", name), remove);
    return chip;
  }));
  showWeights();
}

/** @param {Hit} hit */
function moreLike(hit) {
  closeDialogs();
  state.examples = [{ place: { gallery: hit.gallery, record: hit.record } }];
  state.judged.clear();
  field("sentence").value = "";
  showExamples();
  searchWanted.send({ focus: true });
  scrollTo({ top: 0 });
}

/** @param {File | null | undefined} file */
async function addPicture(file) {
  if (!file) return;
  const largest = (state.about?.limits.body_bytes ?? 8 << 20) * 0.7;
  if (!file.type.startsWith("image/") || file.size > largest) {
    const reason = file.size > largest ? `is larger than ${Math.round(largest / 2 ** 20)} MB` : "is not a picture";
    showFailure(new Failure(`${file.name} ${reason}.`, "Choose a crop of one person."));
    return;
  }
  const data = await asDataUrl(file);
  const added = { picture: data.slice(data.indexOf(",") + 1), name: file.name || "picture", url: URL.createObjectURL(file) };
  state.examples = [...state.examples, added].slice(-(state.about?.limits.pictures ?? 4));
  showExamples();
  searchWanted.send({});
}

/**
 * @param {File} file
 * @returns {Promise<string>}
 */
function asDataUrl(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

/**
 * Search with some parts of a hit, beside what there is.
 * @param {Hit} hit
 * @param {string[]} segments
 */
export function likeParts(hit, segments) {
  closeDialogs();
  const most = state.about?.limits.pictures ?? 4;
  state.examples = [...state.examples, { place: { gallery: hit.gallery, record: hit.record }, segments }].slice(-most);
  showExamples();
  searchWanted.send({ focus: true });
  scrollTo({ top: 0 });
}

stateRestored.add(showExamples);
addHitAction({ id: "detail-like", label: "More like this", key: "m", main: true, run: moreLike });

$("picture-choose").addEventListener("click", () => $("picture").click());
$("picture").addEventListener("change", () => {
  addPicture(input("picture").files?.[0]);
  input("picture").value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("drop");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("drop");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("drop");
  addPicture(event.dataTransfer?.files[0]);
});
addEventListener("paste", (event) => addPicture(event.clipboardData?.files[0]));
