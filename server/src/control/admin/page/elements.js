// Elements and tables, which change no more than they must.

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
