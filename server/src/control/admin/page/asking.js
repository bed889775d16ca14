// Asking the server again and again, and what the reader can press.

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
