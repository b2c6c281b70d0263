/** Calls the server that the page came from. Streams end early by an AbortSignal only. */

import { Answer } from "./collect.js";
import { parseRecord, writeBody } from "./json.js";
import { EventParser } from "./sse.js";
import { key } from "./store.js";

/** What the server said no with. */
export class APIError extends Error {
  /**
   * @param {number} status 0 = no answer at all
   * @param {{message?: string, hint?: string, code?: string | null}} error
   */
  constructor(status, error) {
    super(error.message ?? `the server answered ${status}`);
    this.status = status;
    this.hint = error.hint ?? "";
    this.code = error.code ?? "";
  }
}

/**
 * @param {string} path
 * @param {{body?: unknown, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 * @throws {APIError}
 */
async function call(path, { body, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : writeBody(body),
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw error;
    throw new APIError(0, { message: "The server does not answer.", hint: "Is it still running?" });
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) document.dispatchEvent(new CustomEvent("key-wanted"));
  throw new APIError(response.status, answer.error ?? {});
}

/**
 * @param {string} path
 * @param {{body?: unknown, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function getJSON(path, options) {
  return (await call(path, options)).json();
}

/** @param {string} path */
export async function getText(path) {
  return (await call(path)).text();
}

/**
 * Streams an answer. Returns what there is when `signal` aborts.
 * @param {{path: string, body: Record<string, any>}} request `stream` is added
 * @param {{signal?: AbortSignal, onChange?: (answer: Answer, changed: number[]) => void}} [options]
 * @returns {Promise<{answer: Answer, stopped: boolean, firstToken: number, seconds: number}>}
 *   times in seconds, as the page saw them
 * @throws {APIError}
 */
export async function streamAnswer({ path, body }, { signal, onChange } = {}) {
  const [answer, parser, start] = [new Answer(), new EventParser(), performance.now()];
  const elapsed = () => (performance.now() - start) / 1000;
  let firstToken = 0;
  let stopped = false;
  try {
    const response = await call(path, { body: { ...body, stream: true }, signal });
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const data of parser.push(decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") continue;
        const record = parseRecord(data);
        if (record.error) throw new APIError(response.status, record.error);
        const changed = answer.add(record);
        if (changed.length) {
          firstToken ||= elapsed();
          onChange?.(answer, changed);
        }
      }
    }
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") stopped = true;
    else if (error instanceof APIError) throw error;
    else throw new APIError(0, { message: "The connection broke before the answer ended." });
  }
  return { answer, stopped, firstToken, seconds: elapsed() };
}
