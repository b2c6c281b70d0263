/** The chat: a conversation with one model, streamed, stoppable, kept in this browser. */

import { getJSON } from "./api.js";
import { showCode, showHistory } from "./dialogs.js";
import { announce, byId, el, icon } from "./dom.js";
import { currentModel, whenReady } from "./models.js";
import { ALWAYS, INSIDE, chatRequest } from "./request.js";
import { showFieldError } from "./controls.js";
import { history, settings } from "./store.js";
import { Turn } from "./turn.js";

const SUGGESTIONS = /** @type {Record<string, string[]>} */ ({
  minnow: ["Tell me a story about a fish.", "Tell me a story about a girl who finds a key.", "Tell me a story about a dragon who is afraid.", "Tell me a story about two friends."],
  pilotfish: ["add Slow Turning to my road trip playlist", "wake me up at seven tomorrow", "what is the weather in Lisbon", "play some jazz"],
  "": ["What is photosynthesis?", "Write a short poem about the sea.", "Name three uses of salt.", "Explain gravity to a child."],
});

/**
 * @typedef {{role: string, content: string, tool_call_id?: string}} Said by the user or a tool
 * @type {(Said | Turn)[]}
 */
let conversation = [];
let chatId = "";
/** @type {Turn | null} */
let running = null;

/** What was said before a place, as the API takes it. */
function messages(end = conversation.length) {
  return conversation.slice(0, end).map((item) => (item instanceof Turn ? said(item) : item));
}

/** @param {Turn} turn */
function said(turn) {
  const { text, calls } = turn.choice;
  if (!calls.length) return { role: "assistant", content: text };
  const tool_calls = calls.map(({ id, name, arguments: args }) => ({
    id, type: "function", function: { name, arguments: args },
  }));
  return { role: "assistant", content: text, tool_calls };
}

/** @param {any[]} before */
function requestAfter(before) {
  const include = [...ALWAYS, ...(settings.values.inside ? INSIDE : [])];
  return chatRequest(settings.values, before, include);
}

/** @param {Said[]} added */
async function ask(added) {
  if (running) return;
  const at = conversation.length + added.length;
  let request;
  try {
    request = requestAfter([...messages(), ...added]);
  } catch (error) {
    showFieldError(error);
    return;
  }
  conversation.push(...added);
  added.forEach(show);
  const turn = new Turn({
    markdown: true,
    promptIds: async () => (await getJSON("/tokenize", { body: promptOf(request.body) })).tokens,
    onBusy: (busy) => setBusy(busy ? turn : null),
    onResult: (choice, result) =>
      void ask(choice.calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: result }))),
  });
  conversation.push(turn);
  byId("chat-log").append(el("div", { class: "message assistant" }, turn.element));
  turn.element.scrollIntoView({ block: "end" });
  await turn.run(request);
  if (at < conversation.length) save();
}

/**
 * The fields of a request that make its prompt.
 * @param {Record<string, any>} body
 */
function promptOf({ model, messages: list, tools, tool_choice }) {
  return { model, messages: list, ...(tools ? { tools, tool_choice } : {}) };
}

/** @param {Said} message */
function show({ role, content }) {
  byId("chat-empty").hidden = true;
  const text = role === "tool" ? `Result: ${content}` : content;
  byId("chat-log").append(el("div", { class: `message ${role}` }, text));
}

/** @param {Turn | null} turn the one that is being written */
function setBusy(turn) {
  running = turn;
  const button = byId("chat-send");
  button.replaceChildren(icon(turn ? "stop" : "send"));
  button.setAttribute("aria-label", turn ? "Stop" : "Send");
}

function save() {
  const plain = messages().filter((message) => message.content);
  if (!plain.length) return;
  chatId ||= crypto.randomUUID?.() ?? String(Date.now());
  const title = plain[0].content.slice(0, 80);
  const list = plain.map(({ role, content }) => ({ role, content }));
  history.save({ id: chatId, at: Date.now(), title, model: settings.values.model ?? "", messages: list });
}

function startNew() {
  running?.stop();
  [conversation, chatId] = [[], ""];
  byId("chat-log").replaceChildren();
  byId("chat-empty").hidden = false;
  byId("chat-input").focus();
}

/** @param {import("./store.js").SavedChat} chat */
function open(chat) {
  startNew();
  chatId = chat.id;
  conversation = chat.messages.map(({ role, content }) => ({ role, content }));
  conversation.forEach((message) => show(/** @type {Said} */ (message)));
  announce(`Chat opened: ${chat.title}`);
}

function suggest() {
  const model = currentModel();
  const list = SUGGESTIONS[model?.root ?? ""] ?? SUGGESTIONS[""];
  const fill = (/** @type {string} */ text) => {
    byId("chat-input").value = text;
    grow();
    byId("chat-input").focus();
  };
  byId("chat-suggestions").replaceChildren(
    ...list.map((text) => el("li", {}, el("button", { type: "button", onclick: () => fill(text) }, text))),
  );
}

/** The box is as high as its text. */
function grow() {
  const input = byId("chat-input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

async function submit() {
  const input = byId("chat-input");
  if (running) {
    running.stop();
    return;
  }
  const content = input.value.trim();
  if (!content) return;
  await whenReady();
  input.value = "";
  grow();
  await ask([{ role: "user", content }]);
}

export function startChat() {
  const input = byId("chat-input");
  byId("chat-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void submit();
  });
  input.addEventListener("input", grow);
  input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running) void submit();
    } else if (event.key === "Escape") running?.stop();
  });
  byId("chat-new").addEventListener("click", startNew);
  byId("chat-history").addEventListener("click", () => showHistory(open));
  byId("chat-code").addEventListener("click", () => {
    const text = input.value.trim();
    const next = text ? [{ role: "user", content: text }] : [];
    const asked = messages().slice(0, conversation.findLastIndex((item) => item instanceof Turn));
    const fallback = [{ role: "user", content: "Hello" }];
    showCode(() => requestAfter(next.length ? [...messages(), ...next] : asked.length ? asked : fallback));
  });
  document.addEventListener("models", suggest);
  document.addEventListener("settings", suggest);
  suggest();
}
