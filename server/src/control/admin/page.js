// The live page: it asks /status every two seconds and /history every five, and shows them.
//
// What is shown may come from peers and stores: text is only ever set as text, never as HTML.
"use strict";

const STATUS_EVERY_MS = 2000, HISTORY_EVERY_MS = 5000, ANSWER_WITHIN_MS = 5000, STALE_AFTER_MS = 7000;
// What a chart shows, in seconds, and how high it is, in pixels.
const SPAN = 900, HEIGHT = 160;

const element = (id) => document.getElementById(id);

// What was told last, and what the reader chose to see.
const view = {
  status: null, statusAt: 0, before: null, history: null, historyAt: 0,
  // Why there is no newer status or history, if there should be, and since when there should.
  trouble: null, historyTrouble: null, askingSince: Date.now(),
  paused: false, pinned: null, hover: null,
};

// --- Words for numbers ---

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit === 0 || count >= 100 ? Math.round(count) : +count.toFixed(1)) + " " + units[unit];
}
const rate = (count) => bytes(count) + "/s";
const whole = (count) => Math.round(count).toLocaleString("en");
const perSecond = (count) => (count >= 100 ? whole(count) : +count.toFixed(1)) + "/s";
function time(ms) {
  if (ms >= 1000) return +(ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";
  return (ms >= 10 ? Math.round(ms) : +ms.toPrecision(2)) + " ms";
}
function duration(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return Math.floor(seconds / size) + " " + name;
  }
  return Math.round(seconds) + " s";
}
const percent = (part) => (100 * part).toFixed(part < 0.1 ? 1 : 0) + "%";
const clock = (seconds, withSeconds = true) => new Date(seconds * 1000).toLocaleTimeString([], {
  hour: "2-digit", minute: "2-digit", second: withSeconds ? "2-digit" : undefined, hourCycle: "h23",
});
const plural = (count, one, many = one + "s") => whole(count) + " " + (count === 1 ? one : many);

// --- Elements ---

function make(parent, tag, attributes = {}, text) {
  const svg = parent.namespaceURI.endsWith("svg") || tag === "svg";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
// Leaves alone what is as it was, so that nobody who reads or selects it is disturbed.
function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
function keep(parent, count, create) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) create(parent);
  return [...parent.children];
}

// Fills a table. A column is [heading, class]; a cell is a text, [text, class], or a function that fills the cell.
// Roles are given, since a table that is shown as cards has lost them.
function table(target, columns, rows) {
  if (!target.tHead) {
    target.setAttribute("role", "table");
    const head = make(make(target, "thead", { role: "rowgroup" }), "tr", { role: "row" });
    for (const [name, kind] of columns) make(head, "th", { scope: "col", role: "columnheader", class: kind || "" }, name);
    make(target, "tbody", { role: "rowgroup" });
  }
  const lines = keep(target.tBodies[0], rows.length, (body) => {
    const line = make(body, "tr", { role: "row" });
    columns.forEach(([name], at) => at === 0
      ? make(line, "th", { scope: "row", role: "rowheader" })
      : make(line, "td", { role: "cell", "data-label": name }));
  });
  lines.forEach((line, row) => rows[row].forEach((cell, at) => {
    const [content, kind] = Array.isArray(cell) ? cell : [cell];
    const place = line.children[at];
    place.className = [columns[at][1], kind].filter(Boolean).join(" ");
    if (typeof content === "function") content(place); else say(place, content);
  }));
}

// --- Charts ---

// A sample that follows a late one may cover next to nothing.
const each = (of) => (history, at) => of(history, at) / Math.max(0.1, history.seconds[at]);
const responses = (name) => each((history, at) => history.responses[name][at]);
const inPhase = (...phases) => (history, at) => phases.reduce((sum, phase) => sum + history.connections[phase][at], 0);
const slowest = (part) => (history, at) => {
  const times = history.stores.map((store) => store.p99_ms[at]).filter((ms) => ms !== null).sort((a, b) => a - b);
  return times.length ? times[Math.min(times.length - 1, Math.floor(times.length * part))] : null;
};

// When a sample began: where the one before ended, if it is only rounding that parts them.
function began(history, at) {
  const start = history.at[at] - history.seconds[at], before = history.at[at - 1];
  return Math.abs(start - before) < 1.5 ? before : start;
}

// A series is [name, colour, value at a place of the history]. Those of a stack are drawn on each other.
const CHARTS = [
  { title: "Sent", format: rate, binary: true, mean: true, stack: true,
    series: [["sent", 1, each((history, at) => history.sent_bytes[at])]] },
  { title: "Time to the first byte", format: time, log: true, none: "No responses in this time",
    series: [["half within", 1, (history, at) => history.first_byte_ms.p50[at]],
      ["99% within", 2, (history, at) => history.first_byte_ms.p99[at]]] },
  { title: "Responses by status", format: perSecond, mean: true, stack: true,
    series: [["2xx", 3, responses("2xx")], ["3xx", 1, responses("3xx")], ["4xx", 5, responses("4xx")],
      ["5xx", 6, responses("5xx")]] },
  { title: "Memory", format: bytes, binary: true, stack: true,
    bound: () => view.status && ["declared", view.status.memory.memory_declared_bytes],
    series: [["process", 1, (history, at) => history.memory.resident_bytes[at]],
      ["sockets", 2, (history, at) => history.memory.socket_bytes[at]]] },
  { title: "Connections", format: whole, stack: true, least: 4,
    series: [["being sent to", 1, inPhase("sending")], ["idle", 3, inPhase("idle")],
      ["others", 4, inPhase("handshake", "head", "opening", "lingering")]] },
  { title: "Calls on stores, 99% within", format: time, log: true, none: "No call reached a store in this time",
    series: [["the middle store", 1, slowest(0.5)], ["the slowest store", 2, slowest(1)]] },
];

function build(chart) {
  const figure = make(element("charts"), "figure");
  make(figure, "h3", {}, chart.title);
  const legend = make(figure, "ul", { class: "legend" });
  chart.values = chart.series.map(([name, colour]) => {
    const item = make(legend, "li", { class: "c" + colour });
    make(item, "span", { class: chart.stack ? "key" : "key line" });
    item.append(name + " ");
    return make(item, "b");
  });
  chart.plot = make(figure, "svg", { class: "plot", role: "img", "aria-label": chart.title });
  chart.plot.addEventListener("pointermove", (event) => {
    if (!view.history || !chart.x) return;
    const box = chart.plot.getBoundingClientRect();
    view.hover = chart.x.start + (event.clientX - box.left - chart.x.left) / chart.x.scale;
    drawAll();
  });
  chart.plot.addEventListener("pointerleave", () => { view.hover = null; drawAll(); });
  chart.details = make(figure, "details");
  make(chart.details, "summary", {}, "As a table").setAttribute("aria-label", chart.title + " as a table");
  chart.table = make(chart.details, "table");
  make(chart.table, "caption", {}, chart.title + " by minute, " + (chart.mean ? "on average" : "at most"));
  chart.details.addEventListener("toggle", () => tabulate(chart));
}

// What the axis is marked with, and where a value is on it, from 0 to 1.
function axis(chart, most, least) {
  if (chart.log) {
    const low = Math.floor(Math.log10(Math.max(least, 0.01))), top = Math.max(low + 2, Math.ceil(Math.log10(Math.max(most, 0.01))));
    const marks = Array.from({ length: top - low + 1 }, (_, at) => 10 ** (low + at));
    return { marks, place: (value) => Math.max(0, Math.log10(value) - low) / (top - low) };
  }
  most = Math.max(most, chart.least || 1);
  let step = 2 ** Math.ceil(Math.log2(most / 4));
  if (!chart.binary) {
    const power = 10 ** Math.floor(Math.log10(most / 4));
    step = power * [1, 2, 5, 10].find((times) => times * power * 4 >= most * 0.999);
  }
  const count = Math.max(1, Math.ceil(most / step - 1e-9));
  return { marks: Array.from({ length: count + 1 }, (_, at) => at * step), place: (value) => value / (count * step) };
}

// The place in the history of the values that are shown.
function shown() {
  const { at } = view.history, wanted = view.hover ?? view.pinned;
  if (wanted === null) return at.length - 1;
  let best = 0;
  at.forEach((moment, place) => { if (Math.abs(moment - wanted) < Math.abs(at[best] - wanted)) best = place; });
  return best;
}

function draw(chart) {
  const { history } = view, { plot, series } = chart;
  const count = history.at.length, start = history.now - SPAN;
  const values = series.map(([, , of]) => history.at.map((_, at) => of(history, at)));
  const tops = values.map((row, above) => chart.stack
    ? row.map((_, at) => values.slice(0, above + 1).reduce((sum, other) => sum + other[at], 0)) : row);
  const bound = chart.bound && chart.bound();
  const all = tops.flat().filter((value) => value !== null);
  const { marks, place } = axis(chart, Math.max(0, ...all, bound ? bound[1] : 0), all.length ? Math.min(...all) : 1);
  const labels = marks.map(chart.format);
  const width = Math.max(200, plot.getBoundingClientRect().width), left = 10 + 6.6 * Math.max(...labels.map((label) => label.length));
  const right = width - 6, top = 14, bottom = HEIGHT - 22, scale = (right - left) / SPAN;
  const x = (moment) => Math.max(left, left + (moment - start) * scale).toFixed(1);
  const y = (value) => (bottom - (bottom - top) * place(value)).toFixed(1);
  chart.x = { start, left, scale };

  plot.replaceChildren();
  plot.setAttribute("viewBox", "0 0 " + width + " " + HEIGHT);
  marks.forEach((mark, at) => {
    make(plot, "line", { class: "grid", x1: left, x2: right, y1: y(mark), y2: y(mark) });
    make(plot, "text", { x: left - 6, y: +y(mark) + 4, "text-anchor": "end" }, labels[at]);
  });
  for (let moment = Math.ceil(start / 300) * 300; moment <= history.now; moment += 300) {
    const at = +x(moment), anchor = at > right - 18 ? "end" : at < left + 18 ? "start" : "middle";
    make(plot, "line", { class: "grid", x1: at, x2: at, y1: bottom, y2: bottom + 4 });
    make(plot, "text", { x: at, y: HEIGHT - 4, "text-anchor": anchor }, clock(moment, false));
  }

  // Each sample is a step as wide as the time that it covers: what is not known leaves a gap.
  tops.forEach((row, number) => {
    const floor = chart.stack && number > 0 ? tops[number - 1] : null;
    let line = "", area = "", known = false;
    row.forEach((value, at) => {
      const from = x(began(history, at)), to = x(history.at[at]), seen = value !== null && to > left;
      if (seen) {
        line += (known ? "L" : "M") + from + " " + y(value) + "H" + to;
        area += "M" + from + " " + y(value) + "H" + to + "V" + (floor ? y(floor[at]) : bottom) + "H" + from + "Z";
      }
      known = seen;
    });
    const colour = "c" + series[number][1];
    if (chart.stack || number === 0) make(plot, "path", { class: colour + (chart.stack ? " area" : " under"), d: area, "shape-rendering": "crispEdges" });
    if (!chart.stack || series.length === 1) make(plot, "path", { class: colour + " stroke", d: line });
  });
  if (bound) {
    make(plot, "line", { class: "bound", x1: left, x2: right, y1: y(bound[1]), y2: y(bound[1]) });
    make(plot, "text", { x: right, y: +y(bound[1]) - 4, "text-anchor": "end" }, bound[0] + " " + chart.format(bound[1]));
  }
  const none = count === 0 ? "The first sample comes after " + history.every_seconds + " s"
    : all.length === 0 ? chart.none : null;
  if (none) make(plot, "text", { x: (left + right) / 2, y: (top + bottom) / 2, "text-anchor": "middle" }, none);

  const at = shown(), show = (value) => value === null || value === undefined ? "–" : chart.format(value);
  if (count && (view.hover !== null || view.pinned !== null)) {
    make(plot, "line", { class: "cross", x1: x(history.at[at]), x2: x(history.at[at]), y1: top, y2: bottom });
  }
  chart.values.forEach((value, number) => say(value, show(values[number][at])));
  const told = series.map(([name], number) => {
    const row = values[number], known = row.filter((value) => value !== null);
    if (!known.length) return name + ": none";
    const most = Math.max(...known);
    return name + ": " + show(row[count - 1]) + " now, at most " + show(most) + " at " + clock(history.at[row.indexOf(most)], false);
  });
  plot.setAttribute("aria-label", chart.title + ", the last 15 minutes. " + (none || told.join("; ")) + ".");
  tabulate(chart);
}

// The same by minute, for those who can't see the chart.
function tabulate(chart) {
  const { history } = view;
  if (!history || !chart.details.open) return;
  const minutes = new Map();
  history.at.forEach((moment, at) => {
    const minute = Math.floor(moment / 60) * 60;
    minutes.set(minute, [...(minutes.get(minute) || []), at]);
  });
  const columns = [["time", "text"], ...chart.series.map(([name]) => [name])];
  table(chart.table, columns, [...minutes].reverse().map(([minute, places]) => [clock(minute, false),
    ...chart.series.map(([, , of]) => {
      const known = places.map((at) => of(history, at)).filter((value) => value !== null);
      if (!known.length) return "–";
      return chart.format(chart.mean ? known.reduce((a, b) => a + b) / known.length : Math.max(...known));
    })]));
}

function drawAll() {
  if (!view.history) return;
  CHARTS.forEach(draw);
  const { at } = view.history, slider = element("when"), place = shown();
  slider.max = Math.max(0, at.length - 1);
  slider.value = place;
  const past = at.length && (view.hover !== null || view.pinned !== null);
  const text = past ? clock(at[place]) : "now";
  say(element("when-text"), text);
  slider.setAttribute("aria-valuetext", text);
}

// --- What /status tells ---

function showTiles(status, now) {
  const { memory, totals, connections, survey, stores, history } = { ...status, history: view.history };
  const last = history ? history.at.length - 1 : -1;
  const answered = last < 0 ? null : ["2xx", "3xx", "4xx", "5xx"].map((name) => responses(name)(history, last));
  const p99 = last < 0 ? null : history.first_byte_ms.p99[last];
  const used = memory.memory_resident_bytes + totals.socket_bytes;
  const serving = stores.filter((store) => store.state === "serving").length;
  const lacking = Math.max(survey.degraded, totals.degraded_objects);
  const tiles = [
    ["sent", rate(now("sent_bytes"))],
    ["responses", answered ? perSecond(answered.reduce((a, b) => a + b)) : "–"],
    ["of them 5xx", answered ? perSecond(answered[3]) : "–", answered && answered[3] > 0],
    ["first byte, 99% within", p99 === null ? "–" : time(p99)],
    ["connections of " + whole(memory.connections_max) + ", " + whole(connections.sending) + " being sent to", whole(memory.connections_open)],
    ["memory of " + bytes(memory.memory_declared_bytes), bytes(used), used > memory.memory_declared_bytes],
    ["stores serving", serving + " of " + stores.length, serving < stores.length],
    ["objects with shares missing", whole(lacking), lacking > 0],
  ];
  const places = keep(element("tiles"), tiles.length, (list) => {
    const box = make(list, "div");
    make(box, "dt");
    make(box, "dd");
  });
  places.forEach((box, at) => {
    const [name, value, bad] = tiles[at];
    say(box.children[0], name);
    say(box.children[1], value);
    box.children[1].className = bad ? "bad" : "";
  });
}

function showMemory(status) {
  const { memory, totals, memory_parts: parts } = status, declared = memory.memory_declared_bytes;
  const used = memory.memory_resident_bytes + totals.socket_bytes;
  say(element("memory-text"), bytes(used) + " of " + bytes(declared) + " declared (" + percent(used / declared) +
    "): the process has " + bytes(memory.memory_resident_bytes) + " (at most " + bytes(memory.memory_resident_peak_bytes) +
    " so far), sockets " + bytes(totals.socket_bytes) + ". Of " + bytes(memory.memory_credit_bytes) + " credit " +
    bytes(memory.memory_credit_lent_bytes) + " are lent.");
  const columns = [["part"], ["planned"], ["of all"], ["used"], ["used of planned", "text"]];
  table(element("memory"), columns, parts.filter((part) => part.planned_bytes > 0).map((part) => {
    const known = part.used_bytes !== undefined, full = part.used_bytes / part.planned_bytes;
    return [part.part, bytes(part.planned_bytes), percent(part.planned_bytes / declared),
      known ? bytes(part.used_bytes) : "in process",
      known ? (cell) => {
        const meter = cell.firstElementChild || make(cell, "meter", { min: 0, max: 1, "aria-label": part.part });
        meter.value = full;
        meter.setAttribute("aria-valuetext", percent(full));
      } : ""];
  }));
}

// A store's last 15 minutes: low while it served, high while it did not.
function strip(cell, path) {
  const { history } = view, past = history && history.stores.find((store) => store.path === path);
  if (!past || !history.at.length) { cell.replaceChildren(); return; }
  const start = history.now - SPAN, away = {};
  const picture = cell.firstElementChild ||
    make(cell, "svg", { class: "strip", viewBox: "0 0 900 10", preserveAspectRatio: "none", "shape-rendering": "crispEdges", role: "img" });
  picture.replaceChildren();
  past.states.forEach((state, at) => {
    if (state === null) return;
    const name = history.store_states[state], good = name === "serving";
    if (!good) away[name] = (away[name] || 0) + history.seconds[at];
    const from = Math.max(0, began(history, at) - start), to = history.at[at] - start;
    if (to > from) make(picture, "rect", { class: good ? "good" : "bad", x: from, width: to - from, y: good ? 6 : 0, height: good ? 4 : 10 });
  });
  const told = Object.entries(away).map(([name, seconds]) => name + " for " + duration(seconds));
  picture.setAttribute("aria-label", told.join(", ") || "served all the time");
}

function showStores(status) {
  const ms = (value) => value === null || value === undefined ? "–" : time(value);
  const clockNow = view.history ? view.history.now : Date.now() / 1000;
  table(element("stores"), [["store"], ["state", "text"], ["last 15 minutes", "text wide"], ["half within"], ["99% within"],
    ["read"], ["failed"], ["given up"], ["free"], ["last error", "text wide"]],
    status.stores.map((store) => {
      const { remote } = store, bad = store.state !== "serving";
      const failed = store.errors + (remote ? remote.fetches_failed : 0);
      return [store.path,
        [store.state + (bad ? " for " + duration(Math.max(0, clockNow - Date.parse(store.since) / 1000)) : ""), bad ? "bad" : "good"],
        (cell) => strip(cell, store.path),
        ms(store.latency_ms.p50), ms(remote ? remote.first_byte_p95_ms ?? store.latency_ms.p99 : store.latency_ms.p99),
        bytes(remote ? remote.fetched_bytes : store.read_bytes),
        [whole(failed), failed > 0 ? "bad" : ""], [whole(store.timeouts), store.timeouts > 0 ? "bad" : ""],
        store.total_bytes ? bytes(store.free_bytes) + " of " + bytes(store.total_bytes) : "–",
        store.last_error ? store.last_error.at + " " + store.last_error.what : ""];
    }));
  const { remote } = status, text = element("remote-text");
  text.hidden = !remote;
  if (remote) {
    say(text, plural(remote.fetches_under_way, "fetch", "fetches") + " from remote stores under way; the cache has " +
      bytes(remote.cache_bytes) + " of " + bytes(remote.cache_size_bytes) + "; " +
      plural(remote.hedges.fired, "fetch was hedged", "fetches were hedged") + ", " + whole(remote.hedges.won) +
      " of them won. Of remote stores the second time is that to the first byte, 95% within.");
  }
}

function showObjects(status) {
  const { survey, totals } = status, surveyed = survey.rounds > 0 || !status.remote;
  const rows = [
    ["objects in the stores", survey.objects, false, ""],
    ["with shares missing", survey.degraded, true, "penstock repair makes them whole"],
    ["without redundancy", survey.without_redundancy, true, "the next loss is one too many: repair these first"],
    ["unreadable", survey.unreadable, true, "fewer than k shares are left: bring back a store, or put them again"],
    ["too large for this server", survey.too_large, true, "raise --memory, --pool-buffers or --share-files"],
    ["open now, each core's, with shares missing or given up", totals.degraded_objects, true, ""],
    ["open now, each core's, without redundancy", totals.objects_without_redundancy, true, ""],
  ];
  table(element("objects"), [["objects"], ["count"], ["what to do", "text"]],
    rows.map(([name, count, bad, advice], at) => surveyed || at > 4
      ? [name, [whole(count), bad && count > 0 ? "bad" : ""], bad && count > 0 ? advice : ""] : [name, ["–", ""], ""]));
  say(element("objects-text"), survey.rounds > 0 ? "" : !surveyed
    ? "Where stores are remote, objects that nobody asks for are not looked at."
    : "Not all objects were looked at yet: the first five numbers are of a part of them.");
}

function showConnections(status) {
  const listed = status.largest_and_slowest;
  // Those that hold much, or take little for long.
  const holds = Math.max(0, ...listed.map((one) => one.socket_bytes));
  const why = (one) => [
    one.socket_bytes === holds && holds > 65536 ? "holds the most" : "",
    one.phase === "sending" && one.seconds > 10 && one.bytes_per_second < 16384 ? "slow for " + duration(one.seconds) : "",
  ].filter(Boolean).join(", ");
  const phases = Object.entries(status.connections).filter(([, count]) => count > 0);
  say(element("connections-text"), phases.length
    ? phases.map(([name, count]) => whole(count) + " " + name).join(", ") + "."
    : "Nobody is connected.");
  table(element("connections"), [["client"], ["state", "text"], ["for"], ["rate"], ["sent"], ["kernel memory"], ["stands out", "text"]],
    listed.map((one) => [one.peer.startsWith(one.client) || one.peer.startsWith("[" + one.client) ? one.peer : one.client + " by " + one.peer,
      one.phase, duration(one.seconds), rate(one.bytes_per_second), bytes(one.sent_bytes), bytes(one.socket_bytes), why(one)]));
  element("connections").hidden = listed.length === 0;
}

function showTotals(status, now) {
  const { totals } = status;
  const ways = [
    ["sent from the page cache, by reference (spliced)", "spliced_bytes"],
    ["sent from hot objects", "hot_sent_bytes"],
    ["sent from rebuilt blocks in memory", "rebuilt_sent_bytes"],
    ["sent by copy", "copied_bytes"],
    ["sent from pool buffers, by reference (zero-copy)", "zero_copy_bytes"],
    ["read from data shares", "data_read_bytes"],
    ["read from parity shares", "parity_read_bytes"],
    ["rebuilt", "rebuilt_bytes"],
  ];
  table(element("ways"), [["way"], ["now"], ["since the start"]],
    ways.map(([name, key]) => [name, rate(now(key)), bytes(totals[key])]));
  // Those that clients cause day by day are not marked.
  const trouble = [
    ["bodies that could not be finished", "reset_bodies", true],
    ["share files given up after an error", "failed_shares", true],
    ["leaves that did not match their checksum", "failed_leaves", true],
    ["connections refused", "refused_connections", true],
    ["connections closed by a deadline", "timed_out_connections"],
    ["connections closed because they stalled with a loan", "stalled_connections"],
    ["TLS handshakes that failed", "tls_handshakes_failed"],
    ["lines lost of the access log", "access_log_lines_dropped", true],
  ];
  table(element("trouble"), [["what"], ["count"]],
    trouble.map(([name, key, bad]) => [name, [whole(totals[key]), bad && totals[key] > 0 ? "bad" : ""]]));
}

// What needs a look at once. It is read out when it changes, so no number here counts up.
function showAlarms() {
  const { status, trouble, historyTrouble } = view, alarms = [];
  if (trouble) alarms.push(trouble + (status ? " What you see is as of " + clock(view.statusAt / 1000) + "." : ""));
  else if (historyTrouble) alarms.push(historyTrouble + (view.history ? " The charts are as of " + clock(view.historyAt / 1000) + "." : " There are no charts."));
  if (status) {
    const away = status.stores.filter((store) => store.state !== "serving");
    if (!status.ready) alarms.push("The server is not ready: it is starting or stopping.");
    if (away.length) alarms.push(plural(away.length, "store") + " of " + status.stores.length + " not serving: " + away.map((store) => store.path + " (" + store.state + ")").join(", ") + ".");
    if (status.survey.unreadable) alarms.push(plural(status.survey.unreadable, "object") + " can't be read: fewer than k shares are left.");
    if (status.last_reload && status.last_reload.error) alarms.push("The configuration could not be loaded again: " + status.last_reload.error);
  }
  const lines = keep(element("alarm"), alarms.length, (list) => make(list, "p", { class: "alarm" }));
  lines.forEach((line, at) => say(line, alarms[at]));
}

function showAge() {
  const { body } = document, now = Date.now(), age = now - view.statusAt;
  const late = now - Math.max(view.statusAt, view.askingSince) > STALE_AFTER_MS;
  if (late && asking() && !view.trouble) view.trouble = "The server does not answer.";
  body.classList.toggle("stale", Boolean(view.trouble));
  body.classList.toggle("paused", view.paused);
  const at = view.status ? clock(view.statusAt / 1000) : null;
  say(element("age"), view.paused ? "Paused" + (at ? " at " + at : "")
    : view.trouble ? (at ? "No answer for " + duration(age / 1000) : "No answer") : at ? "Live, " + at : "Asking the server");
  const title = (view.trouble ? "No answer: " : "") + "Penstock";
  if (document.title !== title) document.title = title;
  showAlarms();
}

function showStatus() {
  const { status, before } = view;
  if (!status) return;
  const seconds = before ? (view.statusAt - before.at) / 1000 : 0;
  // A server that was started anew counts from zero.
  const now = (key) => seconds > 0 ? Math.max(0, status.totals[key] - before.totals[key]) / seconds : 0;
  say(element("about"), status.version + ", " + status.io_backend + ", " + plural(status.cores, "core") + ", up " + duration(status.uptime_seconds));
  showTiles(status, now);
  showMemory(status);
  showStores(status);
  showObjects(status);
  showConnections(status);
  showTotals(status, now);
}

// --- Asking ---

// Why there is no answer, in words.
class NoAnswer extends Error {}
async function ask(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    if (answer.ok) return await answer.json();
  } catch (error) {
    throw new NoAnswer(error.name === "TimeoutError" ? "The server does not answer." : "The server is gone, or can't be reached.");
  }
  if (answer.status === 401) throw new NoAnswer("The server asks for its token: load this page again.");
  throw new NoAnswer("The server answers " + path + " with " + answer.status + ".");
}
async function askStatus() {
  const status = await ask("status"), at = Date.now();
  if (view.status) view.before = { at: view.statusAt, totals: view.status.totals };
  const first = view.status === null;
  Object.assign(view, { status, statusAt: at });
  showStatus();
  // The declared memory is known from now on.
  if (first) drawAll();
}
async function askHistory() {
  view.history = await ask("history");
  view.historyAt = Date.now();
  drawAll();
}
const asking = () => !view.paused && !document.hidden;
// Asks again and again, but while nobody looks. What goes wrong is kept in the view.
function repeat(work, every, trouble) {
  const turn = async () => {
    if (asking()) {
      try {
        await work();
        view[trouble] = null;
      } catch (error) {
        view[trouble] = error instanceof NoAnswer ? error.message : "This page failed: " + error.message;
        if (!(error instanceof NoAnswer)) console.error(error);
      }
      showAge();
    }
    setTimeout(turn, every);
  };
  turn();
}
function resume() {
  view.askingSince = Date.now();
  showAge();
}

CHARTS.forEach(build);
for (const id of ["stores", "connections"]) element(id).classList.add("cards");
element("pause").addEventListener("click", () => {
  view.paused = !view.paused;
  element("pause").setAttribute("aria-pressed", view.paused);
  resume();
});
element("when").addEventListener("input", (event) => {
  const { at } = view.history || { at: [] }, place = +event.target.value;
  view.pinned = place >= at.length - 1 ? null : at[place];
  drawAll();
});
document.addEventListener("visibilitychange", resume);
new ResizeObserver(drawAll).observe(element("charts"));
repeat(askStatus, STATUS_EVERY_MS, "trouble");
repeat(askHistory, HISTORY_EVERY_MS, "historyTrouble");
setInterval(showAge, 1000);
