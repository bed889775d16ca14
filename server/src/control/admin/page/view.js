// The live page: it asks /status every two seconds and /history every five, and shows them. This file and those beside it
// are served as one script, in the order in which admin/mod.rs has them.
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
