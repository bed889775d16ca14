// What /status tells.

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
    ["read, uncached"], ["failed"], ["given up"], ["free"], ["last error", "text wide"]],
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
    if (!status.ready) alarms.push("The server is not ready: " + status.why_not_ready + ".");
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
