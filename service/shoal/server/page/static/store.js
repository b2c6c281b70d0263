/** What the page remembers, in this browser only: settings and history, and the key until the tab
 * is closed. */

const PREFIX = "shoal.";
export const MAX_CHATS = 30;
const MAX_CHARS = 300_000;

/**
 * A value in the browser's storage that nobody else can break: anything unreadable is forgotten.
 * @param {string} name
 * @param {any} fallback
 */
function read(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name) ?? "null") ?? fallback;
  } catch {
    return fallback;
  }
}

/**
 * @param {string} name
 * @param {any} value
 */
function write(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // full, or not allowed here: the page works without
  }
}

/**
 * @typedef {Record<string, any>} Settings fields of the settings panel; "" or missing = not sent
 */
export const settings = {
  /** @type {Settings} */
  values: { max_tokens: 256, ...read("settings", {}) },

  /**
   * @param {string} name
   * @param {any} value
   */
  set(name, value) {
    this.values[name] = value;
    write("settings", this.values);
    document.dispatchEvent(new CustomEvent("settings", { detail: name }));
  },

  /** Back to what the models come with. */
  reset() {
    this.values = { model: this.values.model, max_tokens: 256 };
    write("settings", this.values);
    document.dispatchEvent(new CustomEvent("settings", { detail: "" }));
  },
};

/** The API key: kept for this tab, never written into an address or a snippet. */
export const key = {
  get() {
    try {
      return sessionStorage.getItem(`${PREFIX}key`) ?? "";
    } catch {
      return "";
    }
  },
  /** @param {string} value "" = none */
  set(value) {
    if (value) sessionStorage.setItem(`${PREFIX}key`, value);
    else sessionStorage.removeItem(`${PREFIX}key`);
  },
};

/**
 * @typedef {{id: string, at: number, title: string, model: string,
 *   messages: {role: string, content: string}[]}} SavedChat
 */
export const history = {
  /** @returns {SavedChat[]} newest first */
  list() {
    const chats = read("history", []);
    return Array.isArray(chats) ? chats : [];
  },

  /** @param {SavedChat} chat replaces the one with its id */
  save(chat) {
    write("history", bounded([chat, ...this.list().filter(({ id }) => id !== chat.id)]));
  },

  /** @param {string} id */
  remove(id) {
    write("history", this.list().filter((chat) => chat.id !== id));
  },

  clear() {
    write("history", []);
  },
};

/**
 * The newest chats that fit.
 * @param {SavedChat[]} chats newest first
 */
export function bounded(chats) {
  let left = MAX_CHARS;
  return chats.slice(0, MAX_CHATS).filter((chat) => (left -= JSON.stringify(chat).length) >= 0);
}

/** "light", "dark", or "" = as the system says. */
export const theme = {
  get() {
    return read("theme", "");
  },
  /** @param {string} value */
  set(value) {
    write("theme", value);
  },
};
