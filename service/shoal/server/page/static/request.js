/** Builds request bodies from the settings. Pure: the same settings, the same body. */

/** Fields that are sent as they are, where they have a value. */
export const NUMBERS = [
  "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
  "frequency_penalty", "no_repeat_ngram_size", "dry_multiplier", "max_tokens", "seed",
];
export const INSIDE = ["trace"];
export const ALWAYS = ["usage_cost", "timings", "seed"];

/**
 * A field that cannot be sent as it stands.
 */
export class FieldError extends Error {
  /**
   * @param {string} field
   * @param {string} message
   */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * @param {Record<string, any>} values of the settings panel
 * @param {string[]} include
 */
function common(values, include) {
  /** @type {Record<string, any>} */
  const body = {};
  if (values.model) body.model = values.model;
  for (const name of NUMBERS) {
    const value = values[name];
    if (value !== "" && value != null && Number.isFinite(Number(value))) body[name] = Number(value);
  }
  const stops = String(values.stop ?? "").split("\n").filter(Boolean);
  if (stops.length) body.stop = stops.map((stop) => stop.replaceAll("\\n", "\n"));
  if (values.stop_on_loop) body.stop_on_loop = true;
  const format = responseFormat(values);
  if (format) body.response_format = format;
  if (include.length) body.include = include;
  body.stream = true;
  body.stream_options = { include_usage: true };
  return body;
}

/** @param {Record<string, any>} values */
function responseFormat(values) {
  if (values.format === "json_object") return { type: "json_object" };
  if (values.format !== "json_schema") return null;
  const schema = parseJSON("schema", values.schema, "The JSON schema");
  return { type: "json_schema", json_schema: { name: "answer", schema } };
}

/**
 * @param {string} field
 * @param {string | undefined} text
 * @param {string} what begins the message of a FieldError
 */
export function parseJSON(field, text, what) {
  try {
    return JSON.parse(text ?? "");
  } catch (error) {
    const reason = /** @type {Error} */ (error).message;
    throw new FieldError(field, `${what} is no JSON: ${reason}`);
  }
}

/**
 * @param {Record<string, any>} values
 * @param {any[]} messages without the system prompt
 * @param {string[]} [include]
 * @returns {{path: string, body: Record<string, any>}}
 * @throws {FieldError}
 */
export function chatRequest(values, messages, include = []) {
  const system = String(values.system ?? "").trim();
  /** @type {Record<string, any>} */
  const body = {
    ...common(values, include),
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
  };
  if (String(values.tools ?? "").trim()) {
    const tools = parseJSON("tools", values.tools, "The list of tools");
    if (!Array.isArray(tools)) throw new FieldError("tools", "The tools must be a JSON list.");
    body.tools = tools;
    body.tool_choice = values.tool_choice || "auto";
  }
  return { path: "/v1/chat/completions", body };
}

/**
 * @param {Record<string, any>} values
 * @param {string | number[]} prompt text, or token ids
 * @param {string[]} [include]
 * @returns {{path: string, body: Record<string, any>}}
 * @throws {FieldError}
 */
export function completionRequest(values, prompt, include = []) {
  return { path: "/v1/completions", body: { ...common(values, include), prompt } };
}

/**
 * Goes on from the middle of an answer, token by token the same up to there. Without a response
 * format: that would begin a second answer of its form.
 * @param {Record<string, any>} body of the request whose answer it was
 * @param {number[]} promptIds
 * @param {number[]} keptIds of the answer, the chosen alternative last
 */
export function branchRequest(body, promptIds, keptIds) {
  const left = (body.max_tokens ?? 256) - keptIds.length;
  /** @type {Record<string, any>} */
  const branch = { ...body, prompt: [...promptIds, ...keptIds], max_tokens: Math.max(1, left) };
  for (const name of ["messages", "tools", "tool_choice", "response_format"]) delete branch[name];
  return { path: "/v1/completions", body: branch };
}
