// The log of a build, attempt by attempt, by offset: what was shown once is
// neither lost nor repeated, whichever node dies.

import { get, stream, Refused, Broken } from "./net.js";
import { el } from "./dom.js";

// most is how many characters are kept on the page.
const most = 2_000_000;

const rest = (ms, signal) => new Promise((ok) => {
  const t = setTimeout(ok, ms);
  signal.addEventListener("abort", () => { clearTimeout(t); ok(); }, { once: true });
});

export const ended = (b) => ["PHASE_SUCCEEDED", "PHASE_FAILED", "PHASE_CANCELLED"].includes(b?.phase);

// follow shows a build's log in an element until the build has ended and all of
// it is there. changed is told a changed build, lost an error while it lasts.
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
        await rest(500, signal);
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
        const news = content.subarray(Math.max(0, offset - at)); // never twice
        offset = Math.max(offset, at + content.length);
        screen.write(decoder.decode(news, { stream: true }));
      }, signal);
      screen.write(decoder.decode());
      screen.flush();
      attempt++;
      offset = 0;
      decoder = new TextDecoder();
    } catch (err) {
      if (signal.aborted) return;
      if (err instanceof Refused && !(err instanceof Broken)) throw err;
      lost(err);
      await rest(300, signal);
    }
  }
}

// escapes are what terminals take for colours and movements.
const escapes = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

// Screen shows text as a terminal would: a carriage return begins the line
// anew.
class Screen {
  constructor(out) {
    this.out = out;
    this.size = 0;
    this.line = el("span");
    out.replaceChildren(this.line);
    this.pending = "";
    this.held = ""; // an escape sequence whose end is not there yet
  }

  write(text) {
    this.pending += text;
    if (this.frame) return;
    this.frame = setTimeout(() => this.flush(), 30);
  }

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
      if (lines.length > 0) this.put(el("span", {}, lines.map((l) => over(l)).join("\n") + "\n"));
      this.line.textContent = last.includes("\r") ? last.slice(last.lastIndexOf("\r", last.length - 2) + 1) : last;
    });
  }

  marker(text) {
    this.flush();
    this.keep(() => this.put(el("span", { class: "marker" }, text.endsWith("\n") ? text : text + "\n")));
  }

  // put adds text above the line that is being written, and drops the oldest.
  put(e) {
    this.line.before(e);
    this.size += e.textContent.length;
    while (this.size > most && this.out.firstChild !== e) {
      this.size -= this.out.firstChild.textContent.length;
      this.out.firstChild.remove();
      this.out.dispatchEvent(new Event("clipped"));
    }
  }

  // keep stays at the end if the reader is there.
  keep(change) {
    const o = this.out;
    const atEnd = o.scrollHeight - o.scrollTop - o.clientHeight < 40;
    change();
    if (atEnd) o.scrollTop = o.scrollHeight;
  }
}

const over = (line) => line.slice(line.lastIndexOf("\r") + 1);
