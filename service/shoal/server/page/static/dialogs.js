/** The dialogs: a request as code, the API key, the history. */

import { announce, byId, copyText, el, icon } from "./dom.js";
import { curl, openai, sdk } from "./snippets.js";
import { history, key } from "./store.js";
import { showFieldError } from "./controls.js";

const LANGUAGES = /** @type {const} */ (["curl", "sdk", "openai"]);
const WRITERS = { curl, sdk, openai };

/** @type {import("./snippets.js").Call | null} */
let shownCall = null;
/** @type {(typeof LANGUAGES)[number]} */
let language = "curl";

/**
 * @param {() => import("./snippets.js").Call} makeCall may throw a FieldError
 */
export function showCode(makeCall) {
  try {
    shownCall = makeCall();
  } catch (error) {
    showFieldError(error);
    return;
  }
  drawCode();
  byId("code-dialog").showModal();
}

function drawCode() {
  for (const name of LANGUAGES) {
    const tab = byId(`code-tab-${name}`);
    tab.setAttribute("aria-selected", String(name === language));
    tab.tabIndex = name === language ? 0 : -1;
  }
  byId("code-panel").setAttribute("aria-labelledby", `code-tab-${language}`);
  const place = { origin: location.origin, hasKey: Boolean(key.get()) };
  if (shownCall) byId("code-text").textContent = WRITERS[language](shownCall, place);
}

function startCode() {
  for (const name of LANGUAGES) {
    byId(`code-tab-${name}`).addEventListener("click", () => {
      language = name;
      drawCode();
    });
  }
  byId("code-tabs").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = (LANGUAGES.indexOf(language) + step + LANGUAGES.length) % LANGUAGES.length;
    language = LANGUAGES[at];
    drawCode();
    byId(`code-tab-${language}`).focus();
  });
  byId("code-close").addEventListener("click", () => byId("code-dialog").close());
  byId("code-copy").addEventListener("click", async () => {
    const done = await copyText(byId("code-text").textContent);
    if (!done) getSelection()?.selectAllChildren(byId("code-text"));
    const button = byId("code-copy");
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    announce(button.textContent);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

/**
 * @param {() => void} onChange the key is another one
 */
function startKey(onChange) {
  const [dialog, input] = [byId("key-dialog"), byId("key-input")];
  const open = () => {
    input.value = key.get();
    if (!dialog.open) dialog.showModal();
    input.focus();
  };
  const use = (/** @type {string} */ value) => {
    key.set(value);
    dialog.close();
    onChange();
  };
  byId("key-button").addEventListener("click", open);
  document.addEventListener("key-wanted", () => {
    byId("key-help").textContent = key.get()
      ? "The server does not accept this key."
      : "This server asks for a key. It is kept in this tab until it is closed.";
    open();
  });
  byId("key-close").addEventListener("click", () => dialog.close());
  byId("key-forget").addEventListener("click", () => use(""));
  byId("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    use(input.value.trim());
  });
}

/**
 * @param {(chat: import("./store.js").SavedChat) => void} onOpen
 */
export function showHistory(onOpen) {
  drawHistory(onOpen);
  byId("history-dialog").showModal();
}

/** @param {(chat: import("./store.js").SavedChat) => void} onOpen */
function drawHistory(onOpen) {
  const dialog = byId("history-dialog");
  const entries = history.list().map((chat) => {
    const when = new Date(chat.at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const open = () => {
      dialog.close();
      onOpen(chat);
    };
    const remove = () => {
      history.remove(chat.id);
      drawHistory(onOpen);
    };
    return el(
      "li",
      {},
      el("button", { type: "button", class: "open", onclick: open }, el("span", {}, chat.title), el("small", {}, `${chat.model}, ${when}`)),
      el("button", { type: "button", class: "icon-button", "aria-label": `Delete ${chat.title}`, onclick: remove }, icon("close")),
    );
  });
  const none = el("li", {}, "Nothing yet.");
  byId("history-list").replaceChildren(...(entries.length ? entries : [none]));
}

/** @param {() => void} onKeyChange */
export function startDialogs(onKeyChange) {
  startCode();
  startKey(onKeyChange);
  byId("history-close").addEventListener("click", () => byId("history-dialog").close());
  byId("history-clear").addEventListener("click", () => {
    history.clear();
    byId("history-dialog").close();
  });
}
