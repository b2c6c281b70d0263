import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import test from "node:test";
import { FieldError, branchRequest, chatRequest, completionRequest } from "../../../service/shoal/server/page/static/request.js";
import { factsOf, summaryOf } from "../../../service/shoal/server/page/static/receipt.js";
import { curl, openai, python, sdk } from "../../../service/shoal/server/page/static/snippets.js";

const PLACE = { origin: "http://127.0.0.1:8000", hasKey: false };
const HI = [{ role: "user", content: "Hi" }];

test("only what was given is sent", () => {
  const { path, body } = chatRequest({ model: "m", temperature: "0", top_p: "", seed: null, stop: "" }, HI);
  assert.equal(path, "/v1/chat/completions");
  assert.deepEqual(body, { model: "m", temperature: 0, stream: true, stream_options: { include_usage: true }, messages: HI });
});

test("system prompt, schema, tools and stops are fields of the body", () => {
  const values = { system: " Be brief. ", format: "json_schema", schema: '{"type":"object"}', tools: "[]", tool_choice: "required", stop: "a\n\\n\n", stop_on_loop: true };
  const { body } = chatRequest(values, HI, ["trace"]);
  assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
  assert.deepEqual(body.response_format.json_schema.schema, { type: "object" });
  assert.deepEqual([body.tools, body.tool_choice, body.stop, body.stop_on_loop, body.include], [[], "required", ["a", "\n"], true, ["trace"]]);
});

test("a schema or tools that are no JSON are named by their field", () => {
  for (const values of [{ format: "json_schema", schema: "{" }, { tools: "x" }, { tools: "{}" }]) {
    const field = values.tools ? "tools" : "schema";
    assert.throws(() => chatRequest(values, HI), (error) => error instanceof FieldError && error.field === field);
  }
});

test("a branch goes on from token ids, without the form", () => {
  const { body } = chatRequest({ model: "m", max_tokens: 10, tools: "[]", format: "json_object" }, HI, ["trace"]);
  const branch = branchRequest(body, [1, 2], [3, 4]);
  assert.equal(branch.path, "/v1/completions");
  assert.deepEqual(branch.body.prompt, [1, 2, 3, 4]);
  assert.deepEqual([branch.body.max_tokens, branch.body.include], [8, ["trace"]]);
  for (const name of ["messages", "tools", "tool_choice", "response_format"]) assert.ok(!(name in branch.body));
  assert.ok("messages" in body);
});

const CALL = completionRequest({ model: "m", temperature: 0.5, top_k: 3 }, "It's \"so\"\n$HOME 🐟");

test("curl's body survives the shell", () => {
  const line = curl(CALL, PLACE).replace(/^curl -N/, "printf '%s\\n'");
  const { stdout } = spawnSync("sh", ["-c", line], { encoding: "utf8" });
  assert.deepEqual(JSON.parse(stdout.slice(stdout.indexOf("{"))), CALL.body);
});

test("the Python texts are Python", () => {
  const call = chatRequest({ model: "m", format: "json_schema", schema: JSON.stringify({ type: "object", nested: { list: [1, true, null, "a'\"\\"] } }) }, HI, ["trace"]);
  for (const text of [call, CALL].flatMap((each) => [sdk(each, PLACE), openai(each, { ...PLACE, hasKey: true })])) {
    const { status, stderr, error } = spawnSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: text, encoding: "utf8" });
    if (error) return;
    assert.equal(status, 0, stderr + text);
  }
});

test("fields that the openai package does not know go into extra_body", () => {
  const text = openai(CALL, PLACE);
  assert.match(text, /extra_body=\{"top_k": 3\}/);
  assert.match(text, /base_url="http:\/\/127.0.0.1:8000\/v1", api_key="none"/);
  assert.match(sdk(CALL, PLACE), /top_k=3/);
});

test("a key is never in a text", () => {
  for (const write of [curl, sdk, openai]) assert.match(write(CALL, { ...PLACE, hasKey: true }), /SHOAL_API_KEY/);
});

test("a GET request has texts too", () => {
  const call = { path: "/metrics", body: null };
  assert.equal(curl(call, PLACE), "curl http://127.0.0.1:8000/metrics");
  assert.match(sdk(call, PLACE), /client\.metrics\(\)\.text/);
  assert.match(openai(call, PLACE), /^#/);
});

test("JSON becomes Python", () => {
  assert.equal(python({ a: [true, null, 1.5, "x"] }), '{"a": [True, None, 1.5, "x"]}');
});

test("the receipt says what it cost", () => {
  const outcome = {
    usage: { prompt_tokens: 3, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 1 } },
    ext: { timings: { queue_ms: 1, prefill_ms: 20, decode_ms: 30, tokens_per_second: 66.7 }, usage_cost: { cpu_seconds: 0.05, joules_est: 0.2, energy_source: "estimate", amount_est: null }, seed: ["5"] },
    stopped: false, finish: "length", firstToken: 0.03, seconds: 0.1,
  };
  assert.equal(summaryOf(outcome).join(" · "), "2 tokens · 67 tokens/s · first after 30 ms · 50 ms of CPU · cut at max tokens");
  assert.deepEqual(factsOf(outcome).find(([name]) => name === "Energy"), ["Energy", "0.20 J, estimated"]);
  assert.deepEqual(summaryOf({ usage: null, ext: {}, stopped: true, finish: null, firstToken: 0, seconds: 1 }), ["stopped by you"]);
});
