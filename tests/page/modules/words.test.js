import assert from "node:assert/strict";
import test from "node:test";
import { niceTop, segments } from "../../../service/shoal/server/page/static/charts.js";
import { firstDifference, firstUnequal } from "../../../service/shoal/server/page/static/divergence.js";
import { blocksOf } from "../../../service/shoal/server/page/static/markdown.js";
import { parseMetrics, pointOf, total } from "../../../service/shoal/server/page/static/metrics.js";
import { bits, duration, percent, shadeOf, short, visible } from "../../../service/shoal/server/page/static/scale.js";
import { bounded, MAX_CHATS } from "../../../service/shoal/server/page/static/store.js";

test("the likelier a token, the lighter its shade", () => {
  assert.deepEqual([1, 0.9, 0.7, 0.4, 0.2, 0.06, 0.001].map((p) => shadeOf(Math.log(p))), [0, 0, 1, 2, 3, 4, 5]);
  assert.equal(shadeOf(-9999), 5);
});

test("numbers are short", () => {
  assert.deepEqual([1, 0.9996, 0.62, 0.0123, 0.0004, 0.00001].map(percent), ["100 %", "99.9 %", "62 %", "1.2 %", "0.04 %", "< 0.01 %"]);
  assert.deepEqual([4590848, 134515008, 5000, 961.12, 38.44, 0].map(short), ["4.6 M", "135 M", "5 k", "961", "38.4", "0"]);
  assert.deepEqual([0.0002, 0.034, 1.23, 75].map(duration), ["0.20 ms", "34 ms", "1.2 s", "75 s"]);
  assert.equal(bits(Math.LN2 * 3), 3);
  assert.deepEqual([" a\n", "", "\t"].map(visible), ["␣a⏎", "∅", "⇥"]);
});

test("the first difference is counted as a reader counts", () => {
  assert.deepEqual(firstDifference("a fish", "a frog"), { shared: "a f", characters: 3, differ: true });
  assert.deepEqual(firstDifference("👩‍👩‍👧 a", "👩‍👩‍👧 b"), { shared: "👩‍👩‍👧 ", characters: 2, differ: true });
  assert.equal(firstDifference("👩‍👩‍👧", "👩‍👩‍👦").characters, 0);
  assert.deepEqual(firstDifference("ab", "abc"), { shared: "ab", characters: 2, differ: false });
  assert.equal(firstDifference("", "").differ, false);
  assert.deepEqual([firstUnequal([1, 2], [1, 2]), firstUnequal([1, 2], [1, 3]), firstUnequal([1], [1, 2])], [-1, 1, 1]);
});

const METRICS = `# HELP shoal_x text
shoal_generation_tokens_total{model="a"} 100.0
shoal_generation_tokens_total{model="b \\"c\\",d}"} 7
shoal_time_to_first_token_seconds_sum{model="a"} 1.5
shoal_time_to_first_token_seconds_count{model="a"} 3.0
shoal_time_to_first_token_seconds_bucket{le="+Inf",model="a"} 3.0
shoal_kv_blocks_used{model="a"} 5
shoal_kv_blocks_total{model="a"} 20
shoal_requests_waiting{model="a"} 2
shoal_loop_lag_seconds 0.5e-3
`;

test("Prometheus' text is read", () => {
  const samples = parseMetrics(METRICS);
  assert.equal(samples.length, 9);
  assert.equal(samples[1].labels.model, 'b "c",d}');
  assert.equal(samples.at(-1).value, 0.0005);
  assert.equal(total(samples, "shoal_generation_tokens_total"), 107);
  assert.equal(total(samples, "shoal_generation_tokens_total", "a"), 100);
});

test("two readings become numbers per second", () => {
  const later = METRICS.replace(" 100.0", " 300.0").replace(" 1.5", " 1.9").replace("count{model=\"a\"} 3.0", "count{model=\"a\"} 5.0");
  const point = pointOf(parseMetrics(METRICS), parseMetrics(later), 2, "a");
  assert.equal(point.tokensPerSecond, 100);
  assert.ok(Math.abs(point.firstToken - 0.2) < 1e-9);
  assert.deepEqual([point.kvUsed, point.waiting, point.batch], [0.25, 2, null]);
  // A restarted server counts from zero.
  assert.equal(pointOf(parseMetrics(later), parseMetrics(METRICS), 1).tokensPerSecond, 0);
});

test("charts leave out what is not known and end at a round number", () => {
  assert.deepEqual(segments([null, 1, 2, null, 3]), [[[1, 1], [2, 2]], [[4, 3]]]);
  assert.deepEqual([0.07, 1, 3, 49, 51].map(niceTop), [0.1, 1, 5, 50, 100]);
});

test("Markdown becomes blocks", () => {
  const kinds = (text) => blocksOf(text).map(({ kind, lines }) => [kind, ...lines]);
  assert.deepEqual(kinds("# T\na\nb\n\nc"), [["heading", "T"], ["text", "a", "b"], ["text", "c"]]);
  assert.deepEqual(kinds("- a\n- b\n  more\n\n1. x\n2) y"), [["list", "a", "b\nmore"], ["numbers", "x", "y"]]);
  assert.deepEqual(kinds("```js\n# no\n\n- x\n```\nafter"), [["code", "# no", "", "- x"], ["text", "after"]]);
  assert.deepEqual(kinds("```\nopen <b>"), [["code", "open <b>"]]);
  assert.equal(blocksOf("3. x")[0].level, 3);
});

test("the history keeps the newest that fit", () => {
  const chat = (id, chars) => ({ id, at: 0, title: "", model: "", messages: [{ role: "user", content: "x".repeat(chars) }] });
  assert.equal(bounded(Array.from({ length: 40 }, (_, at) => chat(String(at), 10))).length, MAX_CHATS);
  assert.deepEqual(bounded([chat("a", 200_000), chat("b", 200_000), chat("c", 1000)]).map(({ id }) => id), ["a"]);
});
