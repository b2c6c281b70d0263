/** A request of the page as code that one can copy: curl, Shoal's Python SDK, the openai package. */

/**
 * @typedef {{path: string, body: Record<string, any> | null}} Call body null = a GET request
 * @typedef {{origin: string, hasKey: boolean}} Place where the server is, and whether it asks for a
 *   key; the key itself never gets into a text
 */

const KEY = "SHOAL_API_KEY";
const OPENAI_FIELDS = new Set([
  "model", "messages", "prompt", "stream", "stream_options", "temperature", "top_p", "n", "seed",
  "max_tokens", "stop", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs",
  "response_format", "tools", "tool_choice", "parallel_tool_calls", "logit_bias", "user",
]);

/**
 * @param {Call} call
 * @param {Place} place
 */
export function curl({ path, body }, { origin, hasKey }) {
  const auth = hasKey ? [`-H "Authorization: Bearer $${KEY}"`] : [];
  if (!body) return [`curl ${origin}${path}`, ...auth].join(" \\\n  ");
  const lines = [
    `curl ${body.stream ? "-N " : ""}${origin}${path}`,
    "-H 'Content-Type: application/json'",
    ...auth,
    `-d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`,
  ];
  return lines.join(" \\\n  ");
}

/**
 * @param {Call} call
 * @param {Place} place
 */
export function sdk({ path, body }, { origin, hasKey }) {
  const key = hasKey ? `, api_key=os.environ["${KEY}"]` : "";
  const head = [
    ...(hasKey ? ["import os", ""] : []),
    "from shoal import Client",
    "",
    `with Client(${python(origin)}${key}) as client:`,
  ];
  if (!body) return [...head, `    print(client.${path.slice(1)}().text)`].join("\n");
  const { stream, stream_options: _, ...fields } = body;
  const args = Object.entries(fields);
  if (stream) args.push(["stream", true]);
  const isChat = path.endsWith("/chat/completions");
  const call = `client.${isChat ? "chat" : "completions"}.create(\n${argumentLines(args, 8)}    )`;
  const shown = isChat ? ".message.content" : ".text";
  const use = stream
    ? `    with ${call} as stream:\n        for text in stream.text_deltas():\n            print(text, end="", flush=True)`
    : `    answer = ${call}\n    print(answer.choices[0]${shown})`;
  return [...head, use].join("\n");
}

/**
 * @param {Call} call
 * @param {Place} place
 */
export function openai({ path, body }, { origin, hasKey }) {
  if (!body) return `# The openai package has no call for ${path}.`;
  const given = Object.entries(body);
  const args = given.filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.fromEntries(given.filter(([name]) => !OPENAI_FIELDS.has(name)));
  if (Object.keys(extra).length) args.push(["extra_body", extra]);
  const isChat = path.endsWith("/chat/completions");
  const [where, piece, text] = isChat
    ? ["chat.completions", "delta.content", "message.content"]
    : ["completions", "text", "text"];
  const call = `client.${where}.create(\n${argumentLines(args, 4)})`;
  const key = hasKey ? `os.environ["${KEY}"]` : '"none"';
  const use = body.stream
    ? `for chunk in ${call}:\n    if chunk.choices:\n        print(chunk.choices[0].${piece} or "", end="", flush=True)`
    : `answer = ${call}\nprint(answer.choices[0].${text})`;
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${key})`,
    use,
  ].join("\n");
}

/**
 * @param {[string, any][]} args
 * @param {number} indent spaces
 */
function argumentLines(args, indent) {
  const space = " ".repeat(indent);
  return args.map(([name, value]) => `${space}${name}=${python(value, indent)},\n`).join("");
}

/**
 * A JSON value as a Python literal.
 * @param {any} value
 * @param {number} indent of the line it stands in
 * @returns {string}
 */
export function python(value, indent = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => python(item, indent + 4))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${python(item, indent + 4)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length + indent <= 88 && !line.includes("\n")) return line;
  const space = " ".repeat(indent);
  return `${open}\n${items.map((item) => `${space}    ${item},\n`).join("")}${space}${close}`;
}
