import assert from "node:assert/strict";
import test from "node:test";

const LISTED = [
  { id: "vectors", root: "vectors", parent: null, ready: true, capabilities: ["embedding"] },
  { id: "both", root: "both", parent: null, ready: true, capabilities: ["completion", "embedding"] },
  { id: "chat", root: "chat", parent: null, ready: true, capabilities: ["completion", "chat"] },
];
const kept = new Map();
globalThis.localStorage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value), removeItem: (name) => kept.delete(name) };
globalThis.document = new EventTarget();
globalThis.fetch = async () => new Response(JSON.stringify({ object: "list", data: LISTED }), { headers: { "content-type": "application/json" } });

const { allModels, currentModel, loadModels, writers } = await import("../../../service/shoal/server/page/static/models.js");
const { settings } = await import("../../../service/shoal/server/page/static/store.js");

test("a model that only makes embeddings is not offered", async () => {
  await loadModels();
  assert.deepEqual(allModels().map(({ id }) => id), ["vectors", "both", "chat"]);
  assert.deepEqual(writers().map(({ id }) => id), ["both", "chat"]);
  assert.equal(currentModel().id, "both");
  settings.set("model", "vectors");
  assert.equal(currentModel().id, "both");
  settings.set("model", "chat");
  assert.equal(currentModel().id, "chat");
});
