/** The models of the server: which there are, which one is chosen, what its card says. */

import { getJSON } from "./api.js";
import { el } from "./dom.js";
import { facts } from "./receipt.js";
import { short } from "./scale.js";
import { settings } from "./store.js";

const POLL_MS = 1000;

/**
 * @typedef {Record<string, any> & {id: string, root: string, parent: string | null, ready: boolean}} Model
 */

/** @type {Model[]} */
let models = [];
/** @type {{id: string, reason: string}[]} */
let failed = [];
/** @type {(() => void)[]} */
let waiting = [];

export const allModels = () => models;
/** Those that can answer here: others only make embeddings. */
export const writers = () => models.filter(({ capabilities }) => capabilities.includes("completion"));
export const failedModels = () => failed;

/** @returns {Model | undefined} the chosen one; the server's default where that is gone */
export function currentModel() {
  const listed = writers();
  return listed.find(({ id }) => id === settings.values.model) ?? listed[0];
}

/** Resolves when the chosen model can answer, or when nobody knows. */
export function whenReady() {
  const model = currentModel();
  if (!model || model.ready) return Promise.resolve();
  return /** @type {Promise<void>} */ (new Promise((resolve) => waiting.push(resolve)));
}

/** Reads the list, again until every model is loaded. Dispatches "models" after each reading. */
export async function loadModels() {
  try {
    const list = await getJSON("/v1/models");
    [models, failed] = [list.data, list.failed ?? []];
  } catch (error) {
    document.dispatchEvent(new CustomEvent("models-error", { detail: error }));
    release();
    return;
  }
  const model = currentModel();
  if (model && model.id !== settings.values.model) settings.set("model", model.id);
  if (!model || model.ready) release();
  document.dispatchEvent(new CustomEvent("models"));
  if (models.some(({ ready }) => !ready)) setTimeout(loadModels, POLL_MS);
}

function release() {
  const resolved = waiting;
  waiting = [];
  resolved.forEach((resolve) => resolve());
}

/**
 * Options of a select, adapters below their base.
 * @param {string} chosen
 */
export function modelOptions(chosen) {
  return writers().map(({ id, parent, ready }) => {
    const state = ready ? "" : " (loading)";
    return el("option", { value: id, selected: id === chosen }, `${parent ? `${parent} + ` : ""}${id}${state}`);
  });
}

/** @param {Model} model */
export function modelCard(model) {
  if (!model.ready) return el("div", { class: "card" }, el("p", { class: "help" }, "Still loading."));
  /** @type {[string, string | Node][]} */
  const rows = [];
  const add = (/** @type {string} */ name, /** @type {unknown} */ value) => {
    if (value != null && value !== "") rows.push([name, value instanceof Node ? value : String(value)]);
  };
  add(model.parent ? "Adapter" : "Parameters", model.num_parameters && short(model.num_parameters));
  if (model.parent) add("Rank", model.rank);
  add("Context", model.max_model_len && `${model.max_model_len.toLocaleString("en")} tokens`);
  add("Weights", [model.quantization === "none" ? model.dtype : model.quantization, model.weight_bytes && `${short(model.weight_bytes)}B`].filter(Boolean).join(", "));
  add("Computed by", [model.device, model.kernels].filter(Boolean).join(", "));
  add("Tools", model.tools === "generic" ? "described to it by the server" : model.tools);
  const chips = model.capabilities.map((/** @type {string} */ name) => el("span", { class: "chip" }, name));
  return el("div", { class: "card" }, el("div", { class: "chips" }, ...chips), facts(rows), quality(model));
}

/** @param {Model} model */
function quality({ quality_loss: losses }) {
  if (!losses) return null;
  const rows = /** @type {[string, string][]} */ (Object.entries(losses).map(([name, loss]) => [name, lossText(loss)]));
  const list = facts(rows);
  list.classList.add("measured");
  return el("details", {}, el("summary", {}, "Measured quality"), list);
}

/** @param {any} loss measured with the full weights and with these */
function lossText(loss) {
  if (typeof loss !== "object") return String(loss);
  return Object.entries(loss).map(([format, value]) => `${format} ${value}`).join(", ");
}
