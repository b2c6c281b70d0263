import assert from "node:assert/strict";
import { URL, pageTest, ready, say } from "./harness.js";

const KEY = process.env.SHOAL_TEST_KEY;

pageTest("a server with keys is asked with the key of this tab, which is kept nowhere else", async (page) => {
  await page.locator("#key-dialog[open]").waitFor();
  await page.fill("#key-input", "wrong");
  await page.keyboard.press("Enter");
  await page.getByText("does not accept this key").waitFor();
  await page.fill("#key-input", KEY);
  await page.keyboard.press("Enter");
  await ready(page);
  await say(page, "Tell me a story.");
  await page.click("#chat-code");
  assert.match(await page.textContent("#code-text"), /\$SHOAL_API_KEY/);
  assert.ok(!(await page.textContent("#code-text")).includes(KEY));
  await page.keyboard.press("Escape");
  assert.ok(!page.url().includes(KEY));
  assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes(KEY));
  assert.equal(await page.locator(".nav-docs").isVisible(), false);
  await page.reload();
  await ready(page);
  await page.goto(`${URL}/#live`);
  await page.locator(".chart .now").first().waitFor();
  await page.click("#key-button");
  await page.click("#key-forget");
  await page.locator("#key-dialog[open]").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
}, { expectedErrors: /401/ });
