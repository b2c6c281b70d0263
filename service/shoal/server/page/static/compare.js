/** Two answers to one prompt side by side, with the first place where they differ. */

import { APIError, streamAnswer } from "./api.js";
import { firstDifference } from "./divergence.js";
import { showCode } from "./dialogs.js";
import { byId, el, oncePerFrame } from "./dom.js";
import { allModels, modelOptions, writers } from "./models.js";
import { receipt } from "./receipt.js";
import { ALWAYS, chatRequest, completionRequest } from "./request.js";
import { settings } from "./store.js";
import { errorNotice } from "./turn.js";
import { showFieldError } from "./controls.js";

const NUMBERS = /** @type {[string, string, number, number][]} */ ([
  ["temperature", "Temperature", 2, 0.05], ["top_p", "Top p", 1, 0.01], ["seed", "Seed", 2 ** 53, 1],
]);

/** One side: its fields and its answer. */
class Side {
  text = "";
  #answer = el("div", { class: "plain" });
  #title = el("h2", {});
  element = el("div", { class: "side" }, this.#title, this.#answer);
  #select = el("select", {});
  /** @type {Record<string, HTMLInputElement>} */
  #inputs = {};

  /**
   * @param {string} name A or B
   * @param {HTMLElement} fieldset
   * @param {Record<string, number>} given what its fields begin with
   */
  constructor(name, fieldset, given) {
    this.name = name;
    const numbers = NUMBERS.map(([field, label, max, step]) => {
      const input = el("input", { type: "number", min: field === "seed" ? null : 0, max, step, value: given[field] ?? "", placeholder: "default" });
      this.#inputs[field] = input;
      return el("label", {}, label, input);
    });
    fieldset.append(el("div", { class: "side-fields" }, el("label", { class: "full" }, "Model", this.#select), ...numbers));
  }

  /** @param {string} fallback */
  drawModels(fallback) {
    this.#select.replaceChildren(...modelOptions(this.#select.value || fallback));
  }

  request() {
    /** @type {Record<string, any>} */
    const values = { ...settings.values, model: this.#select.value, tools: "" };
    for (const [field, input] of Object.entries(this.#inputs)) values[field] = input.value;
    const prompt = byId("compare-input").value;
    const model = allModels().find(({ id }) => id === values.model);
    return model?.capabilities.includes("chat") === false
      ? completionRequest(values, prompt, ALWAYS)
      : chatRequest(values, [{ role: "user", content: prompt }], ALWAYS);
  }

  /**
   * @param {{path: string, body: Record<string, any>}} request
   * @param {AbortSignal} signal
   * @param {() => void} onText
   */
  async run(request, signal, onText) {
    this.text = "";
    this.#title.replaceChildren(`${this.name}: ${request.body.model}`);
    this.element.replaceChildren(this.#title, this.#answer);
    this.#answer.classList.add("busy");
    try {
      const result = await streamAnswer(request, {
        signal,
        onChange: ({ choices }) => {
          this.text = choices[0].reasoning + choices[0].text;
          onText();
        },
      });
      const { usage, ext, choices } = result.answer;
      this.element.append(receipt({ ...result, usage, ext, finish: choices[0]?.finish ?? null }));
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      this.element.append(errorNotice(error));
    } finally {
      this.#answer.classList.remove("busy");
    }
  }

  /** @param {{shared: string, differ: boolean}} difference */
  draw({ shared, differ }) {
    const rest = this.text.slice(shared.length);
    if (!differ) {
      this.#answer.replaceChildren(shared + rest);
      return;
    }
    const word = /^\s*\S*/.exec(rest)?.[0] || rest.slice(0, 1);
    this.#answer.replaceChildren(shared, el("mark", {}, word), rest.slice(word.length));
  }
}

/** @type {Side[]} */
let sides = [];
/** @type {AbortController | null} */
let running = null;

/** @param {boolean} done both answers are whole */
function draw(done) {
  const [left, right] = sides;
  const difference = firstDifference(left.text, right.text);
  // While they are written, the shorter one's end is no difference; afterwards it is.
  const differ = difference.differ || (done && left.text !== right.text);
  sides.forEach((side) => side.draw({ ...difference, differ }));
  const verdict = byId("compare-verdict");
  if (differ) verdict.textContent = `They differ from character ${difference.characters + 1} on.`;
  else verdict.textContent = done && left.text ? `The same ${difference.characters} characters.` : "";
  verdict.classList.toggle("good", done && !differ && left.text !== "");
}

async function run() {
  if (running) {
    running.abort();
    return;
  }
  let requests;
  try {
    requests = sides.map((side) => side.request());
  } catch (error) {
    showFieldError(error);
    return;
  }
  const mine = (running = new AbortController());
  byId("compare-run").textContent = "Stop";
  byId("compare-output").replaceChildren(...sides.map(({ element }) => element));
  let done = false;
  const redraw = oncePerFrame(() => draw(done));
  await Promise.all(sides.map((side, at) => side.run(requests[at], mine.signal, redraw)));
  done = true;
  draw(true);
  running = null;
  byId("compare-run").textContent = "Run both";
}

function drawModels() {
  const names = writers().map(({ id }) => id);
  sides.forEach((side, at) => side.drawModels(names[Math.min(at, names.length - 1)] ?? ""));
}

export function start() {
  sides = [
    new Side("A", byId("compare-left"), { temperature: 0.7, seed: 1 }),
    new Side("B", byId("compare-right"), { temperature: 0.7, seed: 1 }),
  ];
  drawModels();
  document.addEventListener("models", drawModels);
  byId("compare-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void run();
  });
  byId("compare-code").addEventListener("click", () => showCode(() => sides[0].request()));
}
