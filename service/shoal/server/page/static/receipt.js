/** What an answer cost and how it came about, in one line that opens. */

import { el } from "./dom.js";
import { duration } from "./scale.js";

/**
 * @typedef {{usage: Record<string, any> | null, ext: Record<string, any>, stopped: boolean,
 *   finish: string | null, firstToken: number, seconds: number}} Outcome
 */

const FINISHES = /** @type {Record<string, string>} */ ({
  length: "cut at max tokens",
  tool_calls: "calls a tool",
  abort: "ended by the server",
  error: "failed",
});

/**
 * @param {Outcome} outcome
 */
export function receipt(outcome) {
  const summary = el("summary", {}, summaryOf(outcome).join(" · "));
  return el("details", { class: "receipt" }, summary, facts(factsOf(outcome)));
}

/** @param {Outcome} outcome */
export function summaryOf({ usage, ext, stopped, finish, firstToken }) {
  const [timings, cost] = [ext.timings, ext.usage_cost];
  const parts = [];
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  if (timings) parts.push(`${timings.tokens_per_second.toFixed(0)} tokens/s`);
  if (firstToken) parts.push(`first after ${duration(firstToken)}`);
  if (cost) parts.push(`${duration(cost.cpu_seconds)} of CPU`);
  if (stopped) parts.push("stopped by you");
  else if (finish && FINISHES[finish]) parts.push(FINISHES[finish]);
  return parts.length ? parts : ["no tokens"];
}

/**
 * @param {Outcome} outcome
 * @returns {[string, string][]}
 */
export function factsOf({ usage, ext, firstToken, seconds }) {
  const [timings, cost] = [ext.timings, ext.usage_cost];
  /** @type {[string, string][]} */
  const rows = [];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    rows.push(["Prompt", `${usage.prompt_tokens} tokens, ${cached} of them from the cache`]);
    rows.push(["Answer", `${usage.completion_tokens} tokens`]);
  }
  if (timings) {
    rows.push(["In the queue", duration(timings.queue_ms / 1000)]);
    rows.push(["Reading the prompt", duration(timings.prefill_ms / 1000)]);
    rows.push(["Writing", duration(timings.decode_ms / 1000)]);
  }
  rows.push(["As seen here", `first token ${duration(firstToken)}, whole answer ${duration(seconds)}`]);
  if (cost) {
    rows.push(["CPU time", `${duration(cost.cpu_seconds)} of one core, its share of each step`]);
    const how = cost.energy_source === "estimate" ? "estimated" : `measured (${cost.energy_source})`;
    if (cost.joules_est != null) rows.push(["Energy", `${cost.joules_est.toFixed(2)} J, ${how}`]);
    if (cost.amount_est != null) rows.push(["Price", `${cost.amount_est} ${cost.currency}`]);
  }
  if (ext.seed) rows.push(["Seed", ext.seed.join(", ")]);
  return rows;
}

/**
 * A list of names and values.
 * @param {[string, string | Node][]} rows
 */
export function facts(rows) {
  const cells = rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return el("dl", { class: "facts" }, ...cells);
}
