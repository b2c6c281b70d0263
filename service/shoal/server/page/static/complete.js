/** Continues a text. */

import { getJSON } from "./api.js";
import { showFieldError } from "./controls.js";
import { showCode } from "./dialogs.js";
import { byId } from "./dom.js";
import { whenReady } from "./models.js";
import { ALWAYS, INSIDE, completionRequest } from "./request.js";
import { settings } from "./store.js";
import { Turn } from "./turn.js";

/** @type {Turn | null} */
let running = null;

function request() {
  const include = [...ALWAYS, ...(settings.values.inside ? INSIDE : [])];
  return completionRequest(settings.values, byId("complete-input").value, include);
}

async function run() {
  if (running) {
    running.stop();
    return;
  }
  await whenReady();
  let asked;
  try {
    asked = request();
  } catch (error) {
    showFieldError(error);
    return;
  }
  const { model, prompt } = asked.body;
  const turn = new Turn({
    markdown: false,
    promptIds: async () => (await getJSON("/tokenize", { body: { model, prompt } })).tokens,
    onBusy: (busy) => {
      running = busy ? turn : null;
      byId("complete-run").textContent = busy ? "Stop" : "Continue";
    },
    onResult: null,
  });
  byId("complete-output").replaceChildren(turn.element);
  await turn.run(asked);
}

export function start() {
  byId("complete-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void run();
  });
  byId("complete-code").addEventListener("click", () => showCode(request));
}
