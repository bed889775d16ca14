//! How many share files one core has open, including those of objects that only clients still hold.
//!
//! Descriptors and memory for this many are part of the plan. An open object that nobody uses gives way to one
//! that is asked for. When all are in use, a request for yet another object is refused.

use std::cell::Cell;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use lru::LruCache;

use super::LookupError;
use crate::memory::limits::{OBJECT_FILES_EXTRA, OBJECT_UNUSED};

/// One core's count.
pub struct OpenFiles {
    used: Cell<usize>,
    most: usize,
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

impl OpenFiles {
    /// None open, `most` at most.
    pub fn new(most: usize) -> Rc<OpenFiles> {
        Rc::new(OpenFiles {
            used: Cell::new(0),
            most,
        })
    }

    /// Counts an object with so many share files. Makes room by dropping the least recently used of the `known`
    /// objects that nobody uses.
    ///
    /// # Errors
    /// [`LookupError::NoOpenFiles`] if all of them are in use, [`LookupError::TooManyFiles`] if it takes more than all.
    pub fn hold<K: Hash + Eq + Clone, V>(
        self: &Rc<Self>,
        share_files: usize,
        known: &mut LruCache<K, Rc<V>>,
    ) -> Result<Held, LookupError> {
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
            let unused = from_the_oldest.find(|(_, value)| Rc::strong_count(value) == 1);
            let Some(key) = unused.map(|(key, _)| key.clone()) else {
                tracing::warn!(
                    open = self.used.get(),
                    most = self.most,
                    "clients use as many share files as may be open: raise --share-files"
                );
                return Err(LookupError::NoOpenFiles);
            };
            known.pop(&key);
        }
        self.used.set(self.used.get() + files);
        Ok(Held {
            all: Rc::clone(self),
            files,
        })
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

/// Drops what nobody holds and nobody asked for in [`OBJECT_UNUSED`]. `age` says how long ago that was.
pub fn close_unused<K: Hash + Eq + Clone, V>(
    known: &mut LruCache<K, Rc<V>>,
    age: impl Fn(&V) -> Duration,
) {
    let from_the_oldest = known.iter().rev();
    let old = from_the_oldest.take_while(|(_, value)| age(value) >= OBJECT_UNUSED);
    let unused = old.filter(|(_, value)| Rc::strong_count(value) == 1);
    let unused: Vec<K> = unused.map(|(key, _)| key.clone()).collect();
    for key in unused {
        known.pop(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_objects_give_way_and_used_ones_stay() {
        let each = 6 + OBJECT_FILES_EXTRA;
        let all = OpenFiles::new(3 * each);
        let mut known: LruCache<u32, Rc<Held>> = LruCache::unbounded();
        let mut open = |key: u32| {
            let held = Rc::new(all.hold(6, &mut known)?);
            known.put(key, Rc::clone(&held));
            Ok::<_, LookupError>(held)
        };
        let used = open(1).unwrap();
        open(2).map(drop).unwrap();
        open(3).map(drop).unwrap();
        assert_eq!(all.used(), 3 * each);
        let other = open(4).unwrap();
        let third = open(5).unwrap();
        assert_eq!(open(6).err().unwrap(), LookupError::NoOpenFiles);
        drop(other);
        open(6).map(drop).unwrap();
        let keys: Vec<u32> = known.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [6, 5, 1]);
        drop((used, third, known));
        assert_eq!(all.used(), 0);
    }

    #[test]
    fn what_nobody_asked_for_is_closed_unless_somebody_holds_it() {
        let mut known: LruCache<u64, Rc<u64>> = LruCache::unbounded();
        for minutes_ago in [9, 7, 3, 1, 0] {
            known.put(minutes_ago, Rc::new(minutes_ago));
        }
        let held = known.get(&7).cloned();
        known.promote(&3);
        known.promote(&1);
        known.promote(&0);
        close_unused(&mut known, |&minutes| {
            Duration::from_secs(60 * minutes).saturating_sub(Duration::from_secs(5))
        });
        let keys: Vec<u64> = known.iter().rev().map(|(key, _)| *key).collect();
        assert_eq!(keys, [7, 1, 0]);
        drop(held);
    }
}
