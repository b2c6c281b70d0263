/** Starts the page: views by address, theme, settings drawer, models. Other views load on use. */

import { startChat } from "./chat.js";
import { startControls } from "./controls.js";
import { startDialogs } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { loadModels } from "./models.js";
import { key, theme } from "./store.js";

const TITLES = /** @type {Record<string, string>} */ ({
  chat: "Chat", complete: "Complete", compare: "Side by side", wall: "32 at once", live: "Live",
});
/** @type {Record<string, () => Promise<{start: () => void, onShow?: () => void, onHide?: () => void}>>} */
const LOADERS = {
  complete: () => import("./complete.js"),
  compare: () => import("./compare.js"),
  wall: () => import("./wall.js"),
  live: () => import("./live.js"),
};
/** @type {Record<string, {onShow?: () => void, onHide?: () => void}>} */
const loaded = {};
let shown = "chat";

async function showView() {
  const wanted = location.hash.slice(1);
  const name = wanted in TITLES ? wanted : "chat";
  loaded[shown]?.onHide?.();
  shown = name;
  for (const view of Object.keys(TITLES)) byId(`view-${view}`).hidden = view !== name;
  for (const link of document.querySelectorAll(".views a")) {
    const current = link.getAttribute("href") === `#${name}`;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (current) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  document.body.dataset.view = name;
  document.title = `${TITLES[name]} · Shoal`;
  scrollTo(0, 0);
  if (name in LOADERS && !(name in loaded)) {
    const view = await LOADERS[name]();
    if (!(name in loaded)) view.start();
    loaded[name] = view;
  }
  if (shown === name) loaded[name]?.onShow?.();
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  byId("theme-button").addEventListener("click", () => {
    const now = theme.get() || (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    // What the system says needs no memory: the page follows it then.
    const follows = (next === "dark") === dark.matches;
    theme.set(follows ? "" : next);
    if (follows) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    announce(`${next} theme`);
  });
}

/** On small screens the settings are a drawer; everything else rests while it is open. */
function startDrawer() {
  const [button, panel] = [byId("settings-button"), byId("settings")];
  const rest = [document.querySelector(".top"), byId("content")];
  const isDrawer = () => getComputedStyle(button).display !== "none";
  const set = (/** @type {boolean} */ open) => {
    document.body.dataset.settings = open ? "open" : "";
    button.setAttribute("aria-expanded", String(open));
    rest.forEach((part) => part?.toggleAttribute("inert", open));
    if (open) byId("settings-close").focus();
    else button.focus();
  };
  button.addEventListener("click", () => set(true));
  byId("settings-close").addEventListener("click", () => set(false));
  document.addEventListener("open-settings", () => isDrawer() && set(true));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.dataset.settings === "open") set(false);
  });
  document.addEventListener("pointerdown", (event) => {
    const outside = !panel.contains(/** @type {Node} */ (event.target));
    if (outside && document.body.dataset.settings === "open") set(false);
  });
  addEventListener("resize", () => {
    if (!isDrawer() && document.body.dataset.settings === "open") set(false);
  });
}

function startModels() {
  document.addEventListener("models-error", (event) => {
    const { message } = /** @type {CustomEvent} */ (event).detail;
    byId("model-card").textContent = message;
  });
  // A link cannot carry a key: the API's page is for servers without.
  const showDocs = () => document.querySelector(".nav-docs")?.toggleAttribute("hidden", Boolean(key.get()));
  showDocs();
  startDialogs(() => {
    showDocs();
    void loadModels();
    loaded[shown]?.onShow?.();
  });
  void loadModels();
}

startControls();
startChat();
startTheme();
startDrawer();
startModels();
addEventListener("hashchange", () => void showView());
void showView();
