//! A look at all objects in the background, for what no request may find out for long: objects that lost shares, and those
//! that this server can't ever serve.
//!
//! One thread walks the stores in a ring, one `objects/ab` after the other, and begins anywhere, so that a server that
//! starts again doesn't always see the same ones. The stores' own threads make the calls, one at a time on each store. It
//! rests after every step, so that looking takes a small part of the time, and less of a disk that is busy. What it found
//! is kept by `ab`: the totals are of the latest look at each of them.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use penstock_store::survey::{self, Condition, Glance};
use serde::Serialize;

use super::servable::{Bounds, Shape};
use crate::io::StoreThreads;
use crate::memory::limits::{SURVEY_BEGINS, SURVEY_NAMES_MAX, SURVEY_REST_MOST, SURVEY_REST_TIMES};
use crate::stores::{Store, Stores};

/// Directories right below `objects`.
const FIRSTS: usize = 256;

/// What was found of some objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Objects, removed ones left out.
    pub objects: u64,
    /// Those with fewer than their n shares in stores that could be asked.
    pub degraded: u64,
    /// Those with exactly k: one more lost, and they can't be read.
    pub without_redundancy: u64,
    /// Those with fewer than k.
    pub unreadable: u64,
    /// Those that this server can't serve for lack of memory, pool buffers or share files.
    pub too_large: u64,
}

impl Found {
    fn add(&mut self, other: &Found) {
        self.objects += other.objects;
        self.degraded += other.degraded;
        self.without_redundancy += other.without_redundancy;
        self.unreadable += other.unreadable;
        self.too_large += other.too_large;
    }

    fn count(&mut self, object: &Condition, bounds: &Bounds) {
        let geometry = &object.header.geometry;
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        self.objects += 1;
        self.degraded += u64::from(object.shares < n);
        self.without_redundancy += u64::from(object.shares == k);
        self.unreadable += u64::from(object.shares < k);
        let shape = Shape::of(&object.header, object.shares);
        self.too_large += u64::from(bounds.refusal(&shape).is_some());
    }
}

/// What the survey found so far.
#[derive(Debug)]
pub struct Survey {
    by_first: Mutex<[Found; FIRSTS]>,
    rounds: AtomicU64,
}

impl Default for Survey {
    fn default() -> Survey {
        Survey {
            by_first: Mutex::new([Found::default(); FIRSTS]),
            rounds: AtomicU64::new(0),
        }
    }
}

impl Survey {
    /// Everything added up.
    pub fn total(&self) -> Found {
        let by_first = self.by_first.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = Found::default();
        by_first.iter().for_each(|found| total.add(found));
        total
    }

    /// How often all objects were looked at.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Relaxed)
    }

    /// Starts the survey of these stores, which ends when they are gone. It begins again so long after it has seen all.
    /// Without stores of objects there is nothing to do. Where some are remote there is none: it would not see the shares
    /// there, and take objects for damaged that are whole.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        self: &Arc<Survey>,
        stores: &Arc<Stores>,
        bounds: Bounds,
        every: Duration,
    ) -> std::io::Result<()> {
        if stores.stores().is_empty() {
            return Ok(());
        }
        if stores.stores().iter().any(|store| store.origin().is_some()) {
            tracing::info!(
                "not all objects are looked at in the background: what remote stores have of them would not be seen"
            );
            self.forget();
            return Ok(());
        }
        let walk = Walk {
            stores: Arc::downgrade(stores),
            survey: Arc::clone(self),
            bounds,
            every,
            busy: stores.stores().iter().map(|_| None).collect(),
        };
        thread::Builder::new()
            .name("survey".into())
            .spawn(move || walk.run())
            .map(drop)
    }

    /// What was found of other stores is of no use any more.
    fn forget(&self) {
        self.rounds.store(0, Relaxed);
        for first in 0..=u8::MAX {
            self.set(first, Found::default());
        }
    }

    fn set(&self, first: u8, found: Found) {
        let mut by_first = self.by_first.lock().unwrap_or_else(PoisonError::into_inner);
        by_first[usize::from(first)] = found;
    }
}

/// The thread.
struct Walk {
    stores: Weak<Stores>,
    survey: Arc<Survey>,
    bounds: Bounds,
    every: Duration,
    /// By store, what tells that its last call has ended, if that was given up.
    busy: Vec<Option<Receiver<()>>>,
}

/// The stores are gone: the server ends.
struct Over;

impl Walk {
    fn run(mut self) {
        let begin = RandomState::new().build_hasher().finish() as u8;
        let mut told = Found::default();
        thread::sleep(self.every.min(SURVEY_BEGINS));
        loop {
            for step in 0..=u8::MAX {
                let first = begin.wrapping_add(step);
                match self.walk(first) {
                    Ok(found) => self.survey.set(first, found),
                    Err(Over) => return,
                }
            }
            let rounds = self.survey.rounds.fetch_add(1, Relaxed) + 1;
            let total = self.survey.total();
            if rounds == 1 || total != told {
                tell(&total, rounds == 1);
            }
            told = total;
            thread::sleep(self.every);
        }
    }

    /// Looks at all objects under `objects/ab`.
    fn walk(&mut self, first: u8) -> Result<Found, Over> {
        let mut found = Found::default();
        let mut after = String::new();
        loop {
            let begun = after.clone();
            let parts = self.ask(move |store| {
                survey::names_after(store.path(), first, &begun, SURVEY_NAMES_MAX)
            })?;
            let mut parts: Vec<_> = parts.into_iter().filter_map(Result::ok).collect();
            // Behind where one of them ends there may be names that it did not tell yet.
            let cut = parts.iter().filter(|part| part.is_cut);
            let end = cut.filter_map(|part| part.names.last()).min().cloned();
            let mut names: BTreeSet<String> = BTreeSet::new();
            for part in &mut parts {
                names.append(&mut part.names);
            }
            if let Some(end) = &end {
                names.retain(|name| name <= end);
            }
            for name in names {
                let dir = format!("{first:02x}/{name}");
                let glances: Vec<Glance> =
                    self.ask(move |store| survey::glance(store.path(), &dir))?;
                if let Some(object) = survey::condition(glances) {
                    found.count(&object, &self.bounds);
                }
            }
            match end {
                Some(end) => after = end,
                None => return Ok(found),
            }
        }
    }

    /// Asks all stores that serve, together, and waits for each no longer than a call may take. One that is late is left
    /// out until that call has ended. Rests afterwards.
    fn ask<T: Send + 'static>(
        &mut self,
        job: impl Fn(&Store) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Over> {
        let stores = self.stores.upgrade().ok_or(Over)?;
        let start = Instant::now();
        let deadline = start + stores.timeout();
        let mut asked = Vec::with_capacity(self.busy.len());
        for (store, busy) in stores.stores().iter().zip(&mut self.busy) {
            if busy.as_ref().is_some_and(|ended| ended.try_recv().is_err()) || !store.serves(false)
            {
                continue;
            }
            *busy = None;
            let (reply, answer) = bounded(1);
            let (done, ended) = bounded(1);
            let (store, job) = (Arc::clone(store), job.clone());
            let threads: &Arc<StoreThreads> = &Arc::clone(store.threads());
            let submitted = threads.looks.submit(move || {
                // Who asked may have given up.
                let _ = reply.send(job(&store));
                let _ = done.send(());
            });
            if submitted.is_ok() {
                asked.push((busy, answer, ended));
            }
        }
        let mut answers = Vec::with_capacity(asked.len());
        for (busy, answer, ended) in asked {
            match answer.recv_deadline(deadline) {
                Ok(answer) => answers.push(answer),
                Err(_) => *busy = Some(ended),
            }
        }
        // Nothing keeps the server while this rests.
        drop(stores);
        let rest = start.elapsed() * SURVEY_REST_TIMES;
        thread::sleep(rest.min(SURVEY_REST_MOST));
        Ok(answers)
    }
}

/// Tells what a round found.
fn tell(total: &Found, is_first: bool) {
    let Found {
        objects,
        degraded,
        without_redundancy,
        unreadable,
        too_large,
    } = *total;
    if degraded + unreadable + too_large == 0 {
        if is_first {
            tracing::info!(objects, "all objects were looked at: none lacks a share");
        }
        return;
    }
    tracing::warn!(
        objects,
        degraded,
        without_redundancy,
        unreadable,
        too_large,
        "all objects were looked at: `penstock repair` restores shares; those that are too large are refused with 501, \
         `penstock plan` says what they take"
    );
}
