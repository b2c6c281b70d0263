/** The settings panel. Its fields are a table; each says in one sentence what it does. */

import { announce, byId, el } from "./dom.js";
import { allModels, currentModel, failedModels, modelCard, modelOptions } from "./models.js";
import { settings } from "./store.js";

/**
 * @typedef {{name: string, label: string, help: string, min?: number, max?: number, step?: number,
 *   slider?: boolean}} NumberField
 */

/** @type {NumberField[]} */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, slider: true, help: "0 always takes the likeliest token; higher is freer." },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, slider: true, help: "Only the likeliest tokens that together have this probability." },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1, help: "The answer is cut after so many." },
  { name: "seed", label: "Seed", step: 1, help: "The same seed gives the same text, alone or among others." },
];
/** @type {NumberField[]} */
export const MORE_SAMPLING = [
  { name: "top_k", label: "Top k", min: 0, step: 1, help: "Only so many of the likeliest tokens; 0 is all." },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, slider: true, help: "Only tokens with at least this share of the likeliest one's probability." },
  { name: "typical_p", label: "Typical p", min: 0.01, max: 1, step: 0.01, help: "Only tokens of typical information content, with this total probability." },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.1, max: 10, step: 0.05, help: "Above 1 works against tokens of prompt and answer." },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, help: "Works against tokens that the answer already has." },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, help: "The same, for each time it has them." },
  { name: "no_repeat_ngram_size", label: "No repeat of", min: 0, step: 1, help: "No run of so many tokens comes twice; 0 is off." },
  { name: "dry_multiplier", label: "DRY", min: 0, step: 0.1, help: "Works against repeating longer and longer runs; 0 is off." },
];
const SCHEMA_EXAMPLE = {
  type: "object",
  properties: { name: { type: "string" }, legs: { type: "integer" }, can_fly: { type: "boolean" } },
  required: ["name", "legs", "can_fly"],
  additionalProperties: false,
};
const TOOLS_EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Current weather of a city",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

/** Builds the panel; called once. */
export function startControls() {
  byId("settings-form").append(
    modelField(),
    area("system", "System prompt", "Said to the model before the chat.", { rows: 2 }),
    ...SAMPLING.map(numberField),
    details("More sampling", ...MORE_SAMPLING.map(numberField), area("stop", "Stop at", "Texts that end the answer, one a line.", { rows: 2 }), loopSwitch()),
    details("Form of the answer", formatField(), area("schema", "JSON schema", "The answer is one JSON value that fits it.", { rows: 7, code: true, example: SCHEMA_EXAMPLE })),
    details("Tools", area("tools", "Tools", "A JSON list of functions the model may call in the chat.", { rows: 7, code: true, example: TOOLS_EXAMPLE }), toolChoice()),
    el("button", { type: "button", class: "small", id: "settings-reset", onclick: () => settings.reset() }, "Reset all"),
  );
  byId("settings-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  for (const control of insideSwitches()) {
    control.addEventListener("change", () => settings.set("inside", control.checked));
  }
  document.addEventListener("settings", (event) => refresh(/** @type {CustomEvent} */ (event).detail));
  document.addEventListener("models", drawModels);
  refresh("");
}

/** @returns {HTMLInputElement[]} */
function insideSwitches() {
  return [...document.querySelectorAll("input.inside-switch")].map((input) => /** @type {any} */ (input));
}

function modelField() {
  const select = el("select", { id: "set-model", onchange: () => settings.set("model", select.value) });
  return el("div", { class: "field" }, el("label", { for: "set-model" }, "Model"), select, el("div", { id: "model-card" }));
}

function drawModels() {
  const model = currentModel();
  byId("set-model").replaceChildren(...modelOptions(model?.id ?? ""));
  const broken = failedModels().map(({ id, reason }) => el("p", { class: "error" }, `${id} could not be loaded: ${reason}`));
  byId("model-card").replaceChildren(...(model ? [modelCard(model)] : []), ...broken);
  const defaults = model?.defaults ?? {};
  for (const { name } of [...SAMPLING, ...MORE_SAMPLING]) {
    const input = byId(`set-${name}`);
    input.placeholder = name === "seed" ? "random" : String(defaults[name] ?? "default");
    const range = document.getElementById(`set-${name}-range`);
    if (range) showValue(range, name, settings.values[name]);
  }
  if (!model) {
    const text = allModels().length ? "The models of this server write no text: they make embeddings." : "No model is served.";
    byId("model-card").append(el("p", { class: "help" }, text));
  }
}

/** @param {NumberField} field */
function numberField({ name, label, help, min, max, step, slider }) {
  const id = `set-${name}`;
  const set = (/** @type {string} */ value) => settings.set(name, value);
  const limits = { min, max, step: step ?? "any" };
  const input = el("input", { id, type: "number", inputmode: "decimal", ...limits, "aria-describedby": `${id}-help`, oninput: () => set(input.value) });
  const range = slider && el("input", { type: "range", id: `${id}-range`, ...limits, "aria-label": `${label}, slider`, oninput: (/** @type {any} */ event) => set(event.target.value) });
  return el(
    "div",
    { class: "field" },
    el("div", { class: "field-head" }, el("label", { for: id }, label), input),
    range || null,
    el("p", { class: "help", id: `${id}-help` }, help),
  );
}

/**
 * @param {string} name
 * @param {string} label
 * @param {string} help
 * @param {{rows: number, code?: boolean, example?: unknown}} options
 */
function area(name, label, help, { rows, code, example }) {
  const id = `set-${name}`;
  const input = el("textarea", { id, rows, class: code ? "code" : null, spellcheck: code ? "false" : null, "aria-describedby": `${id}-help`, oninput: () => settings.set(name, input.value) });
  const fill = () => {
    settings.set(name, JSON.stringify(example, null, 2));
    if (name === "schema") settings.set("format", "json_schema");
  };
  const button = example !== undefined && el("button", { type: "button", class: "quiet", onclick: fill }, "Example");
  return el(
    "div",
    { class: "field", id: `${id}-field` },
    el("div", { class: "field-head" }, el("label", { for: id }, label), button || null),
    input,
    el("p", { class: "help", id: `${id}-help` }, help),
    el("p", { class: "error", id: `${id}-error`, hidden: true }),
  );
}

/**
 * @param {string} name
 * @param {string} label
 * @param {string} help
 * @param {[string, string][]} options value and text
 */
function choice(name, label, help, options) {
  const id = `set-${name}`;
  const select = el("select", { id, "aria-describedby": `${id}-help`, onchange: () => settings.set(name, select.value) }, ...options.map(([value, text]) => el("option", { value }, text)));
  return el("div", { class: "field" }, el("label", { for: id }, label), select, el("p", { class: "help", id: `${id}-help` }, help));
}

function formatField() {
  return choice("format", "Answer is", "Anything but text is forced, token by token.", [
    ["", "any text"], ["json_object", "a JSON object"], ["json_schema", "JSON of a schema"],
  ]);
}

function toolChoice() {
  return choice("tool_choice", "Calls", "Whether the model must call one.", [
    ["auto", "when it wants to"], ["required", "always"], ["none", "never"],
  ]);
}

function loopSwitch() {
  const input = el("input", { type: "checkbox", id: "set-stop_on_loop", onchange: () => settings.set("stop_on_loop", input.checked) });
  return el("div", { class: "field" }, el("label", { class: "switch" }, input, el("span", {}, "Stop when it repeats itself")));
}

/**
 * @param {string} title
 * @param {...HTMLElement} fields
 */
function details(title, ...fields) {
  return el("details", { class: "more" }, el("summary", {}, title), ...fields);
}

/**
 * Shows the values in the panel.
 * @param {string} changed name of a field, "" = all
 */
function refresh(changed) {
  const { values } = settings;
  for (const input of byId("settings-form").querySelectorAll("[id^='set-']")) {
    const name = input.id.slice(4).replace(/-range$/, "");
    if (!("value" in input) || name === "model" || (changed && changed !== name)) continue;
    showValue(input, name, values[name]);
  }
  if (changed === "model" || changed === "") drawModels();
  for (const control of insideSwitches()) control.checked = Boolean(values.inside);
  byId("set-schema-field").hidden = values.format !== "json_schema";
  if (changed) clearFieldError(changed);
}

/**
 * @param {any} input
 * @param {string} name
 * @param {any} value
 */
function showValue(input, name, value) {
  if (input.type === "checkbox") input.checked = Boolean(value);
  else if (input.type === "range") input.value = value || value === 0 ? value : (currentModel()?.defaults[name] ?? 1);
  else if (input !== document.activeElement) input.value = value ?? (name === "tool_choice" ? "auto" : "");
}

/** @param {unknown} error a FieldError: it is shown at its field; anything else is thrown on */
export function showFieldError(error) {
  const { field, message } = /** @type {any} */ (error);
  if (!field) throw error;
  const input = byId(`set-${field}`);
  input.setAttribute("aria-invalid", "true");
  const text = byId(`set-${field}-error`);
  text.textContent = message;
  text.hidden = false;
  input.closest("details").open = true;
  document.dispatchEvent(new CustomEvent("open-settings"));
  input.focus();
  announce(message);
}

/** @param {string} field */
function clearFieldError(field) {
  const text = document.getElementById(`set-${field}-error`);
  if (text) text.hidden = true;
  document.getElementById(`set-${field}`)?.removeAttribute("aria-invalid");
}
