// Calls to the nodes. Any node answers everything: one that does not is left
// for the next.

let origins = [location.origin];
let current = 0;

// patience bounds a call, silence a stream: nodes say every two seconds that
// they live.
const patience = 5000;
const silence = 8000;

// Refused is an answer of the service that another node would give as well.
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// start learns where the other nodes are, and answers the name of this one.
export async function start() {
  const c = await get("config");
  origins = [...new Set([location.origin, ...c.nodes])];
  return c.node;
}

const url = (path) => new URL("/ui/api/" + path, origins[current]);

// around tries a call on all nodes, from the one on that answered last.
async function around(call, signal) {
  let last;
  for (let i = 0; i < origins.length; i++) {
    try {
      return await call();
    } catch (err) {
      if (err instanceof Refused || signal?.aborted) throw err;
      last = err;
      current = (current + 1) % origins.length;
    }
  }
  throw last;
}

async function refusal(res) {
  const e = await res.json().catch(() => ({ code: "UNKNOWN", message: res.statusText }));
  if (e.code === "UNAVAILABLE" || res.status >= 502) return new Error(e.message);
  return new Refused(e.code, e.message);
}

// get answers the message at a path of the API.
export function get(path, signal) {
  const limit = () => AbortSignal.any([AbortSignal.timeout(patience), ...(signal ? [signal] : [])]);
  return around(async () => {
    const res = await fetch(url(path), { signal: limit(), cache: "no-store" });
    if (!res.ok) throw await refusal(res);
    return await res.json();
  }, signal);
}

// stream tells each message of a stream once it is there, and returns when the
// service says that it has ended. A stream that breaks throws; whoever asked
// knows where to go on.
export function stream(path, each, signal) {
  return around(() => once(path, each, signal), signal);
}

async function once(path, each, signal) {
  const quiet = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(new Error("the node fell silent")), silence);
  };
  heard();
  let got = false;
  try {
    const res = await fetch(url(path), { signal: AbortSignal.any([signal, quiet.signal]), cache: "no-store" });
    if (!res.ok) throw await refusal(res);
    const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream broke");
      heard();
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const m = JSON.parse(line);
        if (m.end) return;
        if (m.error && m.error.code !== "UNAVAILABLE") throw new Refused(m.error.code, m.error.message);
        if (m.error) throw new Error(m.error.message);
        if (m.result) {
          got = true;
          each(m.result);
        }
      }
    }
  } catch (err) {
    // What was told already must not be told again: not another node, but
    // whoever asked goes on, behind it.
    if (got && !(err instanceof Refused)) {
      current = (current + 1) % origins.length;
      throw new Broken(err);
    }
    throw err;
  } finally {
    clearTimeout(timer);
    quiet.abort();
  }
}

// Broken is a stream that ended before its end, after some messages.
export class Broken extends Refused {
  constructor(cause) {
    super("BROKEN", cause.message);
  }
}
