// Earlier sentences, kept in this browser only, and examples for who has none.

import { $, field, makeButton } from "./dom.js";
import { searchWanted } from "./state.js";

const EXAMPLES = [
  "a woman in a red coat with a grey backpack",
  "a man in a white shirt and black trousers",
  "a woman with long dark hair wearing a blue dress",
  "a man with a cap, a green jacket and white shoes",
];
const STORED = "tbps-history";
const MOST_REMEMBERED = 20;
const MOST_RECENT = 6;

/** @returns {string[]} */
function remembered() {
  try {
    const list = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return Array.isArray(list) ? list.filter((each) => typeof each === "string") : [];
  } catch {
    return [];
  }
}

/** @param {string} text */
export function rememberSentence(text) {
  const list = [text, ...remembered().filter((each) => each !== text)].slice(0, MOST_REMEMBERED);
  try {
    localStorage.setItem(STORED, JSON.stringify(list));
  } catch { /* a private window may have no storage */ }
  showRemembered();
}

function showRemembered() {
  const list = remembered();
  $("recent").replaceChildren(...list.slice(0, MOST_RECENT).map(sentenceChip));
  $("recent-part").hidden = !list.length;
}

/** @param {string} text */
function sentenceChip(text) {
  return makeButton(text, () => {
    field("sentence").value = text;
    searchWanted.send({ focus: true });
  });
}

$("forget").addEventListener("click", () => {
  localStorage.removeItem(STORED);
  showRemembered();
});
$("suggestions").replaceChildren(...EXAMPLES.map(sentenceChip));
showRemembered();
