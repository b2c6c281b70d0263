/** Opens the page in Chromium, for one test, and fails it for anything the console complains of. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import test, { after } from "node:test";

const require = createRequire(`${process.env.PAGE_TOOLS}/package.json`);
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const URL = process.env.SHOAL_URL;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
export const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };

let browser = null;
after(() => browser?.close());

/**
 * A test with a page of its own.
 * @param {string} name
 * @param {(page: any) => Promise<void>} run
 * @param {{context?: any, settings?: any, view?: string, expectedErrors?: RegExp}} options
 *   settings: as the browser remembers them; expectedErrors: lines of the console that belong to the test
 */
export function pageTest(name, run, { context = {}, settings = {}, view = "chat", expectedErrors } = {}) {
  test(name, { timeout: 60_000 }, async () => {
    browser ??= await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
    const opened = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...context });
    const page = await opened.newPage();
    page.setDefaultTimeout(20_000);
    const complaints = [];
    page.on("console", (line) => ["error", "warning"].includes(line.type()) && complaints.push(line.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => request.url().startsWith(URL) || complaints.push(`asked ${request.url()}`));
    await page.addInitScript((values) => {
      if (!localStorage.getItem("shoal.settings")) localStorage.setItem("shoal.settings", JSON.stringify(values));
    }, { model: "minnow", max_tokens: 24, seed: 3, ...settings });
    try {
      await page.goto(`${URL}/#${view}`);
      await run(page);
      assert.deepEqual(complaints.filter((line) => !expectedErrors?.test(line)), []);
    } finally {
      await opened.close();
    }
  });
}

/** Resolves when the models are known. */
export async function ready(page) {
  await page.waitForFunction(() => document.querySelector("#set-model")?.value);
}

/** Sends a message and waits for the whole answer. */
export async function say(page, text) {
  const before = await page.locator(".receipt").count();
  await ready(page);
  await page.fill("#chat-input", text);
  await page.press("#chat-input", "Enter");
  await page.waitForFunction((count) => document.querySelectorAll(".receipt").length > count, before);
}

/** The answers of the server become a stream that the test holds in its hand: `window.stream`. */
export async function holdStreams(page) {
  await page.addInitScript(() => {
    const really = window.fetch;
    window.fetch = (path, options) => {
      if (options?.method !== "POST") return really(path, options);
      const body = new ReadableStream({
        start(controller) {
          const encoder = new TextEncoder();
          window.stream = {
            say: (text) => controller.enqueue(encoder.encode(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: text } }] })}\n\n`)),
            end: () => controller.close(),
          };
          options.signal.addEventListener("abort", () => {
            window.stream.aborted = true;
            controller.error(new DOMException("aborted", "AbortError"));
          });
        },
      });
      return Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
    };
  });
  await page.reload();
}

/** Fails with what axe has found against the page as it is now. */
export async function accessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${what}: ${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
  assert.deepEqual(found, []);
}
