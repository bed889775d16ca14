//! The smallest keys behind some place, as many as fit a number of bytes: what one look at all objects leaves for the
//! listings that follow. Objects come in any order, so the largest gives way when there is no room.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::time::Duration;
use std::time::Instant;

use decode_kernel::share::Digest;

/// What a listing tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub size: u64,
    /// When it was put, in seconds since 1970.
    pub created: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// What an entry takes beside its key: its place in a tree that is two thirds full, and an allocation.
const ENTRY_BYTES: usize = 3 * (size_of::<Entry>() + size_of::<Box<str>>()) / 2 + 32;

/// Keys and entries in order, without a gap from `from` on.
#[derive(Debug)]
pub struct Window {
    from: String,
    entries: BTreeMap<Box<str>, Entry>,
    bytes: usize,
    bytes_max: usize,
    /// There are more behind the last.
    cut: bool,
    /// When the look began.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Window {
    /// An empty one of keys that are not less than `from`. It must have room for two of them.
    pub fn new(from: String, bytes_max: usize, begun: Instant) -> Window {
        Window {
            from,
            entries: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            cut: false,
            begun,
            took: Duration::ZERO,
        }
    }

    /// Takes an object, if there is room for it or it comes before one that is here.
    pub fn offer(&mut self, key: &str, entry: Entry) {
        if key < self.from.as_str() {
            return;
        }
        let behind = || {
            self.entries
                .last_key_value()
                .is_none_or(|(last, _)| **last < *key)
        };
        if self.cut && behind() {
            return;
        }
        if self.entries.insert(key.into(), entry).is_none() {
            self.bytes += ENTRY_BYTES + key.len();
        }
        while self.bytes > self.bytes_max {
            self.cut = true;
            match self.entries.pop_last() {
                Some((last, _)) => self.bytes -= ENTRY_BYTES + last.len(),
                None => break,
            }
        }
    }

    /// Whether it has what comes first behind this place.
    pub fn covers(&self, position: &str) -> bool {
        let before_end = || {
            self.entries
                .last_key_value()
                .is_some_and(|(last, _)| position < &**last)
        };
        position >= self.from.as_str() && (!self.cut || before_end())
    }

    /// Whether it holds all objects.
    pub fn is_whole(&self) -> bool {
        self.from.is_empty() && !self.cut
    }

    /// Whether there are objects behind the last that it holds.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it holds from a place on, in order.
    pub fn range(&self, from: Bound<&str>) -> Range<'_, Box<str>, Entry> {
        self.entries.range::<str, _>((from, Bound::Unbounded))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use decode_kernel::share::DigestAlgorithm;
    use proptest::prelude::*;

    use super::*;

    pub(in crate::s3) fn entry(size: u64) -> Entry {
        Entry {
            size,
            created: 784_111_777,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: [7; 32],
            },
        }
    }

    fn keys(window: &Window) -> Vec<&str> {
        let range = window.range(Bound::Unbounded);
        range.map(|(key, _)| &**key).collect()
    }

    #[test]
    fn it_is_whole_if_all_fit() {
        let mut window = Window::new(String::new(), 1 << 20, Instant::now());
        for key in ["b", "a", "c", "b"] {
            window.offer(key, entry(1));
        }
        assert_eq!(keys(&window), ["a", "b", "c"]);
        assert!(window.is_whole() && window.covers("") && window.covers("zzz"));
        assert_eq!(window.bytes(), 3 * (ENTRY_BYTES + 1));
    }

    proptest! {
        #[test]
        fn it_holds_the_first_behind_its_place(
            offered in prop::collection::vec("[a-d]{1,4}", 0..60),
            from in "[a-d]{0,2}",
            room in 0usize..20,
        ) {
            let mut window = Window::new(from.clone(), room * (ENTRY_BYTES + 4), Instant::now());
            for key in &offered {
                window.offer(key, entry(1));
            }
            let mut right: Vec<&str> = offered.iter().map(|key| &**key).filter(|key| *key >= &*from).collect();
            right.sort_unstable();
            right.dedup();
            let held = keys(&window);
            prop_assert_eq!(&right[..held.len()], &held[..]);
            prop_assert_eq!(window.is_cut(), held.len() < right.len());
            prop_assert!(window.bytes() <= room * (ENTRY_BYTES + 4));
            // What it says to know, it knows: the first behind any place.
            for place in right.iter().chain(&["", "a", "zz"]) {
                if window.covers(place) {
                    let first = |keys: &[&str]| keys.iter().find(|key| *key > place).map(|key| (*key).to_owned());
                    prop_assert_eq!(first(&held), first(&right));
                }
            }
        }
    }
}
