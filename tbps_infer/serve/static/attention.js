// What the model looked at, drawn on the crop and the sentence.

import { addHitAction } from "./actions.js";
import { call, recordPath } from "./api.js";
import { make } from "./dom.js";
import { state } from "./state.js";

addHitAction({
  id: "detail-look",
  label: "What it looked at",
  available: () => Boolean(state.about?.attention && state.asked?.texts.length),
  async run(hit, panel) {
    const answer = await call(recordPath(hit, "/attention"), { text: state.asked?.texts[0] });
    const address = URL.createObjectURL(await answer.blob());
    const [link, drawn] = [make("a"), make("img")];
    Object.assign(link, { id: "detail-looked", href: address, target: "_blank", rel: "noopener" });
    drawn.alt = "What the model looked at, in the picture and in the sentence";
    drawn.src = address;
    link.append(drawn);
    panel.replaceChildren(link);
  },
});
