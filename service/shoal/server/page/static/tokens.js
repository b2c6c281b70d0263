/** An answer as its tokens: coloured by probability, with a card of alternatives to go on from.
 *
 * Arrow keys walk the tokens, Enter goes into the card, Escape comes back.
 */

import { byId, el } from "./dom.js";
import { bits, percent, shadeOf, visible } from "./scale.js";

const HIDE_MS = 220;

/**
 * @typedef {import("./collect.js").TokenEntry} TokenEntry
 * @typedef {import("./collect.js").Candidate} Candidate
 * @typedef {{onBranch: ((at: number, alternative: Candidate) => void) | null,
 *   onSelect: (at: number) => void}} Hooks `onBranch` null: one cannot go on from here
 */

/** The tokens of one answer. */
export class TokenText {
  element = el("div", { class: "tokens", role: "group", "aria-label": "Tokens of the answer" });
  /** @type {TokenEntry[]} */
  entries = [];
  selected = -1;
  #kept;

  /**
   * @param {Hooks} hooks
   * @param {number} kept so many tokens were taken over from another answer; the last is chosen
   */
  constructor(hooks, kept = 0) {
    this.hooks = hooks;
    this.#kept = kept;
    this.element.addEventListener("pointermove", (event) => this.#hovered(event));
    this.element.addEventListener("pointerout", () => card.hideSoon());
    this.element.addEventListener("focusin", (event) => this.select(indexOf(event.target)));
    this.element.addEventListener("click", (event) => this.#clicked(event));
    this.element.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** @param {TokenEntry[]} entries all so far; what was shown stays */
  update(entries) {
    const from = this.element.childElementCount;
    this.entries = entries;
    this.element.append(...entries.slice(from).flatMap((entry, at) => this.#token(entry, from + at)));
  }

  /** @param {number} at */
  select(at) {
    if (at < 0 || at >= this.entries.length) return;
    this.#mark(at);
    card.show(this, at);
  }

  /** @param {number} at */
  focus(at) {
    const tokens = this.element.children;
    const target = tokens[Math.max(0, Math.min(at, tokens.length - 1))];
    /** @type {HTMLElement | undefined} */ (target)?.focus();
  }

  /** @param {number} at */
  #mark(at) {
    const [before, now] = [this.element.children[this.selected], this.element.children[at]];
    before?.classList.remove("on");
    before?.setAttribute("tabindex", "-1");
    now.classList.add("on");
    now.setAttribute("tabindex", "0");
    this.selected = at;
    this.hooks.onSelect(at);
  }

  /**
   * @param {TokenEntry} entry
   * @param {number} at
   * @returns {(string | HTMLElement)[]}
   */
  #token(entry, at) {
    const classes = ["token", `s${shadeOf(entry.logprob)}`];
    if (entry.rank > 1) classes.push("other");
    if (entry.piece === "" && entry.token.startsWith("<")) classes.push("special");
    if (entry.token.startsWith("\n")) classes.push("break");
    if (at < this.#kept) classes.push(at === this.#kept - 1 ? "turned" : "kept");
    // A space before a word is no part of the coloured box; a token of spaces alone is.
    const space = /^ +(?=\S)/.exec(entry.token)?.[0] ?? "";
    const label = `${visible(entry.token)}, ${percent(Math.exp(entry.logprob))}`;
    const token = el(
      "span",
      {
        class: classes.join(" "), role: "button", tabindex: at === 0 ? 0 : -1, "data-at": at,
        "aria-label": label, "aria-haspopup": "true",
      },
      entry.token.slice(space.length),
    );
    return [space, token];
  }

  /** @param {PointerEvent} event */
  #hovered(event) {
    const at = indexOf(event.target);
    // The pointer moved over it; not: it appeared below the pointer.
    const moved = event.pointerType === "mouse" && pointer.moves(event);
    if (moved && at >= 0 && !card.pinned && !card.shows(this, at)) this.select(at);
    else if (at >= 0) clearTimeout(card.timer);
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const at = indexOf(event.target);
    if (at < 0) return;
    this.focus(at);
    card.pinned = true;
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    const at = indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.entries.length - 1 }[event.key];
    if (at < 0) return;
    if (to !== undefined) this.focus(to);
    else if (event.key === "Enter" || event.key === " ") card.enter(this, at);
    else if (event.key === "Escape") card.hide();
    else return;
    event.preventDefault();
  }
}

/** Where the mouse was last. */
const pointer = {
  x: -1,
  y: -1,
  /** @param {PointerEvent} event */
  moves({ screenX, screenY }) {
    const moved = screenX !== this.x || screenY !== this.y;
    [this.x, this.y] = [screenX, screenY];
    return moved;
  },
};

/** @param {EventTarget | null} target */
function indexOf(target) {
  const token = /** @type {HTMLElement | null} */ (target)?.closest?.("[data-at]");
  return token ? Number(/** @type {HTMLElement} */ (token).dataset.at) : -1;
}

/** The one card of the page, beside the token it speaks of. */
const card = {
  /** @type {HTMLElement} */
  element: byId("token-card"),
  pinned: false,
  /** @type {TokenText | null} */
  owner: null,
  at: 0,
  timer: 0,

  /**
   * @param {TokenText} owner
   * @param {number} at
   */
  show(owner, at) {
    clearTimeout(this.timer);
    [this.owner, this.at] = [owner, at];
    this.element.replaceChildren(...contents(owner.entries[at], (alternative) => this.choose(alternative)));
    this.element.hidden = false;
    this.place();
  },

  /**
   * @param {TokenText} owner
   * @param {number} at
   */
  shows(owner, at) {
    return !this.element.hidden && this.owner === owner && this.at === at;
  },

  place() {
    const token = this.owner?.element.children[this.at];
    if (!token) return;
    const around = token.getClientRects()[0] ?? token.getBoundingClientRect();
    const [width, height] = [this.element.offsetWidth, this.element.offsetHeight];
    const left = Math.max(8, Math.min(around.left - 12, innerWidth - width - 8));
    const below = around.bottom + 6 + height < innerHeight;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${below ? around.bottom + 6 : Math.max(8, around.top - height - 6)}px`;
  },

  /**
   * @param {TokenText} owner
   * @param {number} at
   */
  enter(owner, at) {
    this.show(owner, at);
    this.pinned = true;
    this.element.querySelector("button")?.focus();
  },

  hide() {
    this.pinned = false;
    this.element.hidden = true;
  },

  hideSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.pinned && !this.element.matches(":hover, :focus-within")) this.hide();
    }, HIDE_MS);
  },

  /** @param {Candidate} alternative */
  choose(alternative) {
    const { owner, at } = this;
    this.hide();
    owner?.hooks.onBranch?.(at, alternative);
  },

  /** Back to the token. */
  leave() {
    const { owner, at } = this;
    owner?.focus(at);
    this.hide();
  },
};

card.element.addEventListener("pointerleave", () => card.hideSoon());
card.element.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") card.leave();
  else if (step) {
    const buttons = [...card.element.querySelectorAll("button")];
    buttons[buttons.indexOf(/** @type {any} */ (document.activeElement)) + step]?.focus();
  } else return;
  event.preventDefault();
});
document.addEventListener("pointerdown", (event) => {
  const target = /** @type {Element} */ (event.target);
  if (!target.closest(".token-card, .token")) card.hide();
});
document.addEventListener("pointermove", (event) => pointer.moves(event), { passive: true });
document.addEventListener("scroll", () => card.element.hidden || card.place(), { passive: true });
document.addEventListener("focusin", (event) => {
  const target = /** @type {Element} */ (event.target);
  if (!target.closest(".token-card, .token")) card.hide();
});

/**
 * @param {TokenEntry} entry
 * @param {(alternative: Candidate) => void} choose
 */
function contents(entry, choose) {
  const known = entry.alternatives.some(({ id }) => id === entry.id);
  const shown = known ? entry.alternatives : [...entry.alternatives, entry];
  const canBranch = card.owner?.hooks.onBranch != null;
  const rank = entry.rank === 1 ? "the likeliest" : `number ${entry.rank} by likelihood`;
  return [
    el("p", { class: "title" }, visible(entry.token)),
    el("p", { class: "sub" }, `${percent(Math.exp(entry.logprob))}, ${rank} · entropy ${bits(entry.entropy).toFixed(1)} bits`),
    el("ol", {}, ...shown.map((each) => el("li", {}, alternativeButton(each, each.id === entry.id, canBranch, choose)))),
    steps(entry, canBranch),
  ];
}

/**
 * @param {Candidate} candidate
 * @param {boolean} isCurrent
 * @param {boolean} canBranch
 * @param {(alternative: Candidate) => void} choose
 */
function alternativeButton(candidate, isCurrent, canBranch, choose) {
  const probability = Math.exp(candidate.logprob);
  return el(
    "button",
    {
      type: "button", disabled: !canBranch, "aria-current": isCurrent ? "true" : null,
      onclick: () => choose(candidate),
    },
    el("span", { class: "name" }, el("span", { class: "sr-only" }, "Go on from "), visible(candidate.token)),
    el("progress", { max: 1, value: probability, "aria-hidden": "true" }),
    el("span", { class: "number" }, percent(probability)),
  );
}

/**
 * @param {TokenEntry} entry
 * @param {boolean} canBranch
 */
function steps(entry, canBranch) {
  const left = entry.steps.map(({ step, left: number }) => `${step} left ${number.toLocaleString("en")}`);
  const removed = entry.removed_by ? ` ${entry.removed_by} removed the likeliest.` : "";
  const how = left.length ? `Candidates: ${left.join(", ")}.${removed}` : "Always the likeliest.";
  return el("p", { class: "steps" }, how, canBranch ? " Choose one to go on from there." : "");
}
