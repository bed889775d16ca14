// The charts of what /history tells.

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
  { title: "Sent", format: rate, binary: true, mean: true, stack: true, least: 4096,
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
