// Requests to the server, and explanations of its errors for people.

const TRIES = 4; // attempts at a request while the server is busy
const LONGEST_WAIT = 10; // seconds between two attempts, at most

// A request that failed: `message` for the reader, and the HTTP `status`, 0 if there was no response.
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// The server; `key` is sent if it requires an API key.
export class Server {
  key = "";

  async models(signal) {
    return (await this.#ask("classify/models", { signal })).models;
  }

  // Returns the answer to an image, a Blob, with `milliseconds.total` as measured by this page.
  // `waiting(seconds)` is called when the server is busy and the page will ask again.
  // `cut` has the parameters that cut the image into tiles, or is null.
  async classify(model, image, { version = "", top = 5, cut = null, signal, waiting = () => {} } = {}) {
    const query = new URLSearchParams({ top_k: top, ...(cut ?? { heatmap: true }) }); // if the version has one
    if (version) query.set("version", version);
    const headers = { "Content-Type": image.type || "application/octet-stream" };
    const path = `classify/${encodeURIComponent(model)}?${query}`;
    for (let triesLeft = TRIES - 1; ; triesLeft--) {
      const started = performance.now();
      try {
        const answer = await this.#ask(path, { method: "POST", body: image, headers, signal });
        answer.milliseconds.total = performance.now() - started;
        answer.cut = cut;
        for (const entry of answer.top) entry.probability ??= entry.score; // of all tiles
        return answer;
      } catch (error) {
        if (cut && error.status === 400) error.message = `The image cannot be cut like this (${error.detail}).`;
        if (error.status !== 429 || !triesLeft) throw error;
        const seconds = Math.min(error.after || 1, LONGEST_WAIT);
        waiting(seconds);
        await pause(1000 * seconds, signal);
      }
    }
  }

  async #ask(path, options) {
    const headers = { ...options.headers, ...(this.key && { Authorization: `Bearer ${this.key}` }) };
    let reply;
    try {
      reply = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The server cannot be reached. Is it running, and are you online?", 0);
    }
    const content = await reply.json().catch(() => ({}));
    if (reply.ok) return content;
    const error = new Refused(explain(reply.status, content.error), reply.status);
    error.detail = content.error;
    error.after = Number(reply.headers.get("Retry-After")) || 0;
    throw error;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("", "AbortError"));
    }, { once: true });
  });
}

function explain(status, detail) {
  const reason = detail ? ` (${detail})` : "";
  switch (status) {
    case 401: return "This server requires an API key. Enter yours above.";
    case 404: return `This model or version no longer exists. Reload the page.${reason}`;
    case 408: return "The image took too long to arrive. Try a smaller one, or a better connection.";
    case 413: return `The image is too large for this server. Try a smaller one.${reason}`;
    case 429: return "The server is busy. Try again in a moment.";
    case 503: return `The model is not ready. Try again in a moment.${reason}`;
    case 400: case 415: case 422: return `This file cannot be read as an image.${reason}`;
    default: return `The server could not answer (status ${status}).${reason}`;
  }
}
