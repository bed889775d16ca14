//! One ranged GET that fills a part of a cached share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it has come.
    Done,
    /// The store does not have the file, or has another by its name.
    Gone(String),
    /// The store failed.
    Failed(String),
    /// The store can't be connected to, or takes no keys of ours.
    Away(String),
    /// The store did not answer in time.
    Hung,
    /// It lost against others that were fetched in its place.
    Cancelled,
    /// What came could not be written to the cache.
    NotKept(String),
}

/// A fetch that is under way, or has ended. Whoever wants its bytes looks at it.
pub struct Fetch {
    /// The bytes of the file that it brings.
    pub range: Range<u64>,
    began: Instant,
    /// Nanoseconds from its beginning until the first byte came, and one; 0 before.
    first_byte: AtomicU64,
    received: AtomicU64,
    /// It was late, and it was asked whether others can be fetched in its place.
    hedged: AtomicBool,
    /// They are.
    replaced: AtomicBool,
    /// Others came first.
    lost: AtomicBool,
    cancel: Notify,
    reported: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
}

impl Fetch {
    /// One that begins now.
    pub(super) fn new(range: Range<u64>, now: Instant) -> Fetch {
        Fetch {
            range,
            began: now,
            first_byte: AtomicU64::new(0),
            received: AtomicU64::new(0),
            hedged: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            cancel: Notify::new(),
            reported: AtomicBool::new(false),
            outcome: Mutex::new(None),
        }
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether its first byte has come.
    pub fn has_begun_to_come(&self) -> bool {
        self.first_byte.load(Relaxed) > 0
    }

    /// Bytes per second since its first byte; `None` before enough has come to tell.
    pub fn rate(&self, now: Instant) -> Option<u64> {
        let first = self.first_byte.load(Relaxed).checked_sub(1)?;
        let since = now.checked_duration_since(self.began + Duration::from_nanos(first))?;
        let bytes = self.received.load(Relaxed);
        (since >= RATE_AFTER).then(|| (bytes as f64 / since.as_secs_f64()) as u64)
    }

    pub(super) fn note_first_byte(&self, now: Instant) {
        let took = now.saturating_duration_since(self.began).as_nanos() as u64;
        self.first_byte.store(took.saturating_add(1), Relaxed);
    }

    pub(super) fn note_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Says that it is late, and that others are to be fetched in its place. Returns whether this is the first to say so.
    pub fn hedge(&self) -> bool {
        !self.hedged.swap(true, Relaxed)
    }

    /// Whether it was late, and is not to be asked about again.
    pub fn is_hedged(&self) -> bool {
        self.hedged.load(Relaxed)
    }

    /// Takes that back.
    pub fn unhedge(&self) {
        self.hedged.store(false, Relaxed);
    }

    /// Says that others are fetched in its place.
    pub fn replace(&self) {
        self.replaced.store(true, Relaxed);
    }

    /// A client has its bytes. If others were fetched in its place, they came first, and it ends, unless most of it has come.
    /// Returns whether that is so, and news.
    pub fn lose(&self) -> bool {
        if !self.replaced.load(Relaxed) {
            return false;
        }
        let is_news = !self.lost.swap(true, Relaxed);
        let bytes = self.range.end - self.range.start;
        if is_news && self.received.load(Relaxed) < bytes / 2 {
            self.cancel.notify_one();
        }
        is_news
    }

    /// Ends when it is not wanted any more.
    pub(super) async fn cancelled(&self) {
        self.cancel.notified().await;
    }

    /// Whether this is the first to tell its store how it ended.
    pub fn report(&self) -> bool {
        !self.reported.swap(true, Relaxed)
    }

    pub(super) fn finish(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        let outcome = self.outcome.lock();
        outcome.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a body must have come before its rate is told.
const RATE_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// With as many stores left as it takes, a late fetch that nothing could take the place of was counted as beaten when its
    /// client went on, and ended.
    #[test]
    fn only_what_others_were_fetched_for_loses() {
        let fetch = Fetch::new(0..100, Instant::now());
        assert!(fetch.hedge() && !fetch.hedge());
        assert!(!fetch.lose());
        fetch.replace();
        assert!(fetch.lose() && !fetch.lose());
    }
}
