// Back to the video: the frame that a hit was cropped from, and the seconds around it.

import { addHitAction } from "./actions.js";
import { call, recordPath } from "./api.js";
import { make } from "./dom.js";

addHitAction({
  id: "detail-frame",
  label: "Show the frame",
  key: "v",
  available: (hit) => typeof hit.metadata.video === "string",
  async run(hit, panel) {
    const frame = await shown(recordPath(hit, "/frame"), "The frame, with a box around the person");
    panel.replaceChildren(frame);
    panel.append(await shown(recordPath(hit, "/strip"), "The three seconds before and after it"));
  },
});

/**
 * A picture that the server makes, with a link to it alone.
 * @param {string} path
 * @param {string} text
 */
async function shown(path, text) {
  const [link, picture] = [make("a"), make("img")];
  const address = URL.createObjectURL(await (await call(path)).blob());
  Object.assign(link, { href: address, target: "_blank", rel: "noopener", className: "frame" });
  Object.assign(picture, { src: address, alt: text });
  link.append(picture);
  return link;
}
