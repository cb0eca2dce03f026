// Calls to the nodes. Every node serves all calls; if one fails, the next one is used.

let origins = [location.origin];
let current = 0; // index of the origin in use

// callTimeout limits a call. silenceTimeout limits the time without data in a stream: nodes send a
// heartbeat every two seconds. Both are in milliseconds.
const callTimeout = 5000;
const silenceTimeout = 8000;

// ServiceError is an error of the service that every node would return.
export class ServiceError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// start loads the addresses of the other nodes, and returns the name of this node.
export async function start() {
  const c = await get("config");
  origins = [...new Set([location.origin, ...c.nodes])];
  return c.node;
}

const url = (path) => new URL("/ui/api/" + path, origins[current]);

// withFailover tries a call on all nodes, beginning with the one in use.
async function withFailover(call, signal) {
  let last;
  for (let i = 0; i < origins.length; i++) {
    try {
      return await call();
    } catch (err) {
      if (err instanceof ServiceError || signal?.aborted) throw err;
      last = err;
      current = (current + 1) % origins.length;
    }
  }
  throw last;
}

// failure returns the error of a response. It is a ServiceError unless another node may succeed.
async function failure(res) {
  const e = await res.json().catch(() => ({ code: "UNKNOWN", message: res.statusText }));
  if (e.code === "UNAVAILABLE" || res.status >= 502) return new Error(e.message);
  return new ServiceError(e.code, e.message);
}

// get returns the message at a path of the API.
export function get(path, signal) {
  const limit = () => AbortSignal.any([AbortSignal.timeout(callTimeout), ...(signal ? [signal] : [])]);
  return withFailover(async () => {
    const res = await fetch(url(path), { signal: limit(), cache: "no-store" });
    if (!res.ok) throw await failure(res);
    return await res.json();
  }, signal);
}

// stream calls each with every message of a stream, and returns when the service reports the end.
// If the stream breaks, it throws; the caller resumes it.
export function stream(path, each, signal) {
  return withFailover(() => streamFromNode(path, each, signal), signal);
}

// streamFromNode is stream with the node in use.
async function streamFromNode(path, each, signal) {
  const silent = new AbortController();
  let timer;
  const received = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(new Error("the node stopped responding")), silenceTimeout);
  };
  received();
  let got = false;
  try {
    const res = await fetch(url(path), { signal: AbortSignal.any([signal, silent.signal]), cache: "no-store" });
    if (!res.ok) throw await failure(res);
    const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the connection to the node broke");
      received();
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const m = JSON.parse(line);
        if (m.end) return;
        if (m.error && m.error.code !== "UNAVAILABLE") throw new ServiceError(m.error.code, m.error.message);
        if (m.error) throw new Error(m.error.message);
        if (m.result) {
          got = true;
          each(m.result);
        }
      }
    }
  } catch (err) {
    // Messages that were passed on must not be repeated. So another node is not tried here: the
    // caller resumes the stream after them.
    if (got && !(err instanceof ServiceError)) {
      current = (current + 1) % origins.length;
      throw new BrokenStreamError(err);
    }
    throw err;
  } finally {
    clearTimeout(timer);
    silent.abort();
  }
}

// BrokenStreamError is the error of a stream that broke after some messages.
export class BrokenStreamError extends ServiceError {
  constructor(cause) {
    super("BROKEN", cause.message);
  }
}
