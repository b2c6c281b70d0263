/** JSON in which seeds keep all of their 64 bits: JavaScript's numbers have 53. */

const SEEDS = /"seed":\s*\[([-\d,\s]*)\]/;

/**
 * Reads a record of the API; the seeds of `ext.seed` become strings.
 * @param {string} text
 * @returns {any}
 */
export function parseRecord(text) {
  // A text of the model cannot be taken for it: its quotes are escaped.
  return JSON.parse(text.replace(SEEDS, (_, list) => `"seed":[${list.replace(/-?\d+/g, '"$&"')}]`));
}

/**
 * Writes a request body; a seed that is a string is written as the number it is.
 * @param {any} body
 */
export function writeBody(body) {
  if (typeof body?.seed !== "string") return JSON.stringify(body);
  const { seed, ...rest } = body;
  return `{"seed":${BigInt(seed)},${JSON.stringify(rest).slice(1)}`;
}
