// Asking the server, and what it answers.

/**
 * @typedef {string | number | null} Value
 *
 * @typedef {object} Place
 * @property {number} record
 * @property {string} gallery
 *
 * @typedef {object} Seen What a card shows; without a query there are no scores.
 * @property {string} name
 * @property {Record<string, Value>} metadata
 * @property {number} [rank]
 * @property {number} [score]
 * @property {Record<string, number>} [split] The score's share of every segment.
 * @property {number | null} [stack] The rank of the better hit that looks like it.
 * @property {number | null} [pictures] How many records its identity has, where one of each is shown.
 * @property {Hit[]} [alike] Those that were stacked on it.
 *
 * @typedef {Place & Seen} Hit
 *
 * @typedef {object} Found
 * @property {Hit[]} hits
 * @property {string[]} warnings
 * @property {string[]} unknown Words that the model does not know.
 * @property {Record<string, number>} most The most that each segment can give to a score.
 * @property {number} searched Records that pass the filters.
 * @property {number} total
 *
 * @typedef {object} Timeline
 * @property {number} start_s As the clock showed it, since 1970-01-01T00:00.
 * @property {number} step_s
 * @property {number[]} counts
 *
 * @typedef {object} Browsed
 * @property {Hit[]} records
 * @property {number} passing
 * @property {number} total
 * @property {Timeline | null} timeline
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
 * @property {{ name: string, total: number, model: string }[]} galleries
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
 * @typedef {number | Place} Reference
 *
 * @typedef {object} Query
 * @property {string[]} texts
 * @property {string[]} pictures
 * @property {Reference[]} like
 * @property {{ record: Reference, segments: string[] }[]} parts
 * @property {string[]} exclude
 * @property {string} combine
 * @property {number} image_weight
 * @property {Reference[]} relevant
 * @property {Reference[]} not_relevant
 * @property {{ query: number, relevant: number, not_relevant: number }} rocchio
 * @property {Record<string, number>} part_weights
 * @property {boolean} per_id
 * @property {number | null} alike
 * @property {string[]} gallery
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

/**
 * POST what has an answer in JSON.
 * @template Answer
 * @param {string} path
 * @param {unknown} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Answer>}
 */
export const ask = async (path, body, signal) => (await call(path, body, signal)).json();

/**
 * The address of a record, or of what belongs to it, such as "/picture".
 * @param {Place} place
 * @param {string} [end]
 */
export const recordPath = ({ gallery, record }, end = "") => `/api/v1/records/${record}${end}?gallery=${encodeURIComponent(gallery)}`;
