import assert from "node:assert/strict";
import test from "node:test";
import { Answer, branchOf } from "../../../service/shoal/server/page/static/collect.js";
import { parseRecord, writeBody } from "../../../service/shoal/server/page/static/json.js";
import { EventParser } from "../../../service/shoal/server/page/static/sse.js";

const STREAM = ': ping\n\ndata: {"a":"é🐟"}\n\ndata:no space\r\n\r\nevent: x\ndata: two\ndata: lines\n\ndata: [DONE]\n\n';
const EVENTS = ['{"a":"é🐟"}', "no space", "two\nlines", "[DONE]"];

test("a stream cut at any place gives the same events", () => {
  for (let at = 0; at <= STREAM.length; at += 1) {
    const parser = new EventParser();
    const found = [...parser.push(STREAM.slice(0, at)), ...parser.push(STREAM.slice(at))];
    assert.deepEqual(found, EVENTS, `cut at ${at}`);
  }
});

test("bytes in any pieces become the same text", () => {
  const bytes = new TextEncoder().encode(STREAM);
  const [parser, decoder] = [new EventParser(), new TextDecoder()];
  const found = [...bytes].flatMap((byte) => parser.push(decoder.decode(Uint8Array.of(byte), { stream: true })));
  assert.deepEqual(found, EVENTS);
});

test("an event that is not whole is not given", () => {
  assert.deepEqual(new EventParser().push('data: {"a":'), []);
});

test("chunks become choices, usage and ext", () => {
  const answer = new Answer();
  const chunk = (index, delta, more = {}) => ({ choices: [{ index, delta, ...more }] });
  assert.deepEqual(answer.add(chunk(1, { role: "assistant", content: "" })), [1]);
  answer.add(chunk(1, { content: "Hi" }, { token_ids: [5] }));
  answer.add(chunk(0, { reasoning_content: "hm" }));
  answer.add(chunk(1, {}, { finish_reason: "length" }));
  answer.add({ choices: [], usage: { completion_tokens: 2 }, ext: { seed: ["1"] } });
  assert.equal(answer.choices[1].text, "Hi");
  assert.deepEqual(answer.choices[1].ids, [5]);
  assert.equal(answer.choices[1].finish, "length");
  assert.equal(answer.choices[0].reasoning, "hm");
  assert.deepEqual([answer.usage.completion_tokens, answer.ext.seed], [2, ["1"]]);
});

test("completions have their text elsewhere", () => {
  const answer = new Answer();
  answer.add({ choices: [{ index: 0, text: "a" }] });
  answer.add({ choices: [{ index: 0, text: "b" }] });
  assert.equal(answer.choices[0].text, "ab");
});

test("tool calls come in pieces", () => {
  const answer = new Answer();
  const call = (part) => answer.add({ choices: [{ index: 0, delta: { tool_calls: [part] } }] });
  call({ index: 0, id: "c1", function: { name: "f", arguments: "" } });
  call({ index: 0, function: { arguments: '{"a":' } });
  call({ index: 1, id: "c2", function: { name: "g", arguments: "{}" } });
  call({ index: 0, function: { arguments: "1}" } });
  assert.deepEqual(answer.choices[0].calls, [
    { id: "c1", name: "f", arguments: '{"a":1}' },
    { id: "c2", name: "g", arguments: "{}" },
  ]);
});

test("a branch keeps the tokens before and takes the alternative", () => {
  const other = { token: " dog", id: 8, logprob: -2 };
  const entry = (token, id, piece = token) => ({
    token, id, piece, logprob: -1, rank: 1, entropy: 1, steps: [], removed_by: null, lens: [],
    alternatives: [{ token, id, logprob: -1 }, other],
  });
  const choice = { text: "A cat ran", reasoning: "", calls: [], ids: [1, 2, 3], finish: "stop", tokens: [entry("A", 1), entry(" cat", 2), entry(" ran", 3)] };
  const branch = branchOf(choice, 1, other);
  assert.equal(branch.text, "A dog");
  assert.deepEqual(branch.ids, [1, 8]);
  assert.equal(branch.tokens[1].rank, 2);
  assert.equal(branch.finish, null);
  assert.equal(choice.tokens.length, 3);
});

test("seeds keep all of their 64 bits, in and out", () => {
  const record = parseRecord('{"choices":[],"ext":{"seed":[-9223372036854775808, 9223372036854775807,4]}}');
  assert.deepEqual(record.ext.seed, ["-9223372036854775808", "9223372036854775807", "4"]);
  assert.equal(writeBody({ seed: record.ext.seed[1], n: 1 }), '{"seed":9223372036854775807,"n":1}');
  assert.equal(writeBody({ seed: 7, n: 1 }), '{"seed":7,"n":1}');
});

test("a text that looks like seeds stays a text", () => {
  const text = '"seed":[1]';
  assert.equal(parseRecord(JSON.stringify({ choices: [{ index: 0, text }] })).choices[0].text, text);
  assert.throws(() => writeBody({ seed: "1,x" }));
});
