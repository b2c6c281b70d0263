/** Reads server-sent events, as far as the OpenAI API uses them: `data:` lines and comments. */

/**
 * Cuts a stream of text, in pieces of any size, into events.
 */
export class EventParser {
  #rest = "";

  /**
   * @param {string} text the next piece of the stream
   * @returns {string[]} the data of every event that is now whole
   */
  push(text) {
    const parts = (this.#rest + text).replace(/\r\n?/g, "\n").split("\n\n");
    this.#rest = parts.pop() ?? "";
    return parts.map(dataOf).filter((data) => data !== "");
  }
}

/** @param {string} record */
function dataOf(record) {
  return record
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(line[5] === " " ? 6 : 5))
    .join("\n");
}
