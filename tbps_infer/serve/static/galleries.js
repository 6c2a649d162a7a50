// Which gallery is searched, where the server has several: those with the same model also together.

import { call } from "./api.js";
import { $, field, make, number } from "./dom.js";
import { aboutKnown, searchWanted, state, stateRestored } from "./state.js";

function showGalleries() {
  const all = state.about?.galleries ?? [];
  $("galleries-field").hidden = all.length < 2;
  if (all.length < 2) return;
  const choices = all.map((each) => option([each.name], `${each.name} (${number(each.total)})`));
  const models = Map.groupBy(all, (each) => each.model);
  for (const alike of models.values()) {
    if (alike.length > 1) choices.push(option(alike.map((each) => each.name), `${alike.map((each) => each.name).join(" + ")}, together`));
  }
  $("galleries").replaceChildren(...choices);
  field("galleries").value = JSON.stringify(state.galleries.length ? state.galleries : [all[0].name]);
}

/**
 * @param {string[]} names
 * @param {string} text
 */
const option = (names, text) => Object.assign(make("option", "", text), { value: JSON.stringify(names) });

/** Another gallery has other columns, cameras and perhaps another model: what named records of it is over. */
async function change() {
  state.galleries = JSON.parse(field("galleries").value);
  state.about = await (await call(`/api/v1/columns?gallery=${encodeURIComponent(state.galleries[0])}`)).json();
  state.examples = state.examples.filter((each) => "picture" in each);
  state.judged.clear();
  state.cameras.clear();
  state.partWeights = {};
  aboutKnown.send();
  searchWanted.send({});
}

field("galleries").addEventListener("change", change);
aboutKnown.add(showGalleries);
stateRestored.add(showGalleries);
