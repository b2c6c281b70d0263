import assert from "node:assert/strict";
import { pageTest, ready, say } from "./harness.js";

pageTest("an adapter can be chosen below its base, and answers otherwise than it", async (page) => {
  await ready(page);
  assert.deepEqual(await page.locator("#set-model option").allTextContents(), ["minnow", "minnow + tale"]);
  await say(page, "Tell me a story about a cat.");
  await page.selectOption("#set-model", "tale");
  const card = await page.textContent("#model-card");
  assert.match(card, /Adapter/);
  assert.match(card, /Rank\s*4/);
  await page.click("#chat-new");
  const [sent] = await Promise.all([
    page.waitForRequest((request) => request.method() === "POST"),
    say(page, "Tell me a story about a cat."),
  ]);
  assert.equal(sent.postDataJSON().model, "tale");
  await page.reload();
  await ready(page);
  assert.equal(await page.inputValue("#set-model"), "tale");
});

pageTest("a model and its adapter are compared", async (page) => {
  await page.waitForFunction(() => document.querySelector("#compare-left select")?.value);
  await page.selectOption("#compare-left select", "minnow");
  await page.selectOption("#compare-right select", "tale");
  await page.click("#compare-run");
  await page.locator(".side mark").nth(1).waitFor();
  assert.match(await page.textContent("#compare-verdict"), /^They differ from character \d+ on/);
}, { view: "compare" });

pageTest("the charts count an adapter with its base", async (page) => {
  await ready(page);
  await page.locator(".chart .now").first().waitFor();
  await page.evaluate(() => fetch("/v1/completions", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: "tale", prompt: "Once", max_tokens: 40, ignore_eos: true }),
  }).then((response) => response.text()));
  await page.waitForFunction(() => /highest [1-9]/.test(document.querySelector(".chart svg").getAttribute("aria-label")));
  assert.deepEqual(await page.locator("#live-model option").allTextContents(), ["all", "minnow"]);
}, { view: "live" });
