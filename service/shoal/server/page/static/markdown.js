/** A small Markdown renderer that builds DOM nodes: no HTML of a model ever gets into the page.
 * Knows paragraphs, headings, lists, quotes, code, bold, italic and links. */

import { el } from "./dom.js";

/**
 * @param {string} text
 * @returns {HTMLElement[]}
 */
export function renderMarkdown(text) {
  return blocksOf(text).map(({ kind, lines, level }) => {
    const joined = lines.join("\n");
    if (kind === "code") return el("pre", {}, el("code", {}, joined));
    if (kind === "heading") return el("h2", {}, ...inline(joined));
    if (kind === "quote") return el("blockquote", {}, ...inline(joined));
    if (kind === "list" || kind === "numbers") return list(kind, lines, level);
    return el("p", {}, ...inline(joined));
  });
}

/**
 * @param {string} kind
 * @param {string[]} lines
 * @param {number} start
 */
function list(kind, lines, start) {
  const items = lines.map((line) => el("li", {}, ...inline(line)));
  return kind === "list" ? el("ul", {}, ...items) : el("ol", { start }, ...items);
}

/**
 * @typedef {{kind: string, lines: string[], level: number}} Block
 *   kind: code, heading, quote, list, numbers or text; level: of a list of numbers its first
 */
const LINE_KINDS = /** @type {[string, RegExp][]} */ ([
  ["heading", /^#{1,6}\s+(.*)$/],
  ["quote", /^>\s?(.*)$/],
  ["list", /^\s*[-*+]\s+(.*)$/],
  ["numbers", /^\s*\d{1,9}[.)]\s+(.*)$/],
]);

/**
 * @param {string} text
 * @returns {Block[]}
 */
export function blocksOf(text) {
  /** @type {Block[]} */
  const blocks = [];
  let fence = "";
  let fresh = true;
  for (const line of text.split("\n")) {
    const last = blocks.at(-1);
    const mark = /^\s*(```+|~~~+)/.exec(line)?.[1] ?? "";
    if (fence && last) {
      if (mark.startsWith(fence)) fence = "";
      else last.lines.push(line);
    } else if (mark) {
      fence = mark;
      blocks.push({ kind: "code", lines: [], level: 0 });
    } else if (line.trim() === "") {
      fresh = true;
      continue;
    } else {
      addLine(blocks, line, fresh);
    }
    fresh = !fence && mark !== "";
  }
  return blocks;
}

/**
 * @param {Block[]} blocks
 * @param {string} line
 * @param {boolean} fresh it follows an empty line
 */
function addLine(blocks, line, fresh) {
  const last = blocks.at(-1);
  for (const [kind, pattern] of LINE_KINDS) {
    const found = pattern.exec(line);
    if (!found) continue;
    const joins = last?.kind === kind && kind !== "heading";
    if (joins && last) last.lines.push(found[1]);
    else blocks.push({ kind, lines: [found[1]], level: Number.parseInt(line, 10) || 1 });
    return;
  }
  const isItem = last?.kind === "list" || last?.kind === "numbers";
  if (last && !fresh && (isItem || last.kind === "quote")) {
    last.lines[last.lines.length - 1] += `\n${line.trim()}`;
  } else if (last && !fresh && last.kind === "text") {
    last.lines.push(line);
  } else {
    blocks.push({ kind: "text", lines: [line], level: 0 });
  }
}

const INLINE =
  /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*([^*\s](?:.*?[^*\s])?)\*\*|\*([^*\s](?:[^*]*?[^*\s])?)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

/**
 * @param {string} text
 * @returns {(Node | string)[]}
 */
function inline(text) {
  /** @type {(Node | string)[]} */
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, found.index));
    const [whole, , code, bold, italic, label, url] = found;
    if (code !== undefined) nodes.push(el("code", {}, code));
    else if (bold !== undefined) nodes.push(el("strong", {}, ...inline(bold)));
    else if (italic !== undefined) nodes.push(el("em", {}, ...inline(italic)));
    else nodes.push(el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, label));
    end = found.index + whole.length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}
