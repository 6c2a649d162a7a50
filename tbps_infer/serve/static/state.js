// What the page knows, and who is told when it changes: modules do not call each other in circles.

/** @import { About, Hit, Place, Query } from "./api.js" */

/**
 * @typedef {{ place: Place, segments?: string[] }} RecordExample A record of a gallery, or some parts of it.
 * @typedef {{ picture: string, name: string, url: string }} PictureExample A file, in base64.
 * @typedef {RecordExample | PictureExample} Example
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

export const ROCCHIO = { query: 1, relevant: 0.75, not_relevant: 0.15 };

export const state = {
  /** @type {About | null} */
  about: null,
  /** @type {Query | null} The last search, as it was sent; null while the newest records are shown. */
  asked: null,
  /** @type {Hit[]} What the grid shows: those that were stacked are on another. */
  hits: [],
  /** How many were loaded, with those on stacks, and whether there are more. */
  loaded: 0,
  complete: true,
  /** @type {Record<string, number>} The most that each segment can give to a score. */
  most: {},
  /** @type {Set<string>} Keys. */
  chosen: new Set(),
  focus: 0,
  /** @type {number | null} Which hit the detail view shows. */
  open: null,
  /** @type {Example[]} */
  examples: [],
  /** @type {Map<string, "right" | "wrong">} What was judged, by key. */
  judged: new Map(),
  rocchio: { ...ROCCHIO },
  /** @type {Record<string, number>} Factors other than 1. */
  partWeights: {},
  /** @type {Set<string>} */
  cameras: new Set(),
  /** @type {string[]} Names of the galleries that are searched; empty is the first. */
  galleries: [],
};

/**
 * What names a record in sets and in addresses: its number, with its gallery where there are several.
 * @param {Place} place
 */
export const keyOf = ({ gallery, record }) => ((state.about?.galleries.length ?? 1) > 1 ? `${gallery}/${record}` : String(record));

/**
 * The record of a key.
 * @param {string} key
 * @returns {Place}
 */
export function placeOf(key) {
  const slash = key.lastIndexOf("/");
  const gallery = slash < 0 ? state.galleries[0] ?? state.about?.galleries[0].name ?? "" : key.slice(0, slash);
  return { gallery, record: Number(key.slice(slash + 1)) };
}

/** The gallery is known: `state.about` is there. */
export const aboutKnown = new Signal();

/** The query or the filters changed; search, and then do what the value says. */
export const searchWanted = /** @type {Signal<{ remember?: boolean, focus?: boolean, at?: number }>} */ (new Signal());

/** The end of the grid is near. */
export const moreWanted = new Signal();

/** There are other hits, or none. */
export const hitsChanged = new Signal();

/** There are more of the same hits. */
export const hitsAdded = new Signal();

/** The page scrolled to another hit: its place. */
export const scrolledTo = /** @type {Signal<number>} */ (new Signal());

/** Other hits are chosen, or judged. */
export const chosenChanged = new Signal();

/** A hit is to be shown in the detail view, by its place among the hits. */
export const detailWanted = /** @type {Signal<number>} */ (new Signal());

/** The state was read from an address: show it in the fields. */
export const stateRestored = new Signal();
