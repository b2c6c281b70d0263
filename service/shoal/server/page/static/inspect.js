/** Below an answer's tokens: the legend, the entropy line and the logit lens. */

import { el, svg } from "./dom.js";
import { bits, percent, visible } from "./scale.js";

const LENS_COLUMNS = 14;
const HEIGHT = 48;

/**
 * @typedef {import("./collect.js").TokenEntry} TokenEntry
 */

/** What can be seen of an answer besides its tokens. */
export class Inspector {
  #chart = svg("svg", { class: "entropy", role: "img", preserveAspectRatio: "none" });
  #caption = el("span", {});
  #lensBody = el("div", { class: "lens-scroll", tabindex: 0, role: "region", "aria-label": "Logit lens" });
  #lens = el(
    "details",
    { class: "lens", ontoggle: () => this.#drawLens() },
    el("summary", {}, "Logit lens: the word each layer would have said"),
    this.#lensBody,
  );
  element = el(
    "div",
    { class: "inside" },
    legend(),
    this.#chart,
    el("div", { class: "caption" }, el("span", {}, "Entropy: how undecided it was at each token"), this.#caption),
    this.#lens,
  );
  /** @type {TokenEntry[]} */
  #entries = [];
  #selected = 0;

  /** @param {(at: number) => void} onPick a token was pointed at in the line */
  constructor(onPick) {
    this.#chart.addEventListener("click", (event) => {
      const box = this.#chart.getBoundingClientRect();
      const part = (/** @type {MouseEvent} */ (event).clientX - box.left) / box.width;
      onPick(Math.floor(part * this.#entries.length));
    });
  }

  /** @param {TokenEntry[]} entries */
  update(entries) {
    this.#entries = entries;
    this.#drawEntropy();
  }

  /** The answer is whole, or another token was chosen. */
  finish() {
    this.#lens.hidden = !this.#entries.some(({ lens }) => lens.length);
    this.#drawLens();
  }

  /** @param {number} at */
  select(at) {
    this.#selected = at;
    this.#drawEntropy();
    this.#drawLens();
  }

  #drawEntropy() {
    const values = this.#entries.map(({ entropy }) => bits(entropy));
    if (!values.length) return;
    const top = Math.max(4, ...values);
    const x = (/** @type {number} */ at) => (at + 0.5) * (1000 / values.length);
    const y = (/** @type {number} */ value) => HEIGHT - (value / top) * (HEIGHT - 2);
    const line = values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const mark = x(this.#selected).toFixed(1);
    this.#chart.setAttribute("viewBox", `0 0 1000 ${HEIGHT}`);
    this.#chart.replaceChildren(
      svg("polygon", { class: "area", points: `${x(0)},${HEIGHT} ${line} ${x(values.length - 1)},${HEIGHT}` }),
      svg("polyline", { class: "line", points: line }),
      svg("line", { class: "mark", x1: mark, x2: mark, y1: 0, y2: HEIGHT }),
    );
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const text = `mean ${mean.toFixed(1)} bits, highest ${Math.max(...values).toFixed(1)}`;
    this.#caption.textContent = text;
    this.#chart.setAttribute("aria-label", `Entropy of ${values.length} tokens: ${text}`);
  }

  #drawLens() {
    if (!this.#lens.open || !this.#entries.length) return;
    const last = Math.max(0, this.#entries.length - LENS_COLUMNS);
    const start = Math.max(0, Math.min(this.#selected - Math.floor(LENS_COLUMNS / 2), last));
    this.#lensBody.replaceChildren(lensTable(this.#entries, start, this.#selected));
  }
}

function legend() {
  const shades = ["over 60 %", "over 35 %", "over 15 %", "over 5 %", "less"];
  return el(
    "div",
    { class: "legend" },
    "Its probability:",
    ...shades.map((text, at) => el("span", {}, el("i", { class: `s${at + 1}` }), text)),
    el("span", {}, "underlined: not the likeliest"),
  );
}

/**
 * Layers downwards, the last on top; the tokens of the answer from left to right.
 * @param {TokenEntry[]} entries
 * @param {number} start first token shown
 * @param {number} selected
 */
function lensTable(entries, start, selected) {
  const shown = entries.slice(start, start + LENS_COLUMNS);
  const numLayers = shown[0].lens.length;
  const head = shown.map(({ token }, at) =>
    el("th", { scope: "col", class: start + at === selected ? "on" : null }, visible(token)),
  );
  const rows = Array.from({ length: numLayers }, (_, at) => numLayers - 1 - at).map((layer) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, String(layer + 1)),
      ...shown.map((entry) => lensCell(entry, layer)),
    ),
  );
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Layer"), ...head)),
    el("tbody", {}, ...rows),
  );
}

/**
 * @param {TokenEntry} entry
 * @param {number} layer
 */
function lensCell(entry, layer) {
  const said = entry.lens[layer];
  if (!said) return el("td");
  const level = Math.min(4, Math.floor(said.probability * 5));
  const classes = [level ? `l${level}` : "", said.id === entry.id ? "same" : ""].join(" ").trim();
  return el("td", { class: classes || null, title: percent(said.probability) }, visible(said.token));
}
