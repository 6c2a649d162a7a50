// The sentence, with further ones beside it, and the words in it that the model does not know.

import { $, field, make, makeButton } from "./dom.js";
import { extraSentences } from "./address.js";
import { sentences, showWeights } from "./query.js";
import { searchWanted, stateRestored } from "./state.js";

const MOST = 8;
/** @type {string[]} */
let unknown = [];

/**
 * Underline some words wherever they are in the sentence.
 * @param {string[]} words
 */
export function underline(words) {
  unknown = words;
  showUnknown();
}

// A field cannot underline: the same text lies behind it, invisible but for the lines.
function showUnknown() {
  const text = field("sentence").value;
  const escaped = unknown.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pieces = escaped.length ? text.split(new RegExp(`(${escaped.join("|")})`, "giu")) : [text];
  $("sentence-words").replaceChildren(...pieces.map((piece, index) => make(index % 2 ? "u" : "span", "", piece)));
}

/** @param {string} text */
function addSentence(text) {
  const line = make("div", "line");
  const another = make("input");
  Object.assign(another, { type: "text", value: text, placeholder: "Another sentence about the same person" });
  const place = $("more-sentences").childElementCount + 2;
  another.setAttribute("aria-label", `Sentence ${place}`);
  const remove = makeButton("✕", () => {
    line.remove();
    showCombination();
    if (another.value.trim()) searchWanted.send({});
    $("sentence").focus();
  }, "quiet");
  remove.setAttribute("aria-label", `Remove sentence ${place}`);
  line.append(another, remove);
  $("more-sentences").append(line);
  showCombination();
  return another;
}

function showCombination() {
  const more = $("more-sentences").childElementCount;
  $("combination").hidden = !more;
  /** @type {HTMLButtonElement} */ ($("sentence-add")).disabled = more + 1 >= MOST;
}

field("sentence").addEventListener("input", () => {
  showWeights();
  showUnknown();
});
field("sentence").addEventListener("keydown", (event) => {
  const key = /** @type {KeyboardEvent} */ (event);
  if (key.key !== "Enter" || key.isComposing) return;
  key.preventDefault();
  /** @type {HTMLFormElement} */ ($("search")).requestSubmit();
});
$("sentence-add").addEventListener("click", () => addSentence("").focus());
$("combine").addEventListener("change", () => {
  if (sentences().length > 1) searchWanted.send({});
});
stateRestored.add(() => {
  $("more-sentences").replaceChildren();
  for (const text of extraSentences) addSentence(text);
  showCombination();
  underline([]);
});
