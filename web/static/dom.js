// Helpers that create elements from text only, so that the browser never interprets the output of a
// build as markup.

// el creates an element. Children are elements or texts; empty ones are omitted.
export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== ""));
  return e;
}

// table creates a table, or a paragraph with the text empty if there are no rows. A column is
// [title, function from a row to a cell, class of the cells].
export function table(columns, rows, empty) {
  if (rows.length === 0) return el("p", { class: "note" }, empty);
  return el("div", { class: "scroll" },
    el("table", {},
      el("thead", {}, el("tr", {}, columns.map(([title, , cls]) => el("th", { class: cls }, title)))),
      el("tbody", {}, rows.map((r) => el("tr", {}, columns.map(([, cell, cls]) => el("td", { class: cls }, cell(r)))))),
    ));
}

const colours = { QUEUED: "note", SUCCEEDED: "good", FAILED: "bad", CANCELLED: "note" };

// phase renders a phase of the API, such as PHASE_RUNNING.
export function phase(name = "") {
  const short = name.replace("PHASE_", "");
  return el("span", { class: "phase " + (colours[short] ?? "busy") }, short.toLowerCase());
}

// ago renders the time since a timestamp of the service.
export function ago(time) {
  if (!time) return "";
  const s = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  return el("time", { datetime: time, title: new Date(time).toLocaleString() }, span(s) + " ago");
}

// duration renders the time between two timestamps, or since the first if there is no second.
export function duration(from, to) {
  if (!from) return "";
  return span(Math.max(0, ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000));
}

// span renders a number of seconds.
export function span(s) {
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

// bytes renders a number of bytes.
export function bytes(n) {
  n = Number(n ?? 0);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024 || unit === "GiB") return (unit === "B" || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + unit;
    n /= 1024;
  }
}
