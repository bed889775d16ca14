//! How many share files one core has open, including those of objects that only clients still hold.
//!
//! Descriptors and memory for this many are part of the plan. An open object that nobody uses gives way to one
//! that is asked for; then those do whose clients all wait for their sockets, the one that has waited for longest first.
//! They are opened again when a client goes on. Only while all are being read is a request for yet another refused.

use std::cell::Cell;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::LookupError;
use super::handle::Handle;
use crate::memory::budget::Budget;
use crate::memory::limits::{
    OBJECT_FILES_EXTRA, OBJECT_UNUSED, REOPEN_PAUSE, REOPEN_URGENT, WAITING_AFTER,
};

/// What is known by name, with the least recently asked for last.
pub type Known<K, N, T> = LruCache<K, Rc<Handle<N, T>>>;

/// One core's count.
pub struct OpenFiles {
    used: Cell<usize>,
    most: usize,
    budget: Arc<Budget>,
}

/// The files of one object; counted until this is dropped.
pub struct Held {
    all: Rc<OpenFiles>,
    files: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.used.set(self.all.used.get() - self.files);
    }
}

/// How urgently room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// For a client that goes on, or asks: those that wait for their clients give way.
    Usual,
    /// For a client that has waited for long: so do those that are between two turns.
    Urgent,
}

impl Need {
    /// How long nobody must have worked with what gives way.
    fn idle_least(self) -> Duration {
        match self {
            Need::Usual => WAITING_AFTER,
            Need::Urgent => Duration::ZERO,
        }
    }
}

/// Tries again what fails for lack of open files, more urgently after a while, for as long as `patience` says. Those that
/// are read now are read for a turn only, so there will be room.
///
/// # Errors
/// What the attempt fails with.
pub async fn with_patience<T>(
    patience: Duration,
    mut attempt: impl AsyncFnMut(Need) -> Result<T, LookupError>,
) -> Result<T, LookupError> {
    let start = Instant::now();
    loop {
        let waited = start.elapsed();
        let need = match waited < REOPEN_URGENT {
            true => Need::Usual,
            false => Need::Urgent,
        };
        match attempt(need).await {
            Err(LookupError::NoOpenFiles) if waited < patience => {
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
            result => return result,
        }
    }
}

impl OpenFiles {
    /// None open, `most` at most. What stays of those that are closed for a while is claimed from the budget.
    pub fn new(most: usize, budget: &Arc<Budget>) -> Rc<OpenFiles> {
        Rc::new(OpenFiles {
            used: Cell::new(0),
            most,
            budget: Arc::clone(budget),
        })
    }

    /// The budget that handles claim from.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Counts an object with so many share files. Makes room as [`OpenFiles::make_room`] does.
    ///
    /// # Errors
    /// As that.
    pub fn hold<K: Hash + Eq + Clone, N, T>(
        self: &Rc<Self>,
        share_files: usize,
        known: &mut Known<K, N, T>,
        need: Need,
    ) -> Result<Held, LookupError> {
        self.make_room(share_files, known, need)?;
        let files = share_files + OBJECT_FILES_EXTRA;
        self.used.set(self.used.get() + files);
        Ok(Held {
            all: Rc::clone(self),
            files,
        })
    }

    /// Makes room for an object with so many share files, by dropping the least recently used of the `known` ones that
    /// nobody uses, and by closing those whose clients wait.
    ///
    /// # Errors
    /// [`LookupError::NoOpenFiles`] if all of them are being read, [`LookupError::TooManyFiles`] if it takes more than all.
    pub fn make_room<K: Hash + Eq + Clone, N, T>(
        &self,
        share_files: usize,
        known: &mut Known<K, N, T>,
        need: Need,
    ) -> Result<(), LookupError> {
        let files = share_files + OBJECT_FILES_EXTRA;
        if files > self.most {
            tracing::error!(
                files,
                most = self.most,
                "an object has more share files than may be open: raise --share-files"
            );
            return Err(LookupError::TooManyFiles { needed: files });
        }
        while self.used.get() + files > self.most {
            let mut from_the_oldest = known.iter().rev();
            let unused = from_the_oldest.find(|(_, handle)| handle.is_unused());
            if let Some(key) = unused.map(|(key, _)| key.clone()) {
                known.pop(&key);
                continue;
            }
            let now = Instant::now();
            let idle = known.iter().filter_map(|(_, handle)| {
                let idle = handle.idle(now)?;
                (idle >= need.idle_least()).then_some((idle, handle))
            });
            let waiting = idle.max_by_key(|(idle, _)| *idle);
            if !waiting.is_some_and(|(_, handle)| handle.close()) {
                return Err(LookupError::NoOpenFiles);
            }
        }
        Ok(())
    }

    /// Tells that a request was refused.
    pub fn tell_refusal(&self) {
        tracing::warn!(
            open = self.used.get(),
            most = self.most,
            "as many share files as may be open are being read: raise --share-files"
        );
    }

    /// The most share files of one object.
    pub fn most_for_one(&self) -> usize {
        self.most.saturating_sub(OBJECT_FILES_EXTRA)
    }

    /// How many are counted.
    pub fn used(&self) -> usize {
        self.used.get()
    }
}

/// Drops what nobody holds and nobody asked for in [`OBJECT_UNUSED`].
pub fn close_unused<K: Hash + Eq + Clone, N, T>(known: &mut Known<K, N, T>, now: Instant) {
    let from_the_oldest = known.iter().rev();
    let old = from_the_oldest.take_while(|(_, handle)| handle.asked(now) >= OBJECT_UNUSED);
    let unused = old.filter(|(_, handle)| handle.is_unused());
    let unused: Vec<K> = unused.map(|(key, _)| key.clone()).collect();
    for key in unused {
        known.pop(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: usize = 6 + OBJECT_FILES_EXTRA;

    struct Table {
        all: Rc<OpenFiles>,
        known: Known<u32, u32, Held>,
    }

    impl Table {
        fn with_room_for(objects: usize, credit_bytes: u64) -> Table {
            Table {
                all: OpenFiles::new(objects * EACH, &Budget::new(credit_bytes)),
                known: LruCache::unbounded(),
            }
        }

        fn open(&mut self, key: u32, need: Need) -> Result<Rc<Handle<u32, Held>>, LookupError> {
            let held = Rc::new(self.all.hold(6, &mut self.known, need)?);
            let handle = Handle::new(key, 6, held, 100, self.all.budget());
            self.known.put(key, Rc::clone(&handle));
            Ok(handle)
        }

        fn keys(&self) -> Vec<u32> {
            self.known.iter().map(|(key, _)| *key).collect()
        }
    }

    #[test]
    fn unused_objects_give_way_and_used_ones_stay() {
        let mut table = Table::with_room_for(3, 0);
        let used = table.open(1, Need::Usual).unwrap();
        table.open(2, Need::Usual).map(drop).unwrap();
        table.open(3, Need::Usual).map(drop).unwrap();
        assert_eq!(table.all.used(), 3 * EACH);
        let other = table.open(4, Need::Usual).unwrap();
        let third = table.open(5, Need::Usual).unwrap();
        let refused = table.open(6, Need::Usual).err();
        assert_eq!(refused, Some(LookupError::NoOpenFiles));
        drop(other);
        table.open(6, Need::Usual).map(drop).unwrap();
        assert_eq!(table.keys(), [6, 5, 1]);
        let all = Rc::clone(&table.all);
        drop((used, third, table));
        assert_eq!(all.used(), 0);
    }

    /// Story: clients that stalled on as many objects as may be open kept everybody else from theirs.
    #[test]
    fn those_whose_clients_wait_give_way_the_longest_waiting_first_and_come_back() {
        let mut table = Table::with_room_for(2, 10_000);
        let first = table.open(1, Need::Usual).unwrap();
        let second = table.open(2, Need::Usual).unwrap();
        // Both were used just now.
        let refused = table.open(3, Need::Usual).err();
        assert_eq!(refused, Some(LookupError::NoOpenFiles));
        // Who is being read stays, however urgent it is, and whoever has waited for longer gives way.
        let reading = first.open(Instant::now()).unwrap();
        let third = table.open(3, Need::Urgent).unwrap();
        assert!(second.open(Instant::now()).is_none() && third.open(Instant::now()).is_some());
        drop(reading);
        let budget = Arc::clone(table.all.budget());
        assert_eq!(
            budget.free(),
            budget.total() - 100,
            "what is left is claimed"
        );
        // It stays known, and its files are opened again in its own handle.
        assert_eq!(table.keys(), [3, 2, 1]);
        let again = table.all.hold(6, &mut table.known, Need::Urgent).unwrap();
        second.set_open(Rc::new(again), 6);
        assert!(second.open(Instant::now()).is_some() && first.open(Instant::now()).is_none());
        assert_eq!(table.all.used(), 2 * EACH);
        drop((first, second, third));
        table.open(4, Need::Usual).map(drop).unwrap();
        assert_eq!(table.all.used(), 2 * EACH);
        drop(table);
        assert_eq!(budget.free(), budget.total());
    }

    #[test]
    fn without_memory_for_what_stays_nothing_is_closed() {
        let mut table = Table::with_room_for(1, 700);
        let first = table.open(1, Need::Usual).unwrap();
        let refused = table.open(2, Need::Urgent).err();
        assert_eq!(refused, Some(LookupError::NoOpenFiles));
        assert!(first.open(Instant::now()).is_some());
    }

    #[test]
    fn what_nobody_asked_for_is_closed_unless_somebody_holds_it() {
        let mut table = Table::with_room_for(5, 0);
        let now = Instant::now();
        let mut held = None;
        for minutes_ago in [9, 7, 3, 1, 0] {
            let handle = table.open(minutes_ago, Need::Usual).unwrap();
            let ago = Duration::from_secs(60 * u64::from(minutes_ago));
            let ago = ago.saturating_sub(Duration::from_secs(5));
            handle.ask(now.checked_sub(ago).unwrap());
            if minutes_ago == 7 {
                held = Some(handle);
            }
        }
        close_unused(&mut table.known, now);
        assert_eq!(table.keys(), [0, 1, 7]);
        drop(held);
    }
}
