/** One question's answers: the first, those asked for again, and branches from the middle of one. */

import { AnswerView, branchNote } from "./answer.js";
import { APIError, streamAnswer } from "./api.js";
import { branchOf, emptyChoice } from "./collect.js";
import { announce, el, icon, oncePerFrame } from "./dom.js";
import { receipt } from "./receipt.js";
import { branchRequest } from "./request.js";

/**
 * @typedef {import("./collect.js").Choice} Choice
 * @typedef {import("./collect.js").Candidate} Candidate
 * @typedef {{path: string, body: Record<string, any>}} Request
 * @typedef {{request: Request, choice: Choice, element: HTMLElement}} Variant
 * @typedef {{markdown: boolean, promptIds: () => Promise<number[]>, onBusy: (busy: boolean) => void,
 *   onResult: ((choice: Choice, result: string) => void) | null}} Hooks
 *   promptIds: of the question, as the model reads it; onResult: a tool's result was entered
 */

/** A place in the page that holds the answers, one of them shown. */
export class Turn {
  element = el("div", { class: "turn" });
  #place = el("div", {});
  #foot = el("div", { class: "turn-foot" });
  /** @type {Variant[]} */
  #variants = [];
  #shown = 0;
  /** @type {AbortController | null} */
  #running = null;
  #hooks;

  /** @param {Hooks} hooks */
  constructor(hooks) {
    this.#hooks = hooks;
    this.element.append(this.#place, this.#foot);
  }

  /** @returns {Choice} the answer that is shown */
  get choice() {
    return this.#variants[this.#shown]?.choice ?? emptyChoice();
  }

  /** Ends the answer that is being written; what there is stays. */
  stop() {
    this.#running?.abort();
  }

  /**
   * @param {Request} request
   * @param {{start?: Choice, note?: Node}} [branch] the tokens it begins with, and words about them
   */
  async run(request, { start, note } = {}) {
    this.stop();
    const running = (this.#running = new AbortController());
    const inside = request.body.include?.includes("trace") ?? false;
    /** @type {Variant} */
    const variant = { request, choice: start ?? emptyChoice(), element: el("div", { class: "turn" }) };
    const view = new AnswerView({
      inside,
      markdown: this.#hooks.markdown && !request.body.response_format,
      kept: start?.tokens.length ?? 0,
      onBranch: (at, alternative) => void this.#branch(variant, at, alternative),
    });
    if (note) variant.element.append(note);
    variant.element.append(view.element);
    view.update(variant.choice);
    this.#show(this.#variants.push(variant) - 1);
    this.#busy(true);
    const draw = oncePerFrame(() => {
      if (this.#running === running) view.update(variant.choice);
    });
    try {
      const result = await streamAnswer(request, {
        signal: running.signal,
        onChange: (answer) => {
          variant.choice = joined(start, answer.choices[0]);
          draw();
        },
      });
      this.#close(variant, view);
      const { usage, ext } = result.answer;
      variant.element.append(receipt({ ...result, usage, ext, finish: variant.choice.finish }));
      announce(result.stopped ? "Stopped." : `Answer finished: ${variant.choice.text.slice(0, 500)}`);
    } catch (error) {
      this.#close(variant, view);
      variant.element.append(errorNotice(error));
    }
    if (this.#running === running) {
      this.#running = null;
      this.#busy(false);
    }
  }

  /**
   * @param {Variant} variant
   * @param {AnswerView} view
   */
  #close(variant, view) {
    const { onResult } = this.#hooks;
    view.finish(variant.choice, onResult && ((result) => onResult(variant.choice, result)));
  }

  /**
   * @param {Variant} variant
   * @param {number} at
   * @param {Candidate} alternative
   */
  async #branch(variant, at, alternative) {
    this.stop();
    const start = branchOf(variant.choice, at, alternative);
    const note = branchNote(at, alternative, variant.choice.tokens[at]);
    try {
      const request = branchRequest(variant.request.body, await this.#hooks.promptIds(), start.ids);
      await this.run(request, { start, note });
    } catch (error) {
      variant.element.append(errorNotice(error));
    }
  }

  /** @param {boolean} busy */
  #busy(busy) {
    this.element.setAttribute("aria-busy", String(busy));
    this.#hooks.onBusy(busy);
    this.#drawFoot(busy);
  }

  /** @param {number} at */
  #show(at) {
    this.#shown = at;
    this.#place.replaceChildren(this.#variants[at].element);
    this.#drawFoot(this.#running !== null);
  }

  /** @param {boolean} busy */
  #drawFoot(busy) {
    const [at, count] = [this.#shown, this.#variants.length];
    const step = (/** @type {string} */ name, /** @type {string} */ label, /** @type {number} */ to) =>
      el(
        "button",
        { type: "button", class: "quiet", "aria-label": label, disabled: busy || to < 0 || to >= count, onclick: () => this.#show(to) },
        icon(name),
      );
    const variants = el(
      "span",
      { class: "variants" },
      step("left", "Previous answer", at - 1),
      `${at + 1} of ${count}`,
      step("right", "Next answer", at + 1),
    );
    const again = el(
      "button",
      { type: "button", class: "quiet", onclick: () => void this.run(firstOf(this.#variants)) },
      icon("again"),
      "Again",
    );
    this.#foot.replaceChildren(...(count > 1 ? [variants] : []), ...(busy || !count ? [] : [again]));
  }
}

/** @param {Variant[]} variants the first was asked for as a whole, others may be branches */
function firstOf(variants) {
  return variants[0].request;
}

/**
 * @param {Choice | undefined} start
 * @param {Choice} rest
 * @returns {Choice}
 */
function joined(start, rest) {
  if (!start) return rest;
  return {
    ...rest,
    text: start.text + rest.text,
    tokens: [...start.tokens, ...rest.tokens],
    ids: [...start.ids, ...rest.ids],
  };
}

/** @param {unknown} error */
export function errorNotice(error) {
  if (!(error instanceof Error)) throw error;
  const hint = error instanceof APIError && error.hint ? el("span", { class: "hint" }, error.hint) : null;
  return el("p", { class: "notice", role: "alert" }, error.message, hint);
}
