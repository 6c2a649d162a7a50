// Example pictures of the query: records of the gallery, and files that are chosen, dropped or pasted.

import { addHitAction } from "./actions.js";
import { Failure, thumbnail } from "./api.js";
import { $, closeDialogs, input, make, makeButton } from "./dom.js";
import { showWeights } from "./query.js";
import { searchWanted, state } from "./state.js";
import { showFailure } from "./views.js";

/** @import { Hit } from "./api.js" */

export function showExamples() {
  $("examples").replaceChildren(...state.examples.map((each, index) => {
    const chip = make("span", "example");
    const picture = make("img");
    picture.alt = "";
    picture.src = each.url;
    const name = "like" in each ? `like record ${each.like}` : each.name;
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
  state.examples = [{ like: hit.record, url: thumbnail(hit.record) }];
  input("sentence").value = "";
  showExamples();
  searchWanted.send({ focus: true });
  scrollTo({ top: 0 });
}

/** @param {File | null | undefined} file */
async function addPicture(file) {
  if (!file) return;
  const most = (state.about?.limits.body_bytes ?? 8 << 20) * 0.7;
  if (!file.type.startsWith("image/") || file.size > most) {
    const reason = file.size > most ? `is larger than ${Math.round(most / 2 ** 20)} MB` : "is not a picture";
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
