/** From log-probabilities to colours and to words. */

/** Lowest probability of each shade; shade 0 = the model was sure. */
export const SHADES = [0.9, 0.6, 0.35, 0.15, 0.05, 0];

/**
 * The shade of a token, 0 (sure) to 5 (hardly expected). Its colour is the style sheet's.
 * @param {number} logprob natural logarithm
 */
export function shadeOf(logprob) {
  const probability = Math.exp(logprob);
  return SHADES.findIndex((lowest) => probability >= lowest);
}

/**
 * "62 %", "0.4 %", "< 0.01 %".
 * @param {number} probability 0 to 1
 */
export function percent(probability) {
  const value = probability * 100;
  if (value >= 99.95) return value >= 100 ? "100 %" : "99.9 %";
  if (value >= 10) return `${value.toFixed(0)} %`;
  if (value >= 0.1) return `${value.toFixed(1)} %`;
  if (value === 0) return "0 %";
  return value >= 0.01 ? `${value.toFixed(2)} %` : "< 0.01 %";
}

/**
 * Nats to bits.
 * @param {number} nats
 */
export function bits(nats) {
  return nats / Math.LN2;
}

/**
 * A token as one can see it: spaces and line ends get a sign.
 * @param {string} token
 */
export function visible(token) {
  if (token === "") return "∅";
  return token.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}

/**
 * "1.2 M", "96 MB"-like short numbers.
 * @param {number} value
 */
export function short(value) {
  const steps = /** @type {[number, string][]} */ ([[1e9, " G"], [1e6, " M"], [1e3, " k"]]);
  for (const [size, unit] of steps) {
    if (value >= size) return Number((value / size).toFixed(value >= 10 * size ? 0 : 1)) + unit;
  }
  return value >= 100 ? String(Math.round(value)) : String(Math.round(value * 10) / 10);
}

/**
 * Seconds as "34 ms" or "1.2 s".
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 0.001) return `${(seconds * 1000).toFixed(2)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}
