// The search page: its modules, and its start.

import "./keyboard.js";
import "./detail.js";
import "./attention.js";
import "./frame.js";
import "./removal.js";
import "./part_weights.js";
import "./cameras.js";
import "./calendar.js";
import "./galleries.js";
import { restore } from "./address.js";
import { call } from "./api.js";
import { $ } from "./dom.js";
import { aboutKnown, searchWanted, state } from "./state.js";
import { showFailure, showTotal } from "./views.js";

async function start() {
  try {
    const gallery = new URLSearchParams(location.search).get("gallery");
    state.about = await (await call(`/api/v1/columns${gallery ? `?gallery=${encodeURIComponent(gallery)}` : ""}`)).json();
    showTotal(state.about?.total ?? 0);
    aboutKnown.send();
    restore();
  } catch (error) {
    showFailure(error);
  }
}

$("retry").addEventListener("click", () => (state.about ? searchWanted.send({}) : start()));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target === dialog || target.closest("[data-close]")) dialog.close();
  });
}
start();
