/** Joins the chunks of a streamed answer. Knows the API's records, and nothing of the page. */

/**
 * @typedef {{token: string, id: number, logprob: number}} Candidate
 * @typedef {Candidate & {rank: number, entropy: number, alternatives: Candidate[],
 *   steps: {step: string, left: number, removed: number}[], removed_by: string | null,
 *   lens: {token: string, id: number, probability: number}[], piece: string}} TokenEntry
 *   What `include: ["trace"]` tells of a token; `piece`: what it added to the text.
 * @typedef {{id: string, name: string, arguments: string}} ToolCall
 * @typedef {{text: string, reasoning: string, calls: ToolCall[], tokens: TokenEntry[],
 *   ids: number[], finish: string | null}} Choice
 */

/** @returns {Choice} */
export function emptyChoice() {
  return { text: "", reasoning: "", calls: [], tokens: [], ids: [], finish: null };
}

/** The answer so far: choices by index, then usage and `ext` from the closing event. */
export class Answer {
  /** @type {Choice[]} */
  choices = [];
  /** @type {Record<string, any> | null} */
  usage = null;
  /** @type {Record<string, any>} */
  ext = {};

  /**
   * @param {any} record one event of /v1/completions or /v1/chat/completions
   * @returns {number[]} indices of the choices that changed
   */
  add(record) {
    if (record.usage) this.usage = record.usage;
    if (record.ext) this.ext = record.ext;
    return record.choices.map((/** @type {any} */ part) => {
      const choice = (this.choices[part.index] ??= emptyChoice());
      addPart(choice, part);
      return part.index;
    });
  }
}

/**
 * @param {Choice} choice
 * @param {any} part
 */
function addPart(choice, part) {
  const delta = part.delta ?? { content: part.text };
  const piece = delta.content ?? "";
  choice.text += piece;
  choice.reasoning += delta.reasoning_content ?? "";
  for (const call of delta.tool_calls ?? []) addCall(choice.calls, call);
  if (part.token_ids) choice.ids.push(...part.token_ids);
  const entries = part.trace ?? [];
  entries.forEach((/** @type {any} */ entry, /** @type {number} */ at) => {
    choice.tokens.push({ ...entry, piece: at === entries.length - 1 ? piece : "" });
  });
  if (part.finish_reason) choice.finish = part.finish_reason;
}

/**
 * @param {ToolCall[]} calls
 * @param {any} part
 */
function addCall(calls, part) {
  const call = (calls[part.index] ??= { id: "", name: "", arguments: "" });
  if (part.id) call.id = part.id;
  call.name += part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

/**
 * The beginning of another answer: the same up to a token, then one of its alternatives.
 * @param {Choice} choice
 * @param {number} at index of the token
 * @param {Candidate} alternative
 * @returns {Choice}
 */
export function branchOf(choice, at, alternative) {
  const kept = choice.tokens.slice(0, at);
  const entry = choice.tokens[at];
  const rank = entry.alternatives.findIndex(({ id }) => id === alternative.id) + 1 || entry.rank;
  const tokens = [...kept, { ...entry, ...alternative, rank, piece: alternative.token }];
  return {
    ...emptyChoice(),
    tokens,
    text: tokens.map(({ piece }) => piece).join(""),
    ids: tokens.map(({ id }) => id),
  };
}
