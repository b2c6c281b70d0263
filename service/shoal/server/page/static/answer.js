/** How one answer looks: its text or tokens, thoughts, tool calls, and what it cost. */

import { el, icon } from "./dom.js";
import { Inspector } from "./inspect.js";
import { renderMarkdown } from "./markdown.js";
import { visible } from "./scale.js";
import { TokenText } from "./tokens.js";

/**
 * @typedef {import("./collect.js").Choice} Choice
 * @typedef {import("./collect.js").Candidate} Candidate
 * @typedef {{inside: boolean, markdown: boolean, kept: number,
 *   onBranch: ((at: number, alternative: Candidate) => void) | null}} Options
 */

/** The element of an answer; call `update` whenever there is more of it. */
export class AnswerView {
  element = el("div", { class: "turn-answer" });
  #reasoning = el("div", { class: "plain" });
  #thoughts = el("details", { class: "reasoning", hidden: true }, el("summary", {}, "Thoughts"), this.#reasoning);
  #text = el("div", {});
  #calls = el("div", { class: "calls" });
  /** @type {TokenText | null} */
  #tokens = null;
  /** @type {Inspector | null} */
  #inspector = null;
  #options;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#text.className = options.markdown ? "prose busy" : "plain busy";
    this.element.append(this.#thoughts, this.#text, this.#calls);
    if (options.inside) this.#look();
  }

  #look() {
    const { onBranch, kept } = this.#options;
    const inspector = new Inspector((at) => tokens.focus(at));
    const tokens = new TokenText({ onBranch, onSelect: (at) => inspector.select(at) }, kept);
    [this.#tokens, this.#inspector] = [tokens, inspector];
    this.#text.className = "busy";
    this.#text.append(tokens.element);
    this.#text.after(inspector.element);
  }

  /** @param {Choice} choice */
  update(choice) {
    this.#thoughts.hidden = !choice.reasoning;
    this.#reasoning.textContent = choice.reasoning;
    if (this.#tokens && this.#inspector) {
      this.#tokens.update(choice.tokens);
      this.#inspector.update(choice.tokens);
    } else if (this.#options.markdown) {
      this.#text.replaceChildren(...renderMarkdown(choice.text));
    } else {
      this.#text.textContent = choice.text;
    }
  }

  /**
   * Nothing more comes.
   * @param {Choice} choice
   * @param {((result: string) => void) | null} onResult takes a tool's result
   */
  finish(choice, onResult) {
    this.update(choice);
    this.#text.classList.remove("busy");
    this.#inspector?.finish();
    this.#calls.replaceChildren(...choice.calls.map(callCard));
    if (choice.calls.length && onResult) this.#calls.append(resultForm(onResult));
  }
}

/** @param {import("./collect.js").ToolCall} call */
function callCard(call) {
  let shown = call.arguments;
  try {
    shown = JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    // cut in the middle: as it is
  }
  return el("div", { class: "call" }, el("div", { class: "call-name" }, `Calls ${call.name}`), el("pre", {}, shown));
}

/** @param {(result: string) => void} onResult */
function resultForm(onResult) {
  const input = el("input", { "aria-label": "Result of the call", placeholder: "Result, as the tool would say it" });
  const form = el(
    "form",
    {
      class: "call-answer",
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        form.remove();
        onResult(input.value);
      },
    },
    input,
    el("button", { type: "submit" }, "Answer"),
  );
  return form;
}

/**
 * @param {number} at index of the token
 * @param {Candidate} taken
 * @param {Candidate} instead
 */
export function branchNote(at, taken, instead) {
  const text = `Token ${at + 1}: ${visible(taken.token)} in place of ${visible(instead.token)}`;
  return el("p", { class: "branch-note" }, icon("branch"), text);
}
