import assert from "node:assert/strict";
import { holdStreams, pageTest, ready, say } from "./harness.js";

const INSIDE = { settings: { inside: true, temperature: 0.9 } };

pageTest("an answer streams, and Stop ends it with what there is", async (page) => {
  await holdStreams(page);
  await ready(page);
  await page.fill("#chat-input", "Hi");
  await page.click("#chat-send");
  await page.waitForFunction(() => window.stream);
  await page.evaluate(() => window.stream.say("One "));
  await page.getByText("One", { exact: true }).waitFor();
  await page.evaluate(() => window.stream.say("**two**"));
  await page.locator(".prose strong", { hasText: "two" }).waitFor();
  assert.equal(await page.getAttribute("#chat-send", "aria-label"), "Stop");
  await page.click("#chat-send");
  await page.getByText("stopped by you").waitFor();
  assert.equal(await page.evaluate(() => window.stream.aborted), true);
  assert.equal(await page.getAttribute("#chat-send", "aria-label"), "Send");
  assert.match(await page.textContent("#chat-log"), /One two/);
});

pageTest("what a model says never becomes HTML", async (page) => {
  await holdStreams(page);
  await ready(page);
  await page.fill("#chat-input", "<b>Hi</b>");
  await page.click("#chat-send");
  await page.waitForFunction(() => window.stream);
  const text = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `<script>`";
  await page.evaluate((said) => { window.stream.say(said); window.stream.end(); }, text);
  await page.locator(".receipt").waitFor();
  assert.equal(await page.locator("#chat-log img, #chat-log b, #chat-log script, #chat-log a").count(), 0);
  assert.match(await page.textContent("#chat-log"), /<img src=x/);
});

pageTest("a branch keeps the tokens before, and goes on from the alternative", async (page) => {
  await say(page, "Tell me a story about a fish.");
  const tokens = () => page.locator(".token").allTextContents();
  const before = await tokens();
  assert.ok(before.length > 5);
  await page.locator(".token").nth(4).click();
  const other = page.locator("#token-card button:not([aria-current])").first();
  const name = (await other.locator(".name").textContent()).replace("Go on from ", "").replace("␣", "").trim();
  await other.click();
  await page.getByText("2 of 2").waitFor();
  await page.waitForFunction(() => document.querySelector(".turn[aria-busy=false]"));
  const now = await tokens();
  assert.deepEqual(now.slice(0, 4), before.slice(0, 4));
  assert.equal(now[4].trim(), name);
  assert.ok(now.length > 5);
  await page.getByLabel("Previous answer").click();
  assert.deepEqual(await tokens(), before);
}, INSIDE);

pageTest("hovering shows alternatives; the lens and the entropy line belong to the tokens", async (page) => {
  await say(page, "Tell me a story about a fish.");
  await page.locator(".token").nth(2).hover();
  await page.locator("#token-card li").nth(4).waitFor();
  assert.match(await page.textContent("#token-card"), /entropy [\d.]+ bits/);
  await page.mouse.move(600, 20);
  await page.locator("#token-card").waitFor({ state: "hidden" });
  await page.locator(".lens summary").click();
  await page.locator(".lens tbody tr").nth(1).waitFor();
  const count = await page.locator(".token").count();
  assert.match(await page.locator(".entropy").getAttribute("aria-label"), new RegExp(`of ${count} tokens`));
}, INSIDE);

pageTest("everything can be reached and done with the keyboard alone", async (page) => {
  await ready(page);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.textContent);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "skip");
  for (let at = 0; at < 40 && (await focused()) !== "chat-input"; at += 1) await page.keyboard.press("Tab");
  assert.equal(await focused(), "chat-input");
  await page.keyboard.type("Tell me a story.");
  await page.keyboard.press("Enter");
  await page.locator(".receipt").waitFor();
  for (let at = 0; at < 10 && !/token/.test(await focused()); at += 1) await page.keyboard.press("Shift+Tab");
  for (let at = 0; at < 10 && !/\btoken\b/.test(await focused()); at += 1) await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.match(await page.evaluate(() => document.activeElement.textContent), /^Go on from/);
  await page.keyboard.press("Escape");
  assert.match(await focused(), /\btoken\b/);
  await page.keyboard.press("Enter");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.getByText("2 of 2").waitFor();
}, INSIDE);

pageTest("a schema forces the answer", async (page) => {
  await ready(page);
  await page.getByText("Form of the answer").click();
  await page.selectOption("#set-format", "json_schema");
  await page.fill("#set-schema", "{");
  await page.fill("#chat-input", "Hi");
  await page.press("#chat-input", "Enter");
  await page.getByText(/The JSON schema is no JSON/).first().waitFor();
  await page.fill("#set-schema", JSON.stringify({ type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false }));
  await say(page, "Is it good?");
  assert.equal(typeof JSON.parse(await page.textContent(".turn-answer > .plain")).ok, "boolean");
});

pageTest("a tool call is shown, and its result goes back to the model", async (page) => {
  await ready(page);
  await page.locator("summary", { hasText: "Tools" }).click();
  await page.locator("#set-tools-field").getByText("Example").click();
  await page.selectOption("#set-tool_choice", "required");
  await say(page, "Weather in Paris?");
  await page.locator(".call-name", { hasText: "get_weather" }).first().waitFor();
  await page.selectOption("#set-tool_choice", "none");
  const [sent] = await Promise.all([
    page.waitForRequest((request) => request.method() === "POST"),
    (async () => { await page.getByLabel("Result of the call").fill("sunny"); await page.getByRole("button", { name: "Answer" }).click(); })(),
  ]);
  const roles = sent.postDataJSON().messages.map(({ role }) => role);
  assert.deepEqual(roles.slice(0, 3), ["user", "assistant", "tool"]);
}, { settings: { max_tokens: 60 } });

pageTest("the history comes back after a reload, and can be cleared", async (page) => {
  await say(page, "Tell me a story about a cat.");
  await page.reload();
  await page.click("#chat-history");
  await page.getByText("Tell me a story about a cat.").click();
  assert.equal(await page.locator(".message").count(), 2);
  await page.click("#chat-history");
  await page.click("#history-clear");
  await page.click("#chat-history");
  await page.getByText("Nothing yet.").waitFor();
  await page.click("#history-close");
});

pageTest("the code of a request can be had in three languages", async (page) => {
  await ready(page);
  await page.fill("#chat-input", "What is a shoal?");
  await page.click("#chat-code");
  assert.match(await page.textContent("#code-text"), /^curl -N http[^]*What is a shoal\?/);
  await page.keyboard.press("Tab");
  await page.click("#code-tab-sdk");
  assert.match(await page.textContent("#code-text"), /from shoal import Client/);
  await page.keyboard.press("ArrowRight");
  assert.match(await page.textContent("#code-text"), /from openai import OpenAI/);
  await page.keyboard.press("Escape");
});

pageTest("what the server refuses is said in the chat", async (page) => {
  await ready(page);
  await page.fill("#set-max_tokens", "600000");
  await page.fill("#chat-input", "Hi");
  await page.press("#chat-input", "Enter");
  await page.locator("#chat-log .notice").waitFor();
  assert.match(await page.textContent("#chat-log .notice"), /max_tokens|tokens/);
}, { expectedErrors: /400/ });
