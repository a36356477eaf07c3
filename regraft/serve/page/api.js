// Talks to the server: waits where it is busy, asks for the token where it wants one, and says in plain words why it refused.

import { sentence } from "./words.js";

const PATIENCE = 40; // times that "busy" is waited for
const PLAIN = {
  403: "The server does not accept requests from this address.",
  404: "The server does not know this request; is the page older than the server?",
  408: "Sending took too long, and the server stopped waiting.",
  413: "The file is larger than the server accepts.",
  415: "This is no image that the server can read. It reads JPEG, PNG, WebP, BMP, GIF and TIFF.",
  500: "Something went wrong in the server; its log says what.",
  503: "The server is too busy just now. Try again in a moment.",
  504: "The answer took too long, and the server gave up.",
};

export class Refused extends Error {
  constructor(code, message) {
    super(sentence(message));
    this.code = code;
  }
}

let token = "";
let pending = null;
let wanted = () => Promise.reject(new Refused("unauthorized", "the server wants a token"));

// `ask(refused)` gives a promise of a token; `refused` says that the last one was not accepted.
export function onTokenWanted(ask) {
  wanted = ask;
}

async function newToken() {
  pending ??= wanted(token !== "").finally(() => {
    pending = null;
  });
  token = await pending;
}

// The server's answer. Raises Refused, or AbortError where `signal` ended it.
export async function request(path, { body = null, signal = null, busy = () => {} } = {}) {
  for (let waits = 0; ; ) {
    const used = token;
    const response = await sent(path, body, signal, used);
    if (response.ok) return response;
    if (response.status === 401) {
      // Others may have asked for a token meanwhile.
      if (used === token) await newToken();
    } else if (response.status === 503 && waits < PATIENCE) {
      waits += 1;
      busy();
      await pause(Number(response.headers.get("Retry-After")) || 1, signal);
    } else {
      throw await refusal(response);
    }
  }
}

async function sent(path, body, signal, used) {
  const headers = used ? { Authorization: `Bearer ${used}` } : {};
  try {
    return await fetch(path, { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (body && !(await readable(body))) throw new Refused("unreadable", "the file could not be read; was it moved or changed?");
    throw new Refused("no_answer", "no answer came; the server may have stopped, or have closed the connection");
  }
}

async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not from the server itself: a proxy, or cut short.
  }
  return new Refused(error.code ?? String(response.status), error.message || PLAIN[response.status] || `refused with ${response.status}`);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => reject(new DOMException("removed", "AbortError"));
    if (signal?.aborted) return end();
    signal?.addEventListener("abort", end, { once: true });
    // Not all that wait at the same instant.
    setTimeout(resolve, Math.min(seconds, 10) * 1000 * (0.6 + 0.4 * Math.random()));
  });
}
