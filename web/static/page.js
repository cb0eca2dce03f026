// The page: one view at a time, by the part of the address behind #.

import { get, start } from "./net.js";
import { ago, bytes, el, lasted, phase, span, table } from "./dom.js";
import { ended, follow } from "./log.js";

const view = document.getElementById("view");
const trouble = document.getElementById("trouble");
const from = document.getElementById("from");

function tell(err) {
  trouble.hidden = !err;
  trouble.textContent = err ? `${err.message}. Tries again.` : "";
}

// fresh says when the node that answers has lost its leader.
function fresh(read, node) {
  if (node) from.textContent = node;
  from.classList.toggle("bad", !read?.leaderKnown);
  from.title = read?.leaderKnown ? "The node that answers" : "This node hears no leader: what it shows may be old";
}

// poll shows what a call answers, again and again.
async function poll(signal, every, call, show) {
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        const res = await call();
        if (signal.aborted) return;
        tell(null);
        show(res);
      } catch (err) {
        if (signal.aborted) return;
        tell(err);
      }
    }
    await new Promise((ok) => setTimeout(ok, every));
  }
}

const link = (b) => el("a", { href: "#/builds/" + b.id }, b.id.slice(0, 13));
const image = (b) => el("span", { class: "ref", title: b.digest }, b.ref);
const source = (b) => b.source?.ref?.ref ?? b.source?.dockerfile?.path ?? "Dockerfile";
const attempt = (b) => b.attempts?.at(-1);

async function builds(signal, query) {
  const size = Number(query.get("size")) || 100;
  const chosen = query.get("phase") ?? "";
  const list = el("div");
  const select = el("select", { name: "phase", "aria-label": "phase" },
    ["", "queued", "running", "pushing", "succeeded", "failed", "cancelled"].map((p) =>
      el("option", { value: p, selected: p === chosen }, p || "all phases")));
  select.addEventListener("change", () => { location.hash = "#/builds" + (select.value ? "?phase=" + select.value : ""); });
  view.replaceChildren(el("h1", {}, "Builds"), el("form", {}, select), list);
  const path = `builds?size=${size}` + (chosen ? "&phase=PHASE_" + chosen.toUpperCase() : "");
  await poll(signal, 1500, () => get(path, signal), (res) => {
    fresh(res.read);
    list.replaceChildren(table([
      ["Build", link],
      ["Phase", (b) => phase(b.phase)],
      ["From", (b) => el("span", { class: "ref" }, source(b))],
      ["Image", image],
      ["Asked for", (b) => ago(b.createdAt)],
      ["Took", (b) => lasted(b.startedAt, b.endedAt)],
      ["Node", (b) => attempt(b)?.owner],
      ["", (b) => el("span", { class: "note" }, b.message || b.waitingReason)],
    ], res.builds ?? [], "No builds."));
    if (res.nextPageToken) {
      list.append(el("p", {}, el("a", { href: `#/builds?size=${Math.min(1000, size * 3)}${chosen && "&phase=" + chosen}` }, "More")));
    }
  });
}

async function queue(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Queue"), list);
  await poll(signal, 1500, () => get("builds?size=200&phase=PHASE_QUEUED", signal), (res) => {
    fresh(res.read);
    list.replaceChildren(table([
      ["Build", link],
      ["Image", image],
      ["Waits", (b) => lasted(b.createdAt)],
      ["Attempts", (b) => String(b.attempts?.length ?? 0), "number"],
      ["For", (b) => b.waitingReason || "about to start"],
    ], res.builds ?? [], "Nothing waits."));
  });
}

async function build(signal, _, id) {
  const facts = el("div");
  const out = el("pre", { id: "log", tabindex: "0", "aria-label": "log" });
  const files = el("span", { class: "note" });
  view.replaceChildren(el("h1", {}, "Build " + id), facts, el("div", { class: "log" }, el("h2", {}, "Log"), files), out);
  const show = (b) => {
    facts.replaceChildren(
      el("dl", {},
        [["Phase", phase(b.phase)], ["Image", el("span", { class: "ref" }, b.ref)], ["Digest", b.digest && el("span", { class: "ref" }, b.digest)],
          ["From", el("span", { class: "ref" }, source(b))], ["Asked for", ago(b.createdAt)], ["Took", lasted(b.startedAt, b.endedAt)],
          ["Size", b.sizeBytes && bytes(b.sizeBytes)], ["Message", b.message], ["Waits for", b.waitingReason]]
          .filter(([, v]) => v).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
      b.attempts?.length ? el("h2", {}, "Attempts") : "",
      b.attempts?.length ? table([
        ["", (a) => String(a.number), "number"],
        ["Phase", (a) => phase(a.phase)],
        ["Node", (a) => a.owner],
        ["Runtime", (a) => a.runtime],
        ["Took", (a) => lasted(a.startedAt, a.endedAt)],
        ["Log on", (a) => (a.log?.copies ?? []).map((c) => c.node).join(", ")],
        ["", (a) => el("span", { class: "note" }, a.message)],
      ], b.attempts) : "");
    files.replaceChildren(...(b.attempts ?? []).map((a) => el("a", { href: `api/builds/${b.id}/log.txt?attempt=${a.number}`, download: true }, `attempt ${a.number} as a file `)));
  };
  let last;
  const changed = (b) => { last = b; show(b); };
  out.addEventListener("clipped", () => out.setAttribute("title", "The beginning is left out here; the file has all of it."));
  const refresh = poll(signal, 1000, () => (ended(last) ? { build: last } : get("builds/" + encodeURIComponent(id), signal)), (res) => {
    if (res.read) fresh(res.read);
    changed(res.build);
  });
  try {
    await follow(id, out, { signal, changed, lost: tell });
    out.setAttribute("data-ended", "");
  } catch (err) {
    tell(err);
  }
  await refresh;
}

async function nodes(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Nodes"), list);
  await poll(signal, 1500, () => get("nodes", signal), (res) => {
    fresh(res.read, res.answeredBy);
    const lag = Number(res.failureTolerance ?? 0);
    list.replaceChildren(
      el("p", {}, res.leader ? `${res.leader} leads. ` : "No leader is known: nothing new is acknowledged. ",
        !res.fromLeader ? "" : lag > 0 ? `${lag} of the voters may fail.` : el("strong", { class: "bad" }, "No voter may fail now.")),
      table([
        ["Node", (n) => n.name],
        ["Part", (n) => (n.leader ? "leader" : n.voter ? "voter" : "follower")],
        ["State", (n) => el("span", { class: n.state === "alive" ? "good" : n.state ? "bad" : "note" }, n.state || "not known", n.drained ? ", drained" : "")],
        ["Builds", (n) => String(n.runningBuilds ?? 0), "number"],
        ["Applied", (n) => n.appliedIndex ?? "", "number"],
        ["Behind by", (n) => n.trailsBy ?? "0", "number"],
        ["Silent for", (n) => (n.silent && !n.leader ? span(parseFloat(n.silent)) : ""), "number"],
      ], res.nodes ?? [], "No nodes."));
  });
}

async function cache(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Cached references"), list);
  await poll(signal, 3000, () => get("cache", signal), (res) => {
    fresh(res.read);
    list.replaceChildren(table([
      ["Reference", (r) => el("span", { class: "ref" }, r.ref)],
      ["Digest", (r) => el("span", { class: "ref" }, r.digest?.slice(0, 19))],
      ["True", (r) => ago(r.refreshedAt)],
      ["Every", (r) => span(parseFloat(r.interval ?? res.defaultInterval ?? "0"))],
      ["", (r) => el("span", { class: "bad" }, r.lastError)],
    ], res.refs ?? [], "No references are kept resolved (image-builder cache add IMAGE)."));
  });
}

const views = { builds, queue, nodes, cache };

let leave = new AbortController();
function route() {
  leave.abort();
  leave = new AbortController();
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id] = path.split("/");
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash.slice(2) === (name || "builds")) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  tell(null);
  const show = name === "builds" && id ? build : (views[name] ?? builds);
  show(leave.signal, new URLSearchParams(query ?? ""), id && decodeURIComponent(id));
}

addEventListener("hashchange", route);
start().then((node) => { from.textContent = node; }, tell).finally(route);
