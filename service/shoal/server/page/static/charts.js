/** Small line charts over time, as SVG. */

import { el, svg } from "./dom.js";

const [HEIGHT, BOTTOM, TOP] = [120, 16, 14];

/** A chart with a title, the newest value, and the last readings as a line. */
export class Chart {
  #now = el("span", { class: "now" }, "–");
  #svg = svg("svg", { role: "img" });
  element;
  /** @type {(value: number) => string} */
  #format;
  /** @type {string} */
  #title;
  /** @type {number} */
  #least;

  /**
   * @param {string} title
   * @param {(value: number) => string} format
   * @param {number} least the axis goes at least so far up
   */
  constructor(title, format, least) {
    [this.#title, this.#format, this.#least] = [title, format, least];
    this.element = el("figure", { class: "chart" }, el("figcaption", {}, title, this.#now), this.#svg);
  }

  /**
   * @param {(number | null)[]} values oldest first; null = nothing to show there
   * @param {number} room number of values that the width is for
   */
  draw(values, room) {
    const known = values.filter((value) => value !== null);
    const newest = known.at(-1);
    const width = this.#svg.clientWidth || 320;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const top = niceTop(Math.max(this.#least, ...known));
    const x = (/** @type {number} */ at) => ((room - values.length + at) / (room - 1)) * width;
    const y = (/** @type {number} */ value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
    const base = HEIGHT - BOTTOM;
    const lines = segments(values).map((segment) => segment.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" "));
    // A value alone is a dot: a line from itself to itself.
    const drawn = lines.map((points) => (points.includes(" ") ? points : `${points} ${points}`));
    const areas = segments(values).map((segment, at) => `${x(segment[0][0]).toFixed(1)},${base} ${lines[at]} ${x(segment[segment.length - 1][0]).toFixed(1)},${base}`);
    this.#svg.replaceChildren(
      svg("line", { class: "grid", x1: 0, x2: width, y1: base, y2: base }),
      svg("line", { class: "grid", x1: 0, x2: width, y1: y(top), y2: y(top) }),
      ...areas.map((points) => svg("polygon", { class: "area", points })),
      ...drawn.map((points) => svg("polyline", { class: "line", points })),
      svg("text", { x: 0, y: y(top) - 4 }, this.#format(top)),
      svg("text", { x: 0, y: HEIGHT - 3 }, `${room - 1} s ago`),
      svg("text", { x: width, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
    );
    const text = newest === undefined ? "–" : this.#format(newest);
    this.#now.textContent = text;
    const highest = known.length ? `, highest ${this.#format(Math.max(...known))}` : "";
    this.#svg.setAttribute("aria-label", `${this.#title}: now ${text}${highest}`);
  }
}

/**
 * Runs of known values, each with its place.
 * @param {(number | null)[]} values
 * @returns {[number, number][][]}
 */
export function segments(values) {
  /** @type {[number, number][][]} */
  const found = [];
  values.forEach((value, at) => {
    if (value === null) return;
    if (at === 0 || values[at - 1] === null) found.push([]);
    found[found.length - 1].push([at, value]);
  });
  return found;
}

/**
 * The next of 1, 2, 5 times a power of ten.
 * @param {number} value above 0
 */
export function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999) ?? 10;
  return step * power;
}
