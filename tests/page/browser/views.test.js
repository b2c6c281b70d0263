import assert from "node:assert/strict";
import { PHONE, URL, accessible, pageTest, ready, say } from "./harness.js";

const VIEWS = ["chat", "complete", "compare", "wall", "live"];

pageTest("the first text is there within a second", async (page) => {
  const [paint] = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint").map(({ startTime }) => startTime));
  console.log(`first text after ${paint.toFixed(0)} ms`);
  assert.ok(paint < 1000, `${paint} ms`);
});

pageTest("a text is continued", async (page) => {
  await ready(page);
  await page.click("#complete-run");
  await page.locator("#complete-output .receipt").waitFor();
  assert.ok((await page.locator("#complete-output .turn-answer > .plain").textContent()).length > 10);
}, { view: "complete" });

pageTest("the same request gives the same text on both sides; another seed another", async (page) => {
  await page.waitForFunction(() => document.querySelector("#compare-left select")?.value);
  await page.selectOption("#compare-left select", "minnow");
  await page.selectOption("#compare-right select", "minnow");
  await page.click("#compare-run");
  await page.locator("#compare-verdict.good").waitFor();
  assert.match(await page.textContent("#compare-verdict"), /^The same \d+ characters/);
  await page.locator("#compare-right input").last().fill("2");
  await page.click("#compare-run");
  await page.locator(".side mark").nth(1).waitFor();
  assert.match(await page.textContent("#compare-verdict"), /^They differ from character \d+ on/);
}, { view: "compare" });

pageTest("each stream of the wall says alone what it said among all", async (page) => {
  await ready(page);
  await page.fill("#wall-tokens", "16");
  await page.click("#wall-run");
  await page.getByText("32 streams done.").waitFor();
  assert.equal(await page.locator("#wall-cells li").count(), 32);
  for (const at of [0, 9, 31]) {
    await page.locator("#wall-cells button").nth(at).click();
    await page.getByText(`Stream ${at + 1}, run alone: the same`).waitFor();
  }
  assert.equal(await page.locator("#wall-cells .same").count(), 3);
}, { view: "wall", settings: { seed: "" } });

pageTest("the charts show what the server does", async (page) => {
  await ready(page);
  await page.locator(".chart .now").first().waitFor();
  await page.evaluate(() => fetch("/v1/completions", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: "minnow", prompt: "Once", max_tokens: 40, ignore_eos: true }),
  }).then((response) => response.text()));
  await page.waitForFunction(() => /highest [1-9]/.test(document.querySelector(".chart svg").getAttribute("aria-label")));
  await page.selectOption("#live-model", "pilotfish");
  await page.waitForFunction(() => /now 0/.test(document.querySelector(".chart svg").getAttribute("aria-label")));
}, { view: "live" });

pageTest("the theme follows the system until one is chosen, which is kept", async (page) => {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  await page.click("#theme-button");
  const light = await background();
  assert.notEqual(light, dark);
  await page.reload();
  assert.equal(await background(), light);
  await page.click("#theme-button");
  assert.equal(await background(), dark);
}, { context: { colorScheme: "dark" } });

pageTest("on a phone nothing is wider than the screen, and the settings are a drawer", async (page) => {
  await ready(page);
  for (const view of VIEWS) {
    await page.goto(`${URL}/#${view}`);
    await page.locator(`#view-${view}`).waitFor();
    await page.waitForTimeout(100);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, view);
  }
  await page.goto(`${URL}/#chat`);
  await page.tap("#settings-button");
  await page.locator("#set-temperature").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "settings-close");
  assert.equal(await page.evaluate(() => document.querySelector("main").inert), true);
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.id), "settings-button");
  await say(page, "Tell me a story.");
  await page.locator(".token").nth(2).tap();
  await page.locator("#token-card button").first().waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
}, { context: PHONE, settings: { inside: true } });

for (const colorScheme of ["light", "dark"]) {
  pageTest(`every view is accessible, ${colorScheme}`, async (page) => {
    await say(page, "Tell me a story.");
    for (const summary of await page.locator("summary:visible").all()) await summary.click();
    await page.locator(".token").nth(3).click();
    await accessible(page, "chat");
    for (const view of VIEWS.slice(1)) {
      await page.goto(`${URL}/#${view}`);
      await page.waitForTimeout(300);
      if (view !== "live") await page.click(`#${view}-run`);
      if (view === "compare") await page.locator(".side .receipt").nth(1).waitFor();
      if (view === "wall") await page.getByText("32 streams done.").waitFor();
      if (view === "complete") await page.locator("#complete-output .receipt").waitFor();
      await accessible(page, view);
    }
    await page.goto(`${URL}/#chat`);
    for (const name of ["code", "history", "key"]) {
      await page.click(name === "key" ? "#key-button" : `#chat-${name}`);
      await accessible(page, `${name} dialog`);
      await page.click(`#${name}-close`);
    }
  }, { context: { colorScheme, reducedMotion: "reduce" }, settings: { inside: true, temperature: 1.5 } });
}

pageTest("the page on a phone is accessible too", async (page) => {
  await ready(page);
  await accessible(page, "chat");
  await page.tap("#settings-button");
  await page.waitForTimeout(300);
  await accessible(page, "settings");
}, { context: { ...PHONE, reducedMotion: "reduce" } });
