//! One look at all objects of all stores, for a window of their keys.
//!
//! An object's directory is named by the hash of its key, so the keys come in no order and every header must be read. The
//! stores' own threads make the calls, for a short time each, so that look-ups of downloads come between; a store that
//! hangs is left out, as one that is suspended. Whatever the stores hold, this takes memory for some hundred names and
//! headers of each, and the window's.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use penstock_store::Presence;
use penstock_store::survey::{self, Glance};

use super::window::{Entry, Window};
use crate::memory::limits::{LISTING_BATCH, STORE_PATIENCE, SURVEY_NAMES_MAX};
use crate::stores::{Store, Stores};

/// Why there is no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkError {
    /// The stores are gone: the server ends.
    Over,
    /// So many stores are away that objects may be lacking.
    StoresAway,
}

/// It rests after some objects for as long as they took, but no longer than this: a disk that works leaves the cores alone.
const REST_MOST: Duration = Duration::from_millis(5);

/// How long a job waits for its turn at a store with a full queue before it is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// A look under way.
struct Walk<'a> {
    stores: &'a Weak<Stores>,
    /// By store, whether it is left out from now on.
    away: Vec<bool>,
    /// The fewest shares of any put, as far as the stores tell.
    least_shares: Option<u16>,
}

/// Fills a window.
pub(super) fn fill(stores: &Weak<Stores>, window: &mut Window) -> Result<(), WalkError> {
    let mut walk = Walk {
        stores,
        away: Vec::new(),
        least_shares: None,
    };
    walk.begin()?;
    for first in 0..=u8::MAX {
        let mut after = String::new();
        loop {
            let (names, end) = walk.names(first, after)?;
            let names: Vec<String> = names
                .into_iter()
                .map(|name| format!("{first:02x}/{name}"))
                .collect();
            for dirs in names.chunks(LISTING_BATCH) {
                let begun = Instant::now();
                walk.look(dirs, window)?;
                // In memory all stores answer at once, on as many threads: the cores must have their turn.
                thread::sleep(begun.elapsed().min(REST_MOST));
            }
            match end {
                Some(end) => after = end,
                None => break,
            }
        }
    }
    walk.end()?;
    window.took = window.begun.elapsed();
    Ok(())
}

impl Walk<'_> {
    /// Asks every store whether it is there, and what it knows of the others.
    fn begin(&mut self) -> Result<(), WalkError> {
        let stores = self.stores.upgrade().ok_or(WalkError::Over)?;
        self.away = vec![false; stores.stores().len()];
        drop(stores);
        let found = self.ask(|_, store| {
            let root = store.path().to_owned();
            move || penstock_store::presence(&root.into())
        })?;
        for (index, presence) in found {
            match presence {
                Presence::Marked(marker) => {
                    let least = marker.least_shares;
                    self.least_shares = self.least_shares.into_iter().chain(least).min();
                }
                Presence::Unmarked(_) => {}
                Presence::Absent(_) => self.away[index] = true,
            }
        }
        self.end()
    }

    /// Whether no object can be lacking. As for one object: where the stores don't tell how few shares one has, most of
    /// them must be here.
    fn end(&self) -> Result<(), WalkError> {
        let away = self.away.iter().filter(|&&away| away).count();
        let complete = match self.least_shares {
            _ if away == 0 => true,
            Some(least) => away < usize::from(least),
            None => away * 2 < self.away.len(),
        };
        match complete {
            true => Ok(()),
            false => Err(WalkError::StoresAway),
        }
    }

    /// The next names of directories under `objects/ab`, and where the next part begins.
    fn names(
        &mut self,
        first: u8,
        after: String,
    ) -> Result<(BTreeSet<String>, Option<String>), WalkError> {
        let after: Arc<str> = after.into();
        let found = self.ask(|_, store| {
            let (root, after) = (store.path().to_owned(), Arc::clone(&after));
            move || survey::names_after(&root, first, &after, SURVEY_NAMES_MAX)
        })?;
        let mut names = BTreeSet::new();
        let mut end: Option<String> = None;
        for (index, part) in found {
            let Ok(mut part) = part else {
                self.away[index] = true;
                continue;
            };
            if part.is_cut {
                // Behind it there may be names that this store did not tell yet.
                let last = part.names.last().cloned();
                end = end.into_iter().chain(last).min();
            }
            names.append(&mut part.names);
        }
        if let Some(end) = &end {
            names.retain(|name| name <= end);
        }
        Ok((names, end))
    }

    /// Looks at some objects, and offers them to the window.
    fn look(&mut self, dirs: &[String], window: &mut Window) -> Result<(), WalkError> {
        let all: Arc<[String]> = dirs.into();
        let mut seen: Vec<Vec<Glance>> = dirs.iter().map(|_| Vec::new()).collect();
        let mut done = vec![0; self.away.len()];
        loop {
            let open = |index: usize| done[index] < dirs.len();
            let found = self.ask_some(open, |index, store| {
                let (root, all, from) = (store.path().to_owned(), Arc::clone(&all), done[index]);
                let slice = store.timeout() / 4;
                move || {
                    let begun = Instant::now();
                    let mut glances = Vec::new();
                    for dir in &all[from..] {
                        glances.push(survey::glance(&root, dir));
                        if begun.elapsed() > slice {
                            break;
                        }
                    }
                    glances
                }
            })?;
            if found.is_empty() {
                break;
            }
            for (index, glances) in found {
                for glance in glances {
                    seen[done[index]].push(glance);
                    done[index] += 1;
                }
            }
        }
        for glances in seen {
            let here = glances.iter().filter(|glance| glance.is_here).count();
            let away = self.away.len() - here;
            let Some(object) = survey::condition(glances) else {
                continue;
            };
            // What a store that is away may have is still there.
            let may_be_read = object.shares + away >= usize::from(object.header.geometry.k());
            if may_be_read {
                let header = object.header;
                let entry = Entry {
                    size: header.geometry.size(),
                    created: header.created,
                    digest: header.digest,
                };
                window.offer(header.key.as_str(), entry);
            }
        }
        Ok(())
    }

    fn ask<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
        &mut self,
        job: impl Fn(usize, &Store) -> J,
    ) -> Result<Vec<(usize, T)>, WalkError> {
        self.ask_some(|_| true, job)
    }

    /// Has the threads of the stores that are wanted do something, all at one time. Those that don't answer are left out
    /// from now on.
    fn ask_some<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
        &mut self,
        wanted: impl Fn(usize) -> bool,
        job: impl Fn(usize, &Store) -> J,
    ) -> Result<Vec<(usize, T)>, WalkError> {
        let stores = self.stores.upgrade().ok_or(WalkError::Over)?;
        let deadline = Instant::now() + STORE_PATIENCE * stores.timeout();
        let mut asked = Vec::with_capacity(self.away.len());
        for (index, store) in stores.stores().iter().enumerate() {
            if self.away[index] || !wanted(index) {
                continue;
            }
            if !store.serves(true) {
                self.away[index] = true;
                continue;
            }
            let (reply, answer) = bounded(1);
            loop {
                let (job, reply) = (job(index, store), reply.clone());
                let submitted = store.threads().looks.submit(move || {
                    // Who asked may have given up.
                    let _ = reply.send(job());
                });
                match submitted {
                    Ok(()) => break asked.push((index, answer)),
                    Err(_) if Instant::now() < deadline => thread::sleep(QUEUE_PAUSE),
                    Err(_) => break self.away[index] = true,
                }
            }
        }
        // Nothing keeps the server while this waits.
        drop(stores);
        let mut answers = Vec::with_capacity(asked.len());
        for (index, answer) in asked {
            match answer.recv_deadline(deadline) {
                Ok(answer) => answers.push((index, answer)),
                Err(_) => self.away[index] = true,
            }
        }
        Ok(answers)
    }
}
