// The page shows one view at a time. The part of the address after # selects it.

import { get, start } from "./net.js";
import { ago, bytes, duration, el, phase, span, table } from "./dom.js";
import { ended, follow } from "./log.js";

const view = document.getElementById("view");
const error = document.getElementById("error");
const from = document.getElementById("from");

// showError shows an error; null hides it.
function showError(err) {
  error.hidden = !err;
  error.textContent = err ? `${err.message}. Retrying.` : "";
}

// showFreshness marks the name of the responding node if the node knows no leader.
function showFreshness(read, node) {
  if (node) from.textContent = node;
  from.classList.toggle("bad", !read?.leaderKnown);
  from.title = read?.leaderKnown ? "The node that responds" : "This node knows no leader: its data may be outdated";
}

// poll makes a call at an interval and shows its result, until the signal aborts.
async function poll(signal, every, call, show) {
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        const res = await call();
        if (signal.aborted) return;
        showError(null);
        show(res);
      } catch (err) {
        if (signal.aborted) return;
        showError(err);
      }
    }
    await new Promise((ok) => setTimeout(ok, every));
  }
}

const link = (b) => el("a", { href: "#/builds/" + b.id }, b.id.slice(0, 13));
const image = (b) => el("span", { class: "ref", title: b.digest }, b.ref);
const source = (b) => b.source?.ref?.ref ?? (b.source?.dockerfile?.dockerfilePath || "Dockerfile");
const attempt = (b) => b.attempts?.at(-1);

// builds is the view of all builds.
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
    showFreshness(res.read);
    list.replaceChildren(table([
      ["Build", link],
      ["Phase", (b) => phase(b.phase)],
      ["Source", (b) => el("span", { class: "ref" }, source(b))],
      ["Image", image],
      ["Created", (b) => ago(b.createdAt)],
      ["Duration", (b) => duration(b.startedAt, b.endedAt)],
      ["Node", (b) => attempt(b)?.owner],
      ["", (b) => el("span", { class: "note" }, b.message || b.waitingReason)],
    ], res.builds ?? [], "No builds."));
    if (res.nextPageToken) {
      list.append(el("p", {}, el("a", { href: `#/builds?size=${Math.min(1000, size * 3)}${chosen && "&phase=" + chosen}` }, "More")));
    }
  });
}

// queue is the view of the builds that wait.
async function queue(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Queue"), list);
  await poll(signal, 1500, () => get("builds?size=200&phase=PHASE_QUEUED", signal), (res) => {
    showFreshness(res.read);
    list.replaceChildren(table([
      ["Build", link],
      ["Image", image],
      ["Waiting", (b) => duration(b.createdAt)],
      ["Attempts", (b) => String(b.attempts?.length ?? 0), "number"],
      ["Reason", (b) => b.waitingReason || "about to start"],
    ], res.builds ?? [], "The queue is empty."));
  });
}

// build is the view of one build with its log.
async function build(signal, _, id) {
  const facts = el("div");
  const out = el("pre", { id: "log", tabindex: "0", "aria-label": "log" });
  const files = el("span", { class: "note" });
  view.replaceChildren(el("h1", {}, "Build " + id), facts, el("div", { class: "log" }, el("h2", {}, "Log"), files), out);
  const show = (b) => {
    facts.replaceChildren(
      el("dl", {},
        [["Phase", phase(b.phase)], ["Image", el("span", { class: "ref" }, b.ref)], ["Digest", b.digest && el("span", { class: "ref" }, b.digest)],
          ["Source", el("span", { class: "ref" }, source(b))], ["Created", ago(b.createdAt)], ["Duration", duration(b.startedAt, b.endedAt)],
          ["Size", b.sizeBytes && bytes(b.sizeBytes)], ["Message", b.message], ["Waiting", b.waitingReason]]
          .filter(([, v]) => v).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
      b.attempts?.length ? el("h2", {}, "Attempts") : "",
      b.attempts?.length ? table([
        ["", (a) => String(a.number), "number"],
        ["Phase", (a) => phase(a.phase)],
        ["Node", (a) => a.owner],
        ["Runtime", (a) => a.runtime],
        ["Duration", (a) => duration(a.startedAt, a.endedAt)],
        ["Log copies", (a) => (a.log?.copies ?? []).map((c) => c.node).join(", ")],
        ["", (a) => el("span", { class: "note" }, a.message)],
      ], b.attempts) : "");
    files.replaceChildren(...(b.attempts ?? []).map((a) => el("a", { href: `api/builds/${b.id}/log.txt?attempt=${a.number}`, download: true }, `download attempt ${a.number} `)));
  };
  let last;
  const changed = (b) => { last = b; show(b); };
  out.addEventListener("clipped", () => out.setAttribute("title", "The beginning is not shown; download the log to see all of it."));
  const refresh = poll(signal, 1000, () => (ended(last) ? { build: last } : get("builds/" + encodeURIComponent(id), signal)), (res) => {
    if (res.read) showFreshness(res.read);
    changed(res.build);
  });
  try {
    await follow(id, out, { signal, changed, lost: showError });
    out.setAttribute("data-ended", "");
  } catch (err) {
    showError(err);
  }
  await refresh;
}

// nodes is the view of the members of the cluster.
async function nodes(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Nodes"), list);
  await poll(signal, 1500, () => get("nodes", signal), (res) => {
    showFreshness(res.read, res.answeredBy);
    const tolerance = Number(res.failureTolerance ?? 0);
    list.replaceChildren(
      el("p", {}, res.leader ? `The leader is ${res.leader}. ` : "No leader is known: the cluster accepts no new builds. ",
        !res.fromLeader ? "" : tolerance > 0 ? `The cluster can lose ${tolerance} more ${tolerance === 1 ? "voter" : "voters"}.` : el("strong", { class: "bad" }, "The cluster cannot lose another voter.")),
      table([
        ["Node", (n) => n.name],
        ["Role", (n) => (n.leader ? "leader" : n.voter ? "voter" : "follower")],
        ["State", (n) => el("span", { class: n.state === "alive" ? "good" : n.state ? "bad" : "note" }, n.state || "not known", n.drained ? ", drained" : "")],
        ["Builds", (n) => String(n.runningBuilds ?? 0), "number"],
        ["Applied index", (n) => n.appliedIndex ?? "", "number"],
        ["Entries behind", (n) => n.trailsBy ?? "0", "number"],
        ["Last seen", (n) => (n.silent && !n.leader ? span(parseFloat(n.silent)) + " ago" : ""), "number"],
      ], res.nodes ?? [], "No nodes."));
  });
}

// cache is the view of the cached references.
async function cache(signal) {
  const list = el("div");
  view.replaceChildren(el("h1", {}, "Cached references"), list);
  await poll(signal, 3000, () => get("cache", signal), (res) => {
    showFreshness(res.read);
    list.replaceChildren(table([
      ["Reference", (r) => el("span", { class: "ref" }, r.ref)],
      ["Digest", (r) => el("span", { class: "ref" }, r.digest?.slice(0, 19))],
      ["Checked", (r) => ago(r.refreshedAt)],
      ["Interval", (r) => span(parseFloat(r.interval ?? res.defaultInterval ?? "0"))],
      ["", (r) => el("span", { class: "bad" }, r.lastError)],
    ], res.refs ?? [], "No references are cached (image-builder cache add IMAGE)."));
  });
}

const views = { builds, queue, nodes, cache };

let leave = new AbortController(); // ends the current view

// route shows the view that the address selects.
function route() {
  leave.abort();
  leave = new AbortController();
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id] = path.split("/");
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash.slice(2) === (name || "builds")) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  showError(null);
  const show = name === "builds" && id ? build : (views[name] ?? builds);
  show(leave.signal, new URLSearchParams(query ?? ""), id && decodeURIComponent(id));
}

addEventListener("hashchange", route);
start().then((node) => { from.textContent = node; }, showError).finally(route);
