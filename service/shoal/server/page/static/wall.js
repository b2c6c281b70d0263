/** Many streams at once, and the proof that one of them alone says the same.
 *
 * A browser opens only six connections to a server, so the streams are the choices of few requests.
 */

import { streamAnswer } from "./api.js";
import { showFieldError } from "./controls.js";
import { showCode } from "./dialogs.js";
import { firstUnequal } from "./divergence.js";
import { byId, el, oncePerFrame } from "./dom.js";
import { currentModel, whenReady } from "./models.js";
import { chatRequest, completionRequest } from "./request.js";
import { duration } from "./scale.js";
import { settings } from "./store.js";
import { errorNotice } from "./turn.js";

const CHOICES_PER_REQUEST = 16;
const TEMPERATURE = 0.8;

/**
 * @typedef {{element: HTMLElement, button: HTMLButtonElement, text: HTMLElement, count: HTMLElement,
 *   request: number, index: number, ids: number[], shown: string}} Cell
 */

/** @type {Cell[]} */
let cells = [];
/** @type {Record<string, any>[]} the requests of the last run, each with the seeds it used */
let runs = [];
/** @type {AbortController | null} */
let running = null;

/**
 * @param {number} n choices
 * @param {number | null} seed null = that of the settings, or a random one
 */
function request(n, seed = null) {
  const given = settings.values;
  const values = {
    ...given, tools: "", max_tokens: byId("wall-tokens").value,
    temperature: given.temperature || TEMPERATURE, seed: seed ?? given.seed,
  };
  const prompt = byId("wall-input").value;
  const call = currentModel()?.capabilities.includes("chat")
    ? chatRequest(values, [{ role: "user", content: prompt }], ["seed"])
    : completionRequest(values, prompt, ["seed"]);
  return { ...call, body: { ...call.body, n, return_token_ids: true } };
}

async function run() {
  if (running) {
    running.abort();
    return;
  }
  await whenReady();
  const total = Number(byId("wall-streams").value);
  const sizes = Array.from({ length: Math.ceil(total / CHOICES_PER_REQUEST) }, () => Math.min(total, CHOICES_PER_REQUEST));
  try {
    runs = sizes.map((n, at) => request(n, settings.values.seed ? Number(settings.values.seed) + at : null));
  } catch (error) {
    showFieldError(error);
    return;
  }
  const mine = (running = new AbortController());
  byId("wall-run").textContent = "Stop";
  setVerdict("", "");
  cells = sizes.flatMap((n, at) => Array.from({ length: n }, (_, index) => makeCell(at, index)));
  byId("wall-cells").replaceChildren(...cells.map(({ element }) => element));
  const clock = new Clock();
  const results = await Promise.allSettled(runs.map((each, at) => stream(each, at, mine.signal, clock)));
  clock.draw();
  running = null;
  byId("wall-run").textContent = "Start";
  const failed = results.find(({ status }) => status === "rejected");
  if (failed) byId("wall-verdict").replaceChildren(errorNotice(/** @type {PromiseRejectedResult} */ (failed).reason));
  else if (!mine.signal.aborted) setVerdict(`${cells.length} streams done. Pick one to run it again alone.`, "");
}

/**
 * @param {Record<string, any>} each
 * @param {number} at
 * @param {AbortSignal} signal
 * @param {Clock} clock
 */
async function stream(each, at, signal, clock) {
  const mine = cells.filter((cell) => cell.request === at);
  const dirty = new Set(/** @type {Cell[]} */ ([]));
  /** @type {import("./collect.js").Choice[]} */
  let choices = [];
  const draw = oncePerFrame(() => {
    dirty.forEach((cell) => drawCell(cell, choices[cell.index]));
    dirty.clear();
    clock.draw();
  });
  const { answer } = await streamAnswer(/** @type {any} */ (each), {
    signal,
    onChange: (now, changed) => {
      choices = now.choices;
      for (const index of changed) {
        const cell = mine[index];
        clock.count(choices[index].ids.length - cell.ids.length);
        cell.ids = [...choices[index].ids];
        dirty.add(cell);
      }
      draw();
    },
  });
  each.seeds = answer.ext.seed ?? [];
  mine.forEach((cell) => {
    if (answer.choices[cell.index]) drawCell(cell, answer.choices[cell.index]);
    cell.button.classList.remove("running");
    cell.button.disabled = !each.seeds.length;
  });
}

/**
 * @param {number} requestAt
 * @param {number} index of the choice
 * @returns {Cell}
 */
function makeCell(requestAt, index) {
  const number = requestAt * CHOICES_PER_REQUEST + index + 1;
  const [text, count] = [el("span", {}), el("span", {}, "waiting")];
  const button = el(
    "button",
    { type: "button", class: "running", disabled: true, onclick: () => void check(cell) },
    el("span", { class: "head" }, el("span", { class: "num" }, el("span", { class: "sr-only" }, "Run again alone: stream "), String(number)), count),
    el("span", { class: "text" }, text),
  );
  const cell = { element: el("li", {}, button), button, text, count, request: requestAt, index, ids: [], shown: "" };
  return cell;
}

/**
 * @param {Cell} cell
 * @param {import("./collect.js").Choice} choice
 */
function drawCell(cell, choice) {
  cell.shown = choice.reasoning + choice.text;
  cell.text.textContent = cell.shown;
  cell.count.textContent = `${choice.ids.length} tokens`;
  if (choice.finish) cell.button.classList.remove("running");
}

/**
 * Runs the choice of a cell alone, with the seed it had, and compares every token.
 * @param {Cell} cell
 */
async function check(cell) {
  if (running) return;
  const { path, body, seeds } = runs[cell.request];
  running = new AbortController();
  setVerdict("Running it alone…", "");
  try {
    const { answer } = await streamAnswer(
      { path, body: { ...body, n: 1, seed: seeds[cell.index] } },
      { signal: running.signal },
    );
    const at = firstUnequal(cell.ids, answer.choices[0].ids);
    cell.button.classList.add(at < 0 ? "same" : "differs");
    const alone = `Stream ${cells.indexOf(cell) + 1}, run alone:`;
    if (at < 0) setVerdict(`${alone} the same ${cell.ids.length} tokens as among ${cells.length}.`, "good");
    else setVerdict(`${alone} another token at ${at + 1}.`, "bad");
  } catch (error) {
    byId("wall-verdict").replaceChildren(errorNotice(error));
  }
  running = null;
}

/**
 * @param {string} text
 * @param {string} kind good, bad or ""
 */
function setVerdict(text, kind) {
  const verdict = byId("wall-verdict");
  verdict.textContent = text;
  verdict.className = `verdict ${kind}`;
}

/** Counts tokens of all streams against the time. */
class Clock {
  #start = performance.now();
  #first = 0;
  #last = 0;
  #tokens = 0;

  /** @param {number} tokens */
  count(tokens) {
    this.#tokens += tokens;
    this.#last = performance.now();
    this.#first ||= this.#last;
  }

  draw() {
    const seconds = (this.#last - this.#first) / 1000;
    const rate = seconds > 0.2 ? Math.round(this.#tokens / seconds).toLocaleString("en") : "–";
    const rows = [
      ["tokens per second, all together", rate],
      ["tokens", this.#tokens.toLocaleString("en")],
      ["first token", this.#first ? duration((this.#first - this.#start) / 1000) : "–"],
      ["time", this.#last ? duration((this.#last - this.#start) / 1000) : "–"],
    ];
    byId("wall-figures").replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }
}

export function start() {
  byId("wall-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void run();
  });
  byId("wall-code").addEventListener("click", () => showCode(() => request(CHOICES_PER_REQUEST)));
}
