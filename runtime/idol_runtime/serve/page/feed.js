// Requests to the server, and the one stream of records that the page lives on: /api/live.

class ApiError extends Error {}

export const streamPath = (stream, part = "") => `/api/streams/${encodeURIComponent(stream)}${part}`;

// Send a request; return the response, or throw the server's sentence as an ApiError.
export async function request(path, method = "GET", body = undefined) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const signal = AbortSignal.timeout(20000);
  const response = await fetch(path, {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok) return response;
  throw await refusal(response);
}

// Return the error of a response; go to the login if the session has ended.
async function refusal(response) {
  if (response.status === 401) location.assign(`/login${location.hash}`);
  const told = await response.json().catch(() => ({}));
  return new ApiError(told.error ?? `the server answered ${response.status}`);
}

// Splits the bytes of /api/live into records: two lengths (uint32, big-endian), JSON, JPEG.
export class Records {
  #rest = new Uint8Array(0);

  // Return the records [value, jpeg] that are complete with these bytes.
  push(bytes) {
    const all = new Uint8Array(this.#rest.length + bytes.length);
    all.set(this.#rest);
    all.set(bytes, this.#rest.length);
    const view = new DataView(all.buffer);
    const records = [];
    let start = 0;
    while (all.length - start >= 8) {
      const json = start + 8;
      const jpeg = json + view.getUint32(start);
      const end = jpeg + view.getUint32(start + 4);
      if (end - start > 2 ** 26) throw new Error("the server sent a record of more than 64 MiB");
      if (end > all.length) break;
      records.push([JSON.parse(new TextDecoder().decode(all.subarray(json, jpeg))), all.slice(jpeg, end)]);
      start = end;
    }
    this.#rest = all.slice(start);
    return records;
  }
}

const SILENT_MS = 7000; // the server sends a record at least every 2 s
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;

// The connection to /api/live. It connects again by itself, for ever.
export class Feed {
  #streams = [];
  #connection = null;
  #timer = 0;
  #failures = 0;
  #heard = 0;
  #ended = false; // the last run has told its end

  // onRecord(value, jpeg): a record. onState(state, reason): "open", "ended" with the run, or "lost".
  constructor(onRecord, onState) {
    this.onRecord = onRecord;
    this.onState = onState;
    setInterval(() => {
      if (this.#connection && performance.now() - this.#heard > SILENT_MS) this.#lose(this.#connection);
    }, 1000);
    addEventListener("online", () => this.retry());
  }

  // Ask for the pictures of these streams. A change opens a new connection.
  watch(streams) {
    const same = JSON.stringify(streams) === JSON.stringify(this.#streams);
    if (same && (this.#connection || this.#timer)) return;
    this.#streams = streams;
    if (!this.#timer) this.retry();
  }

  // Connect now.
  retry() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#connection?.abort();
    const connection = (this.#connection = new AbortController());
    this.#heard = performance.now();
    this.#read(connection).catch((error) => this.#lose(connection, error));
  }

  async #read(connection) {
    const query = new URLSearchParams(this.#streams.map((name) => ["stream", name]));
    const response = await fetch(`/api/live?${query}`, { signal: connection.signal, cache: "no-store" });
    if (response.status === 404) this.#streams = []; // one of them was removed; `streams` tells which
    if (!response.ok) throw await refusal(response);
    const reader = response.body.getReader();
    const records = new Records();
    for (;;) {
      const { done, value } = await reader.read();
      if (connection !== this.#connection) return;
      if (done) throw new Error("end of the connection");
      this.#heard = performance.now();
      for (const [record, jpeg] of records.push(value)) {
        this.#ended = record.type === "end";
        if (record.type === "hello") {
          this.#failures = 0;
          this.onState("open");
        }
        this.onRecord(record, jpeg);
      }
    }
  }

  #lose(connection, error = null) {
    if (connection !== this.#connection) return; // replaced by another one
    this.#connection = null;
    connection.abort();
    const reason = error instanceof ApiError ? error.message : "";
    this.onState(this.#ended && !reason ? "ended" : "lost", reason);
    const wait = Math.min(FIRST_WAIT_MS * 2 ** this.#failures++, LONGEST_WAIT_MS);
    this.#timer = setTimeout(() => this.retry(), wait * (0.75 + Math.random() / 2));
  }
}
