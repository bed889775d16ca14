//! The smallest keys behind some place, as many as fit a number of bytes: what one look at all objects leaves for the
//! listings that follow. Objects come in any order, so the largest gives way when there is no room.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::num::NonZeroU64;
use std::ops::Bound;
use std::time::Duration;
use std::time::Instant;

use decode_kernel::share::{Digest, Generation, Header, Key, object_dir};

/// What a listing tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub size: u64,
    /// When it was put, in seconds since 1970.
    pub created: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The put that made it, by which the next look knows it again.
    pub generation: Generation,
    /// When it expires, in seconds since 1970.
    pub expires: Option<NonZeroU64>,
    /// Shares that it takes.
    pub k: u16,
}

impl Entry {
    /// What a header tells.
    pub fn of(header: &Header) -> Entry {
        Entry {
            size: header.geometry.size(),
            created: header.created,
            digest: header.digest,
            generation: header.generation,
            expires: header.metadata.expires,
            k: header.geometry.k(),
        }
    }
}

/// What an entry takes beside its key: its place in a tree that is two thirds full, an allocation, and its place in [`Known`].
const ENTRY_BYTES: usize =
    3 * (size_of::<Entry>() + size_of::<Box<str>>()) / 2 + 32 + size_of::<(u64, &str, &Entry)>();

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

    /// Its entries by their directories.
    pub fn known(&self) -> Known<'_> {
        let entries = self.entries.iter().filter_map(|(key, entry)| {
            let dir = object_dir(&Key::new(key).ok()?);
            Some((number(&dir), &**key, entry))
        });
        let mut known: Vec<_> = entries.collect();
        known.sort_unstable_by_key(|(number, ..)| *number);
        Known(known)
    }

    /// What it holds from a place on, in order.
    pub fn range(&self, from: Bound<&str>) -> Range<'_, Box<str>, Entry> {
        self.entries.range::<str, _>((from, Bound::Unbounded))
    }
}

/// What a window holds, to be found by the directory of an object. Where headers are in remote stores each of them is a
/// request: one look has what the last one learned.
#[derive(Debug, Default)]
pub struct Known<'a>(Vec<(u64, &'a str, &'a Entry)>);

impl<'a> Known<'a> {
    /// The key and the entry of the object in a directory (`ab/cdef…`), if it was put by this put.
    pub fn find(&self, dir: &str, generation: Generation) -> Option<(&'a str, &'a Entry)> {
        let wanted = number(dir);
        let from = self.0.partition_point(|(number, ..)| *number < wanted);
        let same = self.0[from..]
            .iter()
            .take_while(|(number, ..)| *number == wanted);
        let mut found = same.filter(|(_, _, entry)| entry.generation == generation);
        found.next().map(|(_, key, entry)| (*key, *entry))
    }
}

/// The first digits of a directory's name, which are those of a hash.
fn number(dir: &str) -> u64 {
    let digits = dir.chars().filter_map(|c| c.to_digit(16)).take(16);
    digits.fold(0, |number, digit| number << 4 | u64::from(digit))
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
            generation: Generation::new(size, [1; 8]),
            expires: None,
            k: 4,
        }
    }

    #[test]
    fn objects_are_known_again_by_directory_and_put() {
        let mut window = Window::new(String::new(), 1 << 20, Instant::now());
        for (size, key) in ["a", "b", "c"].into_iter().enumerate() {
            window.offer(key, entry(size as u64));
        }
        let known = window.known();
        let dir = |key: &str| object_dir(&Key::new(key).unwrap());
        let find = |key: &str, put| known.find(&dir(key), Generation::new(put, [1; 8]));
        assert_eq!(find("b", 1), Some(("b", &entry(1))));
        assert_eq!((find("b", 2), find("d", 1)), (None, None));
        assert_eq!(number(&dir("a")), 0xca97_8112_ca1b_bdca);
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
