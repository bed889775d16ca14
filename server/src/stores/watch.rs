//! The background: stores are tried at start, suspended ones are tried again, slow ones are found out, and all are asked
//! for their free space. One thread does it for the whole server, and the stores' own threads make the calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::all::{Stores, StoresError};
use super::health::{Cause, State};
use super::probe::Found;
use super::store::Store;
use crate::memory::limits::{
    STORE_PATIENCE, STORE_SLOW, STORE_SLOW_TIMES, STORE_SPACE_EVERY, STORE_TICK,
};

type Result<T> = std::result::Result<T, (Cause, String)>;

/// What came of trying a store: its place among all, and what was found.
type Tried = (usize, Result<Found>);

/// What the watch knows of one store.
#[derive(Default)]
struct Watched {
    /// When a try began that has not ended, and whether it was given up.
    trying: Option<(Instant, bool)>,
    /// When a try began last.
    tried: Option<Instant>,
    /// When it was asked for its space last, and whether it has answered.
    space: Option<(Instant, Arc<AtomicBool>)>,
}

/// Watches stores.
struct Watch {
    stores: Vec<Watched>,
    tried: Sender<Tried>,
    results: Receiver<Tried>,
}

impl Watch {
    fn new(count: usize) -> Watch {
        // As many as there are stores at most: each is tried once at a time.
        let (tried, results) = unbounded();
        Watch {
            stores: (0..count).map(|_| Watched::default()).collect(),
            tried,
            results,
        }
    }

    /// Begins to try a store.
    fn try_store(&mut self, at: usize, store: &Arc<Store>, now: Instant) {
        let (tried, again) = (self.tried.clone(), Arc::clone(store));
        let submitted = store.threads().looks.submit(move || {
            let found = again.disk().probe(again.path(), again.is_node());
            // The watch may be over.
            let _ = tried.send((at, found));
        });
        match submitted {
            Ok(()) => {
                self.stores[at].trying = Some((now, false));
                self.stores[at].tried = Some(now);
            }
            Err(refused) => try_failed(store, (Cause::Hung, refused.to_string())),
        }
    }

    /// A store's try ended.
    fn ended(&mut self, stores: &Stores, at: usize, result: Result<Found>) {
        let Some(store) = stores.all().nth(at) else {
            return;
        };
        let given_up = self.stores[at].trying.take().is_some_and(|(_, late)| late);
        match result.and_then(|found| stores.not_slow(store, found)) {
            // It answers again: the next try will be in time.
            Ok(_) if given_up => store.judge(None, |health, now| {
                health.stirred(now);
                None
            }),
            Ok(found) => {
                store.set_found(&found);
                store.judge(None, |health, now| health.try_succeeded(now));
            }
            Err(why) => try_failed(store, why),
        }
    }

    /// Looks at all stores.
    fn tick(&mut self, stores: &Stores, now: Instant) {
        for (at, store) in stores.all().enumerate() {
            let watched = &mut self.stores[at];
            match &mut watched.trying {
                Some((began, late)) if !*late && now.duration_since(*began) >= patience(store) => {
                    *late = true;
                    let timeout = humantime::format_duration(patience(store));
                    try_failed(store, (Cause::Hung, format!("no answer within {timeout}")));
                }
                Some(_) => {}
                None if store.is_due(now) => self.try_store(at, store, now),
                // A store that nobody asks for anything may be gone all the same.
                None if store.serves(true)
                    && watched
                        .tried
                        .is_none_or(|tried| now.duration_since(tried) >= store.try_every()) =>
                {
                    self.try_store(at, store, now);
                }
                None => {}
            }
            let watched = &mut self.stores[at];
            if store.serves(true) {
                let due = watched.space.as_ref().is_none_or(|(asked, answered)| {
                    answered.load(Relaxed) && now.duration_since(*asked) >= STORE_SPACE_EVERY
                });
                if due {
                    watched.space = Some((now, ask_space(store)));
                }
                if store.serves(false) {
                    stores.suspend_slow(store);
                }
            }
        }
    }
}

/// How long a try may take. One that serves may only have much to do.
fn patience(store: &Store) -> Duration {
    match store.serves(true) {
        true => STORE_PATIENCE * store.timeout(),
        false => store.timeout(),
    }
}

fn try_failed(store: &Store, (cause, why): (Cause, String)) {
    store.judge(Some(&why), |health, now| {
        if health.state() == State::Serving {
            // One bad sector costs no store: reads that fail are counted where they are made.
            return match cause {
                Cause::Missing | Cause::Hung => health.suspend(cause, now),
                Cause::Failing | Cause::Slow => None,
            };
        }
        health.try_failed(cause, now);
        None
    });
}

/// Asks a store for its space. Tells when it has answered.
fn ask_space(store: &Arc<Store>) -> Arc<AtomicBool> {
    let answered = Arc::new(AtomicBool::new(false));
    let (again, done) = (Arc::clone(store), Arc::clone(&answered));
    let submitted = store.threads().looks.submit(move || {
        if let Some((free, total)) = again.disk().space(again.path()) {
            again.counts().free_bytes.store(free, Relaxed);
            again.counts().total_bytes.store(total, Relaxed);
        }
        done.store(true, Relaxed);
    });
    // One that is too busy is asked another time.
    answered.fetch_or(submitted.is_err(), Relaxed);
    answered
}

impl Stores {
    /// Tries all stores, and then watches them on a thread of its own. Stores that don't answer are suspended.
    ///
    /// # Errors
    /// If no store can be read, or two are the same one.
    pub fn start(self) -> std::result::Result<Arc<Stores>, StoresError> {
        self.start_new(|_| true)
    }

    /// Starts stores in other directories and nodes in place of these. Those that are here too go on as they are; the others
    /// are tried as at the start. These are no longer watched once nobody holds them.
    ///
    /// # Errors
    /// As [`Stores::start`]. Then nothing has changed.
    pub fn replace(
        &self,
        stores: &[PathBuf],
        nodes: &[PathBuf],
    ) -> std::result::Result<Arc<Stores>, StoresError> {
        let new = self.in_place(stores, nodes)?;
        let new = new.start_new(|store| !self.has(store))?;
        self.note_change();
        Ok(new)
    }

    fn start_new(
        self,
        is_new: impl Fn(&Arc<Store>) -> bool,
    ) -> std::result::Result<Arc<Stores>, StoresError> {
        let mut watch = Watch::new(self.all().count());
        let found = self.try_all(&mut watch, is_new);
        let mut directories: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut ids = HashMap::new();
        for (store, found) in self.all().zip(&found) {
            if store.is_node() {
                continue;
            }
            let path = store.path().to_owned();
            let (directory, id) = match found {
                Some(Ok(found)) => (Some(found.directory), found.id),
                Some(Err(_)) => (None, None),
                None => store.identity(),
            };
            if let Some(other) = directory.and_then(|at| directories.insert(at, path.clone())) {
                return Err(StoresError::Same(other, path));
            }
            if let Some(other) = id.and_then(|id| ids.insert(id, path.clone())) {
                return Err(StoresError::SameId(other, path));
            }
        }
        let mut first = None;
        for (store, found) in self.all().zip(found) {
            match found {
                None => {}
                Some(Ok(found)) => {
                    store.set_found(&found);
                    if let Some(remark) = found.remark {
                        tracing::warn!("{remark}");
                    }
                }
                Some(Err((cause, why))) => {
                    first.get_or_insert_with(|| why.clone());
                    store.suspend(cause, &why);
                }
            }
        }
        match first {
            Some(why) if !self.all().any(|store| store.serves(true)) => {
                return Err(StoresError::None(why));
            }
            _ => {}
        }
        let stores = Arc::new(self);
        let watched = Arc::downgrade(&stores);
        std::thread::Builder::new()
            .name("stores".into())
            .spawn(move || watch.run(&watched))
            .map_err(StoresError::Thread)?;
        Ok(stores)
    }

    /// Tries all that are new at one time, and waits for each as long as a call may take. `None` is found of those that are
    /// known.
    fn try_all(
        &self,
        watch: &mut Watch,
        is_new: impl Fn(&Arc<Store>) -> bool,
    ) -> Vec<Option<Result<Found>>> {
        let now = Instant::now();
        let mut found: Vec<Option<Result<Found>>> = self.all().map(|_| None).collect();
        let mut waiting = 0;
        for (at, store) in self.all().enumerate() {
            if is_new(store) {
                watch.try_store(at, store, now);
                waiting += 1;
            }
        }
        let timeouts = self.all().map(|store| store.timeout());
        let patience_at_start = timeouts.max().unwrap_or_else(|| self.timeout());
        while waiting > 0 {
            let Ok((at, result)) = watch.results.recv_deadline(now + patience_at_start) else {
                break;
            };
            watch.stores[at].trying = None;
            found[at] = Some(result);
            waiting -= 1;
        }
        let timeout = humantime::format_duration(patience_at_start);
        for ((found, watched), store) in found.iter_mut().zip(&mut watch.stores).zip(self.all()) {
            if let Some((_, late)) = &mut watched.trying {
                *late = true;
            }
            if found.is_none() && is_new(store) {
                let path = store.path().display();
                let why = format!("{path}: the store did not answer within {timeout}");
                *found = Some(Err((Cause::Hung, why)));
            }
        }
        found
    }

    /// What calls on the others take as a rule: the median; `None` if nothing is known of them.
    fn others(&self, store: &Store) -> Option<Duration> {
        let others = self.all().filter(|other| !std::ptr::eq(&***other, store));
        let serving = others.filter(|other| other.serves(false));
        let mut times: Vec<Duration> = serving.filter_map(|s| s.counts().typical()).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// A remote store is judged where it is chosen, for each fetch.
    fn is_slow(&self, store: &Store, took: Duration) -> bool {
        store.origin().is_none()
            && took > STORE_SLOW
            && self
                .others(store)
                .is_some_and(|others| took > STORE_SLOW_TIMES * others)
    }

    /// Suspends a store whose calls take many times as long as the others'.
    pub(super) fn suspend_slow(&self, store: &Store) {
        let typical = store.counts().typical();
        if let Some(took) = typical.filter(|&took| self.is_slow(store, took)) {
            let why = format!("a call takes {} ms", took.as_millis());
            store.suspend(Cause::Slow, &why);
        }
    }

    /// Whether a try of a suspended store did not show that it is slow.
    fn not_slow(&self, store: &Store, found: Found) -> Result<Found> {
        let took = found.took;
        match store.report().state != State::Serving && self.is_slow(store, took) {
            true => Err((Cause::Slow, format!("a read takes {} ms", took.as_millis()))),
            false => Ok(found),
        }
    }
}

impl Watch {
    fn run(mut self, watched: &Weak<Stores>) {
        let mut next = Instant::now() + STORE_TICK;
        loop {
            let result = self.results.recv_deadline(next);
            let Some(stores) = watched.upgrade() else {
                return;
            };
            match result {
                Ok((at, result)) => self.ended(&stores, at, result),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    next = now + STORE_TICK;
                    self.tick(&stores, now);
                }
            }
        }
    }
}
