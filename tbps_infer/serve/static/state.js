// What the page knows, and who is told when it changes: modules do not call each other in circles.

/** @import { About, Hit, Query } from "./api.js" */

/**
 * @typedef {{ like: number, url: string }} LikeExample A record of the gallery.
 * @typedef {{ picture: string, name: string, url: string }} PictureExample A file, in base64.
 * @typedef {LikeExample | PictureExample} Example
 */

/**
 * Functions that are called when something has happened.
 * @template [Value=void]
 */
export class Signal {
  /** @type {((value: Value) => void)[]} */
  #listeners = [];

  /** @param {(value: Value) => void} listener */
  add(listener) {
    this.#listeners.push(listener);
  }

  /** @param {Value} value */
  send(value) {
    for (const listener of this.#listeners) listener(value);
  }
}

export const state = {
  /** @type {About | null} */
  about: null,
  /** @type {Query | null} The last search, as it was sent. */
  asked: null,
  /** @type {Hit[]} */
  hits: [],
  /** @type {Set<number>} Records. */
  chosen: new Set(),
  focus: 0,
  /** @type {number | null} Which hit the detail view shows. */
  open: null,
  /** @type {Example[]} */
  examples: [],
  /** @type {Set<string>} */
  cameras: new Set(),
};

/** The gallery is known: `state.about` is there. */
export const aboutKnown = new Signal();

/** The query changed in another way than by typing; search, and then do what the value says. */
export const searchWanted = /** @type {Signal<{ remember?: boolean, focus?: boolean }>} */ (new Signal());

/** There are other hits, or none. */
export const hitsChanged = new Signal();

/** Other hits are chosen. */
export const chosenChanged = new Signal();

/** A hit is to be shown in the detail view, by its place among the hits. */
export const detailWanted = /** @type {Signal<number>} */ (new Signal());
