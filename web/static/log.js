// The log of a build, read attempt by attempt and by offset, so that no byte is lost or repeated
// when a node fails.

import { get, stream, ServiceError, BrokenStreamError } from "./net.js";
import { el } from "./dom.js";

// maxCharacters limits the part of the log that the page keeps.
const maxCharacters = 2_000_000;

// sleep waits for a time, or until the signal aborts.
const sleep = (ms, signal) => new Promise((ok) => {
  const t = setTimeout(ok, ms);
  signal.addEventListener("abort", () => { clearTimeout(t); ok(); }, { once: true });
});

// ended reports whether a build is in a terminal phase.
export const ended = (b) => ["PHASE_SUCCEEDED", "PHASE_FAILED", "PHASE_CANCELLED"].includes(b?.phase);

// follow shows the log of a build in an element until the build has ended and the whole log is
// shown. It calls changed with the current build, and lost with the error of a failed call, or null
// after a successful one. It throws errors of the service.
export async function follow(id, out, { signal, changed, lost }) {
  const screen = new Screen(out);
  let attempt = 1, offset = 0, decoder = new TextDecoder();
  while (!signal.aborted) {
    try {
      const { build } = await get("builds/" + encodeURIComponent(id), signal);
      changed(build);
      lost(null);
      const count = build.attempts?.length ?? 0;
      if (attempt > count) {
        if (ended(build)) return;
        await sleep(500, signal);
        continue;
      }
      await stream(`builds/${encodeURIComponent(id)}/logs?attempt=${attempt}&offset=${offset}`, (m) => {
        lost(null);
        const content = Uint8Array.from(atob(m.content ?? ""), (c) => c.charCodeAt(0));
        if (m.marker) {
          screen.marker(new TextDecoder().decode(content));
          return;
        }
        const at = Number(m.offset ?? 0);
        const fresh = content.subarray(Math.max(0, offset - at)); // without bytes that are shown already
        offset = Math.max(offset, at + content.length);
        screen.write(decoder.decode(fresh, { stream: true }));
      }, signal);
      screen.write(decoder.decode());
      screen.flush();
      attempt++;
      offset = 0;
      decoder = new TextDecoder();
    } catch (err) {
      if (signal.aborted) return;
      if (err instanceof ServiceError && !(err instanceof BrokenStreamError)) throw err;
      lost(err);
      await sleep(300, signal);
    }
  }
}

// escapes matches the escape sequences of terminals, for colours and cursor movements.
const escapes = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

// Screen shows text like a terminal: after a carriage return, text overwrites the line.
class Screen {
  constructor(out) {
    this.out = out;
    this.size = 0;
    this.line = el("span");
    out.replaceChildren(this.line);
    this.pending = "";
    this.held = ""; // beginning of an incomplete escape sequence
  }

  // write adds text. It appears within 30 ms.
  write(text) {
    this.pending += text;
    if (this.frame) return;
    this.frame = setTimeout(() => this.flush(), 30);
  }

  // flush shows all text that was written.
  flush() {
    clearTimeout(this.frame);
    this.frame = undefined;
    let text = this.held + this.pending;
    this.pending = "";
    const open = text.lastIndexOf("\x1b");
    this.held = open >= 0 && text.length - open < 64 && !new RegExp("^" + escapes.source).test(text.slice(open)) ? text.slice(open) : "";
    text = text.slice(0, text.length - this.held.length).replace(escapes, "");
    const lines = (this.line.textContent + text).replaceAll("\r\n", "\n").split("\n");
    const last = lines.pop();
    this.keep(() => {
      if (lines.length > 0) this.put(el("span", {}, lines.map((l) => visible(l)).join("\n") + "\n"));
      this.line.textContent = last.includes("\r") ? last.slice(last.lastIndexOf("\r", last.length - 2) + 1) : last;
    });
  }

  // marker adds a line of the service.
  marker(text) {
    this.flush();
    this.keep(() => this.put(el("span", { class: "marker" }, text.endsWith("\n") ? text : text + "\n")));
  }

  // put adds an element before the incomplete last line, and removes the oldest elements.
  put(e) {
    this.line.before(e);
    this.size += e.textContent.length;
    while (this.size > maxCharacters && this.out.firstChild !== e) {
      this.size -= this.out.firstChild.textContent.length;
      this.out.firstChild.remove();
      this.out.dispatchEvent(new Event("clipped"));
    }
  }

  // keep performs a change. If the view is scrolled to the end, it stays at the end.
  keep(change) {
    const o = this.out;
    const atEnd = o.scrollHeight - o.scrollTop - o.clientHeight < 40;
    change();
    if (atEnd) o.scrollTop = o.scrollHeight;
  }
}

// visible returns the part of a line that a terminal shows.
const visible = (line) => line.slice(line.lastIndexOf("\r") + 1);
