//! Fetches parts of shares, in memory that is planned: so many at one time, each with a buffer of one unit.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use penstock_remote::{RemoteError, RemoteErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cache::Cache;
use super::fetch::{Fetch, Outcome};
use super::share::CachedShare;
use super::space::{Place, is_full};
use crate::memory::limits::{
    HEDGE_EVERY, HEDGES_SAVED_MAX, REMOTE_FETCHES_OF_STORE_MAX, REMOTE_TOLD_EVERY,
    REMOTE_UNIT_BYTES,
};

/// Why others were not asked in place of one that is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeRefusal {
    /// Too many were lately.
    Budget,
    /// As many fetches are under way as may be, in all or at that store.
    Busy,
    /// There is no other share.
    NoShare,
}

/// What is counted of fetching.
#[derive(Default)]
pub struct FetchCounts {
    /// Others were asked, since one was late.
    pub hedges_fired: AtomicU64,
    /// What they brought came first.
    pub hedges_won: AtomicU64,
    /// None was asked, since too many were lately.
    pub hedges_over_budget: AtomicU64,
    /// None was asked, since too many fetches are under way.
    pub hedges_busy: AtomicU64,
    /// None was asked, since there is no other share.
    pub hedges_without_share: AtomicU64,
}

/// Starts fetches. All cores share it.
pub struct Fetcher {
    /// Where what they bring is kept.
    cache: Arc<Cache>,
    slots: Arc<Semaphore>,
    fetches_max: usize,
    /// Tokens for hedges, in parts of [`HEDGE_EVERY`]: each fetch that ends adds a part.
    tokens: AtomicU64,
    hedges: bool,
    /// Counters.
    pub counts: FetchCounts,
}

impl Fetcher {
    /// So many fetches into a cache at one time; `hedges` has others asked where one is late.
    pub fn new(cache: Arc<Cache>, fetches_max: usize, hedges: bool) -> Arc<Fetcher> {
        Arc::new(Fetcher {
            cache,
            slots: Arc::new(Semaphore::new(fetches_max)),
            fetches_max,
            tokens: AtomicU64::new(HEDGES_SAVED_MAX * HEDGE_EVERY / 4),
            hedges,
            counts: FetchCounts::default(),
        })
    }

    /// Fetches that are under way.
    pub fn under_way(&self) -> usize {
        self.fetches_max - self.slots.available_permits()
    }

    /// Whether others are asked where one is late.
    pub fn hedges(&self) -> bool {
        self.hedges
    }

    /// A slot, after the others that wait for one.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// A slot, if one is free.
    pub fn try_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Takes tokens for so many more fetches than would be needed.
    pub fn try_hedge(&self, fetches: u64) -> bool {
        let price = fetches * HEDGE_EVERY;
        let take = |have: u64| have.checked_sub(price);
        self.tokens.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Whether there are slots for what is not wanted yet.
    pub fn has_slots_to_spare(&self) -> bool {
        self.slots.available_permits() > self.fetches_max / 4
    }

    /// Others are asked in place of one that is late.
    pub fn note_hedge(&self) {
        self.counts.hedges_fired.fetch_add(1, Relaxed);
    }

    /// They came first.
    pub fn note_won(&self) {
        self.counts.hedges_won.fetch_add(1, Relaxed);
    }

    /// Counts why nothing else was asked.
    pub fn note_refusal(&self, refusal: HedgeRefusal) {
        let counter = match refusal {
            HedgeRefusal::Budget => &self.counts.hedges_over_budget,
            HedgeRefusal::Busy => &self.counts.hedges_busy,
            HedgeRefusal::NoShare => &self.counts.hedges_without_share,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Starts to fetch the first bytes of a range that are neither there nor on their way, no longer than `at_most`, in
    /// this slot. `None` if there are none.
    pub fn start(
        self: &Arc<Fetcher>,
        share: &Arc<CachedShare>,
        range: &Range<u64>,
        at_most: u64,
        slot: OwnedSemaphorePermit,
    ) -> Option<Arc<Fetch>> {
        let fetch = share.begin(range, at_most)?;
        let (fetcher, share, started) = (Arc::clone(self), Arc::clone(share), Arc::clone(&fetch));
        let client = share.origin().client().clone();
        client.handle().spawn(async move {
            share.origin().under_way.fetch_add(1, Relaxed);
            let outcome = tokio::select! {
                outcome = fill(&fetcher.cache, &share, &started) => outcome,
                () = started.cancelled() => {
                    // It took at least so long.
                    if !started.has_begun_to_come() {
                        share.origin().pace.note_first_byte(started.began().elapsed());
                    }
                    Outcome::Cancelled
                }
            };
            share.origin().under_way.fetch_sub(1, Relaxed);
            let counts = &share.origin().counts;
            match &outcome {
                Outcome::Done => {
                    counts.fetches.fetch_add(1, Relaxed);
                    fetcher.save();
                }
                Outcome::Gone(why) | Outcome::Failed(why) | Outcome::Away(why) => {
                    counts.failed.fetch_add(1, Relaxed);
                    tracing::debug!(share = share.name(), store = %share.origin(), "fetch failed: {why}");
                }
                Outcome::Hung => {
                    counts.failed.fetch_add(1, Relaxed);
                }
                Outcome::Cancelled => {}
                Outcome::NotKept(why) => {
                    tracing::debug!(path = %share.path().display(), "not kept: {why}");
                }
            }
            started.finish(outcome);
            // Who wakes up finds a slot.
            drop(slot);
            share.end(&started);
        });
        Some(fetch)
    }

    /// Whether one more may be asked of a store.
    pub fn has_room_at(&self, share: &CachedShare) -> bool {
        share.origin().under_way.load(Relaxed) < REMOTE_FETCHES_OF_STORE_MAX.min(self.fetches_max)
    }

    /// A fetch has ended: a part of a token for a hedge.
    fn save(&self) {
        let more = |have: u64| Some((have + 1).min(HEDGES_SAVED_MAX * HEDGE_EVERY));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, more);
    }
}

/// Fetches a range and writes it to the cache as it comes, unit by unit. The writes are plain ones, to the page cache; a
/// disk that is behind slows down all fetches alike.
async fn fill(cache: &Cache, share: &CachedShare, fetch: &Fetch) -> Outcome {
    let failed = |error: RemoteError| match error.kind() {
        RemoteErrorKind::NotFound => Outcome::Gone(error.to_string()),
        RemoteErrorKind::Timeout => Outcome::Hung,
        RemoteErrorKind::Unreachable | RemoteErrorKind::Denied => Outcome::Away(error.to_string()),
        _ => Outcome::Failed(error.to_string()),
    };
    let origin = share.origin();
    let mut body = match origin.bucket().get(share.name(), fetch.range.clone()).await {
        Ok(body) => body,
        Err(error) => return failed(error),
    };
    let first = Instant::now();
    fetch.note_first_byte(first);
    origin
        .pace
        .note_first_byte(first.saturating_duration_since(fetch.began()));
    if body.total_bytes() != share.bytes() {
        return Outcome::Gone(format!(
            "the file has {} bytes now, it had {}",
            body.total_bytes(),
            share.bytes()
        ));
    }
    let mut at = fetch.range.start;
    let mut unit: Vec<u8> = Vec::with_capacity(REMOTE_UNIT_BYTES as usize);
    while let Some(chunk) = body.next().await {
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return failed(error),
        };
        fetch.note_received(chunk.len() as u64);
        origin
            .counts
            .fetched_bytes
            .fetch_add(chunk.len() as u64, Relaxed);
        while !chunk.is_empty() {
            let room = REMOTE_UNIT_BYTES as usize - unit.len();
            let part = chunk.split_to(room.min(chunk.len()));
            unit.extend_from_slice(&part);
            let is_last = at + unit.len() as u64 == fetch.range.end;
            if unit.len() == REMOTE_UNIT_BYTES as usize || is_last {
                if let Err(error) = keep(cache, share, &unit, at) {
                    return Outcome::NotKept(error.to_string());
                }
                at += unit.len() as u64;
                unit.clear();
                // The end of the fetch is told when it has ended.
                if at == fetch.range.start + REMOTE_UNIT_BYTES
                    || at.is_multiple_of(REMOTE_TOLD_EVERY)
                {
                    share.tell_progress();
                }
            }
        }
    }
    if at < fetch.range.end {
        return Outcome::Failed("the body ended early".to_owned());
    }
    origin
        .pace
        .note_body(fetch.range.end - fetch.range.start, first.elapsed());
    Outcome::Done
}

/// How often room is made for one unit: the first time others may take it.
const ROOM_TRIES: usize = 2;

/// Writes to the cache. Where the disk is full, room is made.
fn keep(cache: &Cache, share: &CachedShare, bytes: &[u8], at: u64) -> io::Result<()> {
    let (place, length) = (share.place(), bytes.len() as u64);
    if place == Place::Memory && !cache.has_memory_for(length) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut result = share.fill(bytes, at);
    let mut tries = 0..ROOM_TRIES;
    while place == Place::Disk
        && result.as_ref().is_err_and(is_full)
        && tries.next().is_some()
        && cache.make_room_on_full_disk(length)
    {
        result = share.fill(bytes, at);
    }
    match &result {
        Ok(()) => cache.note_filled(place, length),
        Err(error) if place == Place::Disk => cache.note_broken(error),
        Err(_) => {}
    }
    result
}
