/** Reads Prometheus' text format, and makes numbers per second of what a server counts. */

/**
 * @typedef {{name: string, labels: Record<string, string>, value: number}} Sample
 * @typedef {{tokensPerSecond: number, promptPerSecond: number, firstToken: number | null,
 *   waiting: number, running: number, batch: number | null, kvUsed: number}} Point
 *   firstToken in seconds, kvUsed from 0 to 1; null: nothing happened since the last reading
 */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = /** @type {Record<string, string>} */ ({ n: "\n" });

/**
 * @param {string} text
 * @returns {Sample[]}
 */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (found) samples.push({ name: found[1], labels: labelsOf(found[2]), value: number(found[3]) });
  }
  return samples;
}

/** @param {string | undefined} text */
function labelsOf(text) {
  /** @type {Record<string, string>} */
  const labels = {};
  for (const [, name, value] of (text ?? "").matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, char) => ESCAPED[char] ?? char);
  }
  return labels;
}

/** @param {string} text */
function number(text) {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}

/**
 * Sum over the samples of a name; of one model, or of all.
 * @param {Sample[]} samples
 * @param {string} name
 * @param {string} model "" = all
 */
export function total(samples, name, model = "") {
  let sum = 0;
  for (const sample of samples) {
    if (sample.name === name && (!model || sample.labels.model === model)) sum += sample.value;
  }
  return sum;
}

/**
 * What happened between two readings.
 * @param {Sample[]} before
 * @param {Sample[]} now
 * @param {number} seconds between them
 * @param {string} model "" = all
 * @returns {Point}
 */
export function pointOf(before, now, seconds, model = "") {
  const gauge = (/** @type {string} */ name) => total(now, `shoal_${name}`, model);
  // A restarted server counts from zero again.
  const growth = (/** @type {string} */ name) =>
    Math.max(0, gauge(name) - total(before, `shoal_${name}`, model));
  const mean = (/** @type {string} */ name) => {
    const count = growth(`${name}_count`);
    return count > 0 ? growth(`${name}_sum`) / count : null;
  };
  const blocks = gauge("kv_blocks_total");
  return {
    tokensPerSecond: growth("generation_tokens_total") / seconds,
    promptPerSecond: growth("prompt_tokens_total") / seconds,
    firstToken: mean("time_to_first_token_seconds"),
    waiting: gauge("requests_waiting"),
    running: gauge("requests_running"),
    batch: mean("batch_size"),
    kvUsed: blocks > 0 ? gauge("kv_blocks_used") / blocks : 0,
  };
}
