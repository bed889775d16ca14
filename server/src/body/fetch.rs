//! Has the parts of remote shares fetched that a piece takes, before it is produced.
//!
//! A piece of a healthy object takes its data shares, and any k shares will do. So of all the ways to have the bytes the
//! one is chosen that is expected to end first, by how fast the stores were lately; what is in the cache already costs
//! nothing. A store that is later than it usually is has others fetched in its place: a *hedge*, which takes a token, as
//! at most one fetch in [`HEDGE_EVERY`](crate::memory::limits::HEDGE_EVERY) may be in vain (0044).
//!
//! Nothing is fetched before the gate has admitted bytes, but for peers that have shown to be fast: then what follows is
//! fetched ahead, as far as there are slots.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep_until};

use super::produce::plan_piece;
use crate::engine::plan;
use crate::engine::{Engine, PieceError};
use crate::memory::limits::{HEDGE_RATE_PART, REMOTE_AHEAD_BYTES, REMOTE_AHEAD_EXTENTS};
use crate::objects::{Lacking, Object};
use crate::remote::{CachedShare, Fetch, Fetcher, HedgeRefusal, Outcome, Place};
use crate::stores::Cause;
use crate::units::{ObjectOffset, ShareNumber, ShareOffset};

/// How often a body that is under way is compared with the others.
const LOOK_AT_RATES: Duration = Duration::from_millis(100);
/// A parity share costs decoding: it is asked in place of a data share that is expected to take so many times as long,
const PARITY_TIMES: u32 = 2;
/// and so much longer.
const PARITY_PRICE: Duration = Duration::from_millis(10);

/// How often in a row bytes may come between finding them missing and asking for them.
const CAME_MAX: usize = 16;

/// Bytes of one share that a piece takes.
struct Target {
    number: ShareNumber,
    share: Arc<CachedShare>,
    /// Bytes of the file.
    ranges: [Range<u64>; 2],
}

impl Target {
    /// The fetch that it waits for.
    fn under_way(&self) -> Option<Arc<Fetch>> {
        self.ranges
            .iter()
            .find_map(|range| self.share.under_way(range))
    }
}

/// A way to have the bytes of a piece, and how long it is expected to take.
struct Way {
    targets: Vec<Target>,
    takes: Duration,
}

/// One turn's fetches.
pub(super) struct Fetching<'a> {
    fetcher: &'a Arc<Fetcher>,
    engine: &'a Engine,
    object: &'a Object,
    /// What is waited for: fetches, and whose.
    waited_for: Vec<(ShareNumber, Arc<CachedShare>, Arc<Fetch>)>,
    /// Shares that failed this turn.
    failed: Vec<ShareNumber>,
}

impl<'a> Fetching<'a> {
    /// For a turn to send bytes of an object.
    pub(super) fn new(
        fetcher: &'a Arc<Fetcher>,
        engine: &'a Engine,
        object: &'a Object,
    ) -> Fetching<'a> {
        Fetching {
            fetcher,
            engine,
            object,
            waited_for: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Waits until the first bytes of `wanted` can be produced. Returns whether that took waiting.
    ///
    /// # Errors
    /// If too few shares can be had.
    pub(super) async fn run(mut self, wanted: &Range<ObjectOffset>) -> Result<bool, PieceError> {
        let (mut has_waited, mut came) = (false, 0);
        loop {
            let lacks = match self.attempt(wanted) {
                Ok(()) => {
                    self.settle();
                    return Ok(has_waited);
                }
                Err(error @ PieceError::NotFetched { .. }) => error,
                Err(error) => return Err(error),
            };
            let way = match self.choose(wanted, false) {
                // What was missing has come in between. If it is missing again and again, a store is lying.
                Some(way) if way.targets.is_empty() && came < CAME_MAX => {
                    came += 1;
                    continue;
                }
                way => way.filter(|way| !way.targets.is_empty()),
            };
            let Some(way) = way else {
                return Err(match self.failed.len() {
                    0 => lacks.into_cause(),
                    // They may answer again.
                    away => PieceError::StoresAway {
                        away,
                        cause: Box::new(lacks.into_cause()),
                    },
                });
            };
            has_waited = true;
            self.start(&way.targets).await;
            self.wait(wanted, &way.targets).await;
            self.draw_conclusions();
        }
    }

    fn attempt(&self, wanted: &Range<ObjectOffset>) -> Result<(), PieceError> {
        let plan = plan_piece(self.object, wanted.clone(), self.engine.pool.room())?;
        let reads = plan.reads.iter().map(|read| (read.share, &read.window));
        self.object.want_cached(reads);
        Ok(())
    }

    /// The way that is expected to end first: `None` if too few shares can be had. `in_vain` has shares chosen although
    /// others were asked in their place.
    fn choose(&self, wanted: &Range<ObjectOffset>, in_vain: bool) -> Option<Way> {
        let layout = self.object.layout();
        let healthy = plan::healthy(layout, wanted.clone());
        let data: Option<Vec<_>> = healthy
            .reads
            .iter()
            .map(|read| self.estimate(read.share, &read.window, in_vain))
            .collect();
        let first = healthy.reads.iter().map(|read| read.window.start).min()?;
        let last = healthy.reads.iter().map(|read| read.window.end).max()?;
        let k = usize::from(layout.k);
        let mut any: Vec<_> = (0..layout.n)
            .filter_map(|number| self.estimate(ShareNumber(number), &(first..last), in_vain))
            .collect();
        // Stable: data shares first where it makes no difference.
        any.sort_by_key(|(takes, _)| *takes);
        any.truncate(k);
        let any = (any.len() == k).then(|| way(any));
        let data = data.map(way);
        let chosen = match (data, any) {
            (Some(data), Some(any)) => {
                let is_slow = data.takes > PARITY_TIMES * any.takes + PARITY_PRICE;
                Some(match is_slow && self.fetcher.hedges() {
                    true => any,
                    false => data,
                })
            }
            (data, any) => data.or(any),
        };
        match chosen {
            None if !in_vain => self.choose(wanted, true),
            chosen => chosen,
        }
    }

    /// How long it is expected to take until a share's bytes are here; `None` if they can't be had. What is here, or is
    /// a local store's, takes no time and no target.
    fn estimate(
        &self,
        number: ShareNumber,
        window: &Range<ShareOffset>,
        in_vain: bool,
    ) -> Option<(Duration, Option<Target>)> {
        if self.failed.contains(&number) {
            return None;
        }
        let share = match self.object.lacking(number, window) {
            Lacking::Nothing => return Some((Duration::ZERO, None)),
            Lacking::Bytes(share) => Arc::clone(share),
            Lacking::Share => return None,
        };
        let target = Target {
            number,
            ranges: self.object.file_ranges(window),
            share,
        };
        let pace = &target.share.origin().pace;
        let mut takes = pace.expect(window.end.0 - window.start.0);
        if let Some(fetch) = target.under_way() {
            if fetch.is_hedged() && !in_vain {
                return None;
            }
            takes = takes.saturating_sub(fetch.began().elapsed());
        }
        Some((takes, Some(target)))
    }

    /// Starts what is missing and not on its way.
    async fn start(&mut self, targets: &[Target]) {
        for target in targets {
            for range in &target.ranges {
                target.share.want(range);
                let at_most = target.share.extent_bytes();
                let extent_end = range.end.next_multiple_of(at_most);
                let range = range.start..extent_end.min(target.share.bytes());
                while target.share.lacks_a_fetch(&range) {
                    let slot = match self.fetcher.try_slot() {
                        Some(slot) => slot,
                        // What is on its way is waited for first.
                        None if !self.waited_for.is_empty() => return,
                        None => match self.fetcher.slot().await {
                            Some(slot) => slot,
                            None => return,
                        },
                    };
                    let started = self.fetcher.start(&target.share, &range, at_most, slot);
                    self.wait_for(target, started);
                }
            }
            let on_its_way = target.under_way();
            self.wait_for(target, on_its_way);
        }
    }

    fn wait_for(&mut self, target: &Target, fetch: Option<Arc<Fetch>>) {
        let Some(fetch) = fetch else { return };
        let is_known = |(.., known): &(_, _, Arc<Fetch>)| Arc::ptr_eq(known, &fetch);
        if !self.waited_for.iter().any(is_known) {
            self.waited_for
                .push((target.number, Arc::clone(&target.share), fetch));
        }
    }

    /// Waits until something has come, or has ended, or one that is late has others fetched in its place.
    async fn wait(&mut self, wanted: &Range<ObjectOffset>, targets: &[Target]) {
        let shares: Vec<Arc<CachedShare>> = targets
            .iter()
            .map(|target| Arc::clone(&target.share))
            .collect();
        loop {
            // They hear of everything from here on: what was before is seen now.
            let mut progress: Vec<Pin<Box<Notified<'_>>>> = shares
                .iter()
                .map(|share| {
                    let mut notified = Box::pin(share.progress().notified());
                    notified.as_mut().enable();
                    notified
                })
                .collect();
            if self.has_ended() || self.attempt(wanted).is_ok() {
                return;
            }
            let now = Instant::now();
            let alarm = self.alarm(now);
            let mut sleep: Pin<&mut Sleep> = pin!(sleep_until(alarm.into()));
            let has_come = poll_fn(|context| {
                let come = progress
                    .iter_mut()
                    .any(|one| one.as_mut().poll(context).is_ready());
                match come {
                    true => Poll::Ready(true),
                    false => sleep.as_mut().poll(context).map(|()| false),
                }
            })
            .await;
            if has_come {
                return;
            }
            if self.hedge(wanted, Instant::now()) {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let mut fetches = self.waited_for.iter();
        fetches.any(|(.., fetch)| fetch.outcome().is_some())
    }

    /// When it is time to ask whether one is late.
    fn alarm(&self, now: Instant) -> Instant {
        let due = self.waited_for.iter().filter_map(|(_, share, fetch)| {
            if fetch.is_hedged() || !self.fetcher.hedges() {
                None
            } else if fetch.has_begun_to_come() {
                Some(now + LOOK_AT_RATES)
            } else {
                Some(fetch.began() + share.origin().pace.hedge_after())
            }
        });
        // Where nothing is due, something comes or ends.
        due.min().unwrap_or(now + Duration::from_secs(1)).max(now)
    }

    /// Whether one is late, and others are fetched in its place from now on.
    fn hedge(&mut self, wanted: &Range<ObjectOffset>, now: Instant) -> bool {
        if !self.fetcher.hedges() {
            return false;
        }
        let Some((_, share, late)) = self.late(now) else {
            return false;
        };
        let (share, late) = (Arc::clone(share), Arc::clone(late));
        // Only one client decides.
        if !late.hedge() {
            return true;
        }
        let Some(way) = self.choose(wanted, false).filter(|way| {
            let is_late = |target: &Target| Arc::ptr_eq(&target.share, &share);
            !way.targets.iter().any(is_late)
        }) else {
            self.fetcher.note_refusal(HedgeRefusal::NoShare);
            return false;
        };
        let more = way
            .targets
            .iter()
            .filter(|target| target.under_way().is_none());
        let more: Vec<&Target> = more.collect();
        if more
            .iter()
            .any(|target| !self.fetcher.has_room_at(&target.share))
        {
            late.unhedge();
            self.fetcher.note_refusal(HedgeRefusal::Busy);
            return false;
        }
        if !self.fetcher.try_hedge(more.len() as u64) {
            late.unhedge();
            self.fetcher.note_refusal(HedgeRefusal::Budget);
            return false;
        }
        late.replace();
        self.fetcher.note_hedge();
        true
    }

    /// A fetch that is late: its first byte, or the rest beside the others' rates.
    fn late(&self, now: Instant) -> Option<&(ShareNumber, Arc<CachedShare>, Arc<Fetch>)> {
        let candidates = || {
            let not_hedged = self.waited_for.iter();
            not_hedged.filter(|(.., fetch)| !fetch.is_hedged() && fetch.outcome().is_none())
        };
        let no_byte = candidates().find(|(_, share, fetch)| {
            !fetch.has_begun_to_come()
                && now.saturating_duration_since(fetch.began()) >= share.origin().pace.hedge_after()
        });
        if no_byte.is_some() {
            return no_byte;
        }
        let mut rates: Vec<u64> = self
            .waited_for
            .iter()
            .filter_map(|(.., fetch)| fetch.rate(now))
            .collect();
        if rates.len() < 3 {
            return None;
        }
        rates.sort_unstable();
        let median = rates[rates.len() / 2];
        candidates().find(|(.., fetch)| {
            let rate = fetch.rate(now);
            rate.is_some_and(|rate| rate < median / HEDGE_RATE_PART)
        })
    }

    /// Learns from fetches that have ended.
    fn draw_conclusions(&mut self) {
        let (object, engine) = (self.object, self.engine);
        let failed = &mut self.failed;
        self.waited_for.retain(|(number, share, fetch)| {
            let Some(outcome) = fetch.outcome() else {
                return true;
            };
            let is_first = fetch.report();
            let copy = object.copy_of(*number, share);
            let store = copy.and_then(|copy| Some(object.share(*number, copy)?.store()));
            match outcome {
                Outcome::Done | Outcome::Cancelled => {}
                Outcome::Gone(why) => {
                    failed.push(*number);
                    share.origin().forget(share.name());
                    if let Some(copy) = copy {
                        engine.give_up(object, *number, copy, &io::Error::other(why));
                    }
                }
                Outcome::Failed(why) => {
                    failed.push(*number);
                    let error = io::Error::other(why);
                    if let (true, Some(store)) = (is_first, store) {
                        store.note_failure(&error, object.number());
                    }
                    // A store that fails for this object alone is not asked for every piece of it.
                    if let Some(copy) = copy
                        && let Some(of) = object.share(*number, copy)
                        && !of.note_spot()
                    {
                        engine.give_up(object, *number, copy, &error);
                    }
                }
                Outcome::Away(why) => {
                    failed.push(*number);
                    if let (true, Some(store)) = (is_first, store) {
                        store.suspend(Cause::Missing, &why);
                    }
                }
                Outcome::Hung => {
                    failed.push(*number);
                    if let (true, Some(store)) = (is_first, store) {
                        store.suspend_hung("answer to a request");
                    }
                }
                Outcome::NotKept(_) => failed.push(*number),
            }
            false
        });
    }

    /// Its bytes are here: what was late has lost.
    fn settle(&mut self) {
        self.draw_conclusions();
        for (.., fetch) in &self.waited_for {
            if fetch.lose() {
                self.fetcher.note_won();
            }
        }
    }

    /// Starts to fetch what a fast peer will want next, as far as there are slots to spare.
    pub(super) fn ahead(&self, from: ObjectOffset) {
        let layout = self.object.layout();
        let far = REMOTE_AHEAD_EXTENTS * REMOTE_AHEAD_BYTES;
        let segments = (far / layout.block_bytes).max(1);
        let until = from + segments * layout.segment_bytes();
        let wanted = from..until.min(layout.end());
        if wanted.start >= wanted.end {
            return;
        }
        let first = layout.segment_of(wanted.start);
        let last = layout.segment_of(wanted.end - 1);
        let window = layout.block_start(first)..layout.block_start(last) + layout.block_len(last);
        let k = usize::from(layout.k);
        let estimates = (0..layout.n).map(ShareNumber);
        let mut estimates: Vec<_> = estimates
            .filter_map(|number| self.estimate(number, &window, false))
            .collect();
        let here = estimates.iter().filter(|(_, target)| target.is_none());
        if here.count() >= k {
            return;
        }
        let mut times: Vec<Duration> = estimates.iter().map(|(takes, _)| *takes).collect();
        times.sort_unstable();
        let Some(usual) = times.get(k - 1) else {
            return;
        };
        // In order: data shares, but for those whose stores are slow.
        let most = PARITY_TIMES * *usual + PARITY_PRICE;
        let waits = !self.fetcher.hedges();
        estimates.retain(|(takes, _)| waits || *takes <= most);
        estimates.truncate(k);
        for target in estimates.into_iter().filter_map(|(_, target)| target) {
            if target.share.place() == Place::Memory {
                return;
            }
            // Whole extents: the one that is being sent, and the next ones.
            let start = target.ranges[0].start;
            let end = (start + far).next_multiple_of(REMOTE_AHEAD_BYTES);
            let range = &(start..end.min(target.share.bytes()));
            target.share.want(range);
            while target.share.lacks_a_fetch(range) && self.fetcher.has_slots_to_spare() {
                let Some(slot) = self.fetcher.try_slot() else {
                    return;
                };
                let at_most = REMOTE_AHEAD_BYTES;
                let _ = self.fetcher.start(&target.share, range, at_most, slot);
            }
        }
    }
}

fn way(estimates: Vec<(Duration, Option<Target>)>) -> Way {
    Way {
        takes: estimates
            .iter()
            .map(|(takes, _)| *takes)
            .max()
            .unwrap_or_default(),
        targets: estimates
            .into_iter()
            .filter_map(|(_, target)| target)
            .collect(),
    }
}
