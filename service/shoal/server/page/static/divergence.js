/** Where two texts begin to differ. */

const segmenter = globalThis.Intl?.Segmenter
  ? new Intl.Segmenter(undefined, { granularity: "grapheme" })
  : null;

/**
 * Number of characters, as a reader counts them, that two texts share at their start.
 * @param {string} left
 * @param {string} right
 * @returns {{shared: string, characters: number, differ: boolean}} `differ` is false while one of
 *   the texts only goes on where the other ended
 */
export function firstDifference(left, right) {
  const [a, b] = [graphemes(left), graphemes(right)];
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at += 1;
  const differ = at < a.length && at < b.length;
  return { shared: a.slice(0, at).join(""), characters: at, differ };
}

/** @param {string} text */
function graphemes(text) {
  return segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : [...text];
}

/**
 * Index of the first element in which two lists differ, -1 where they are equal.
 * @param {readonly number[]} left
 * @param {readonly number[]} right
 */
export function firstUnequal(left, right) {
  const length = Math.max(left.length, right.length);
  for (let at = 0; at < length; at += 1) if (left[at] !== right[at]) return at;
  return -1;
}
