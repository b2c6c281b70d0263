/** Live charts of what the server counts. Reads only while the view is open. */

import { APIError, getText } from "./api.js";
import { Chart } from "./charts.js";
import { showCode } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { parseMetrics, pointOf } from "./metrics.js";
import { allModels } from "./models.js";
import { duration, percent, short } from "./scale.js";

const PERIOD_MS = 1000;
const ROOM = 61;

/** @typedef {import("./metrics.js").Point} Point */

/** @type {[keyof Point, Chart][]} */
const charts = [
  ["tokensPerSecond", new Chart("Tokens per second", short, 10)],
  ["firstToken", new Chart("Time to the first token", duration, 0.01)],
  ["batch", new Chart("Batch: rows of a step", short, 4)],
  ["waiting", new Chart("Queue: sequences waiting", short, 4)],
  ["kvUsed", new Chart("KV blocks in use", percent, 0.1)],
  ["promptPerSecond", new Chart("Prompt tokens per second", short, 10)],
];
/** @type {{at: number, samples: import("./metrics.js").Sample[]}[]} */
let readings = [];
let timer = 0;

async function read() {
  try {
    const samples = parseMetrics(await getText("/metrics"));
    readings = [...readings, { at: performance.now() / 1000, samples }].slice(-ROOM - 1);
    byId("live-error").hidden = true;
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    byId("live-error").textContent = error.message;
    byId("live-error").hidden = false;
    if (error.status === 401) onHide();
  }
  draw();
}

function draw() {
  const model = byId("live-model").value;
  const points = readings.slice(1).map(({ at, samples }, before) =>
    pointOf(readings[before].samples, samples, at - readings[before].at, model),
  );
  for (const [name, chart] of charts) chart.draw(points.map((point) => point[name]), ROOM);
}

function drawModels() {
  const select = byId("live-model");
  const roots = [...new Set(allModels().map(({ root }) => root))];
  const chosen = select.value;
  const options = ["", ...roots].map((name) => el("option", { value: name, selected: name === chosen }, name || "all"));
  select.replaceChildren(...options);
}

export function onShow() {
  onHide();
  void read();
  timer = setInterval(() => document.hidden || void read(), PERIOD_MS);
}

export function onHide() {
  clearInterval(timer);
}

export function start() {
  byId("live-charts").append(...charts.map(([, chart]) => chart.element));
  byId("live-model").addEventListener("change", draw);
  byId("live-code").addEventListener("click", () => showCode(() => ({ path: "/metrics", body: null })));
  document.addEventListener("models", drawModels);
  drawModels();
  draw();
}
