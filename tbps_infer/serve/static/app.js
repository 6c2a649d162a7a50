// The search page: its modules, and its start.

import "./keyboard.js";
import "./detail.js";
import "./attention.js";
import "./frame.js";
import "./removal.js";
import { call } from "./api.js";
import { $ } from "./dom.js";
import { showWeights } from "./query.js";
import { aboutKnown, searchWanted, state } from "./state.js";
import { showFailure, showStart, showTotal } from "./views.js";

async function start() {
  try {
    state.about = await (await call("/api/v1/columns")).json();
    showTotal(state.about?.total ?? 0);
    aboutKnown.send();
    showStart();
  } catch (error) {
    showFailure(error);
  }
}

$("sentence").addEventListener("input", showWeights);
$("retry").addEventListener("click", () => (state.about ? searchWanted.send({}) : start()));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target === dialog || target.closest("[data-close]")) dialog.close();
  });
}
start();
