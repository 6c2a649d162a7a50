// Asking the server, and what it answers.

/**
 * @typedef {string | number | null} Value
 *
 * @typedef {object} Hit
 * @property {number} record
 * @property {number} rank
 * @property {number} score
 * @property {Record<string, number>} split The score's share of every segment.
 * @property {string} name
 * @property {Record<string, Value>} metadata
 *
 * @typedef {object} Found
 * @property {Hit[]} hits
 * @property {string[]} warnings
 * @property {number} searched Records that pass the filters.
 * @property {number} total
 *
 * @typedef {object} Segment
 * @property {string} name
 * @property {number} weight
 *
 * @typedef {object} About
 * @property {string[]} columns
 * @property {Record<string, number>} cameras
 * @property {number | null} first_time
 * @property {number | null} last_time
 * @property {number} total
 * @property {Segment[]} segments
 * @property {boolean} attention
 * @property {boolean} removal
 * @property {Record<string, number>} limits
 *
 * @typedef {object} Facts
 * @property {number} record
 * @property {string} path
 * @property {Record<string, Value>} metadata
 * @property {"same" | "changed" | "missing"} state
 *
 * @typedef {object} Filter
 * @property {string[]} camera
 * @property {string | null} after
 * @property {string | null} before
 * @property {string | null} where
 *
 * @typedef {object} Query
 * @property {string[]} texts
 * @property {string[]} pictures
 * @property {number[]} like
 * @property {string[]} exclude
 * @property {number} image_weight
 * @property {number} k
 * @property {boolean} per_id
 * @property {Filter} filter
 */

/** Whatever kept the server from answering, as a sentence and what to do about it. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {string} [hint]
   */
  constructor(message, hint) {
    super(message);
    this.hint = hint || "";
  }
}

/**
 * What went wrong, as one line.
 * @param {unknown} error
 */
export const told = (error) => (error instanceof Failure ? `${error.message} ${error.hint}`.trim() : String(error));

/**
 * Ask the server: GET, or POST where there is a body.
 * @param {string} path
 * @param {unknown} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>} A success; anything else raises a Failure, or an AbortError.
 */
export async function call(path, body, signal) {
  /** @type {RequestInit} */
  const options = body === undefined ? { signal } : {
    method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failure("The server does not answer.", "Is it still running?");
  }
  if (answer.status === 401) location.assign("/login");
  if (answer.ok) return answer;
  let said = { message: "", hint: "" };
  try {
    said = (await answer.json()).error;
  } catch { /* not ours: only its status is known */ }
  const wait = answer.headers.get("Retry-After");
  throw new Failure(said.message || `The server answered ${answer.status}.`, wait ? `Wait ${wait} s and try again.` : said.hint);
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/** @param {number} record */
export const thumbnail = (record) => `/api/v1/records/${record}/thumbnail`;

/** @param {number} record */
export const picture = (record) => `/api/v1/records/${record}/picture`;
