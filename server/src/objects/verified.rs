//! Which leaves one core has verified, so that it need not do so again: a bounded memory.
//!
//! A bit per leaf of a data share, kept by runs of [`PAGE_LEAVES`] leaves; the least recently used run is
//! forgotten first. A bit says: this leaf was read and matched its checksum while its file had this
//! *version* ([`Share::revalidate`](super::Share::revalidate) tells versions apart), less than the verify age ago.
//! A leaf that was forgotten, or never known, is read and verified as always.
//!
//! What was verified are pages in the page cache, not a file: pages that left it and came back came from the disk, which
//! may have rotted meanwhile. So a second bit says that the leaf has stayed in the page cache. It is cleared when the leaf
//! is found to be missing there, and when nobody looked for [`CONFIRMED_FOR`].

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::memory::limits::{CONFIRMED_FOR, RESIDENT_FOR, VERIFIED_PAGE_BYTES, VERIFIED_PAGES_MAX};
use crate::units::{ObjectId, ShareNumber};

/// Leaves in one run: 4 MiB of a share at the usual leaf length.
pub const PAGE_LEAVES: u64 = 1024;
const WORDS: usize = (PAGE_LEAVES / 64) as usize;
/// Where leaves have left the page cache, so many are forgotten together.
const CONFIRMED_AT_ONCE: u32 = 16;

/// An object's id, a share's number, the number of a run of leaves in it.
type PageId = (ObjectId, ShareNumber, u64);

/// A share's file in one version.
pub type FileVersion = (ObjectId, ShareNumber, u32);

/// What is remembered of one run of leaves.
struct Page {
    version: u32,
    /// Leaves that were verified, wherever their bytes came from.
    seen: [u64; WORDS],
    /// Leaves that were verified as they lay in the page cache, and have stayed there as far as is known.
    cached: [u64; WORDS],
    /// When the first of them was verified: the run is forgotten as a whole.
    since: Instant,
    /// When the page cache was last found to have the cached ones; at first, when they were read.
    confirmed: Instant,
}

// The key, this, two links; a slot of the map of at most twice as many slots as entries, and its tag.
const _: () = assert!(
    size_of::<(PageId, Page)>() + 2 * size_of::<usize>() + 2 * (2 * size_of::<usize>() + 1)
        <= VERIFIED_PAGE_BYTES
);

/// One core's memory of verified leaves.
pub struct VerifiedLeaves {
    /// How long a verification counts; `None` if never.
    age: Option<Duration>,
    pages: RefCell<LruCache<PageId, Page>>,
}

/// A range of leaves inside one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    page: u64,
    first: u32,
    count: u32,
}

/// A range of leaves, run by run.
fn parts(leaves: Range<u64>) -> impl Iterator<Item = Part> {
    let mut at = leaves.start;
    std::iter::from_fn(move || {
        let page = at / PAGE_LEAVES;
        let end = leaves.end.min((page + 1) * PAGE_LEAVES);
        let part = Part {
            page,
            first: (at % PAGE_LEAVES) as u32,
            count: end.checked_sub(at).filter(|&count| count > 0)? as u32,
        };
        at = end;
        Some(part)
    })
}

/// The words of a run that a part touches, each with its bits.
fn masks(part: Part) -> impl Iterator<Item = (usize, u64)> {
    let (first, end) = (part.first, part.first + part.count);
    (first / 64..end.div_ceil(64)).map(move |word| {
        let (from, to) = (
            first.max(word * 64) - word * 64,
            end.min(word * 64 + 64) - word * 64,
        );
        (word as usize, u64::MAX >> (64 - (to - from)) << from)
    })
}

impl VerifiedLeaves {
    /// An empty memory in which a verification counts for `age`; `None` remembers nothing.
    pub fn new(age: Option<Duration>) -> VerifiedLeaves {
        let pages = NonZeroUsize::new(VERIFIED_PAGES_MAX).unwrap_or(NonZeroUsize::MIN);
        VerifiedLeaves {
            age,
            pages: RefCell::new(LruCache::new(pages)),
        }
    }

    /// Whether anything is remembered at all.
    pub fn is_kept(&self) -> bool {
        self.age.is_some()
    }

    /// Bytes that the memory holds.
    pub fn bytes(&self) -> usize {
        self.pages.borrow().len() * VERIFIED_PAGE_BYTES
    }

    /// These leaves of a share matched. The version is that of its file before they were read. `cached` says whether
    /// they were read through the page cache.
    pub fn note(
        &self,
        (object, share, version): FileVersion,
        leaves: Range<u64>,
        cached: bool,
        now: Instant,
    ) {
        let Some(age) = self.age else { return };
        let mut pages = self.pages.borrow_mut();
        for part in parts(leaves) {
            let fresh = || Page {
                version,
                seen: [0; WORDS],
                cached: [0; WORDS],
                since: now,
                confirmed: now,
            };
            let page = pages.get_or_insert_mut((object, share, part.page), fresh);
            if page.version != version || page.is_old(now, age) {
                *page = fresh();
            }
            page.expire(now);
            for (word, mask) in masks(part) {
                page.seen[word] |= mask;
                if cached {
                    page.cached[word] |= mask;
                }
            }
        }
    }

    /// Whether all these leaves of a share, whose file is in this version, were verified before, in the page cache or not.
    pub fn knows(
        &self,
        (object, share, version): FileVersion,
        leaves: Range<u64>,
        now: Instant,
    ) -> bool {
        let Some(age) = self.age else { return false };
        let mut pages = self.pages.borrow_mut();
        parts(leaves).all(|part| {
            pages
                .get(&(object, share, part.page))
                .filter(|page| page.version == version && !page.is_old(now, age))
                .is_some_and(|page| known(&page.seen, part) == part.count)
        })
    }

    /// How many of these leaves of a share, whose file is in this version, were verified and have been in the page cache
    /// since, from the first on without a gap. `find` asks the page cache whether it has some leaves. Its answers count
    /// for [`RESIDENT_FOR`].
    pub fn covered(
        &self,
        (object, share, version): FileVersion,
        leaves: Range<u64>,
        now: Instant,
        find: impl Fn(Range<u64>) -> bool,
    ) -> u64 {
        let Some(age) = self.age else { return 0 };
        let mut pages = self.pages.borrow_mut();
        let mut covered = 0;
        for part in parts(leaves) {
            let page = pages
                .get_mut(&(object, share, part.page))
                .filter(|page| page.version == version && !page.is_old(now, age));
            let Some(page) = page else { break };
            page.expire(now);
            if now.saturating_duration_since(page.confirmed) >= RESIDENT_FOR {
                page.confirm(part.page * PAGE_LEAVES, &find);
                page.confirmed = now;
            }
            let known = known(&page.cached, part);
            covered += u64::from(known);
            if known < part.count {
                break;
            }
        }
        covered
    }
}

/// How many leaves of a part, from its first on without a gap, are in a set.
fn known(set: &[u64; WORDS], part: Part) -> u32 {
    let gap = masks(part).find_map(|(word, mask)| {
        let unknown = !set[word] & mask;
        (unknown != 0).then(|| word as u32 * 64 + unknown.trailing_zeros())
    });
    gap.map_or(part.count, |gap| gap - part.first)
}

impl Page {
    fn is_old(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.since) >= age
    }

    /// Forgets what was cached if nobody looked for so long that pages may have left the cache and come back.
    fn expire(&mut self, now: Instant) {
        if now.saturating_duration_since(self.confirmed) >= CONFIRMED_FOR {
            self.cached = [0; WORDS];
            self.confirmed = now;
        }
    }

    /// Forgets the cached leaves that have left the page cache. `start` is the run's first leaf.
    fn confirm(&mut self, start: u64, find: &impl Fn(Range<u64>) -> bool) {
        let mut at = 0;
        while let Some(leaves) = self.next_cached(at) {
            at = leaves.end;
            self.confirm_leaves(leaves, start, find);
        }
    }

    /// The first range of cached leaves without a gap, from `at` on.
    fn next_cached(&self, at: u32) -> Option<Range<u32>> {
        let is_cached = |leaf: &u32| self.cached[*leaf as usize / 64] >> (leaf % 64) & 1 == 1;
        let first = (at..PAGE_LEAVES as u32).find(is_cached)?;
        let end = (first..PAGE_LEAVES as u32).find(|leaf| !is_cached(leaf));
        Some(first..end.unwrap_or(PAGE_LEAVES as u32))
    }

    fn confirm_leaves(
        &mut self,
        leaves: Range<u32>,
        start: u64,
        find: &impl Fn(Range<u64>) -> bool,
    ) {
        if find(start + u64::from(leaves.start)..start + u64::from(leaves.end)) {
            return;
        }
        let count = leaves.end - leaves.start;
        if count <= CONFIRMED_AT_ONCE {
            let part = Part {
                page: 0,
                first: leaves.start,
                count,
            };
            for (word, mask) in masks(part) {
                self.cached[word] &= !mask;
            }
            return;
        }
        let middle = leaves.start + count / 2;
        self.confirm_leaves(leaves.start..middle, start, find);
        self.confirm_leaves(middle..leaves.end, start, find);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    const AGE: Duration = Duration::from_secs(60);
    /// For tests of the age alone.
    const SHORT_AGE: Duration = Duration::from_secs(6);

    fn file(object: u64, share: u16, version: u32) -> FileVersion {
        (ObjectId(object), ShareNumber(share), version)
    }

    fn memory() -> VerifiedLeaves {
        VerifiedLeaves::new(Some(AGE))
    }

    #[test]
    fn what_was_verified_is_known_until_it_is_too_old_or_the_file_changes() {
        let (memory, now) = (VerifiedLeaves::new(Some(SHORT_AGE)), Instant::now());
        let covers = |version, leaves: Range<u64>, now| {
            let all = leaves.end - leaves.start;
            memory.covered(file(1, 2, version), leaves, now, |_| true) == all
        };
        assert!(!covers(0, 0..1, now));
        memory.note(file(1, 2, 0), 3..1400, true, now);
        assert!(covers(0, 3..1400, now) && covers(0, 1200..1201, now));
        assert!(!covers(0, 2..4, now) && !covers(0, 1399..1401, now));
        for (name, what) in [
            (file(1, 3, 0), "another share"),
            (file(2, 2, 0), "another object"),
        ] {
            assert_eq!(memory.covered(name, 3..4, now, |_| true), 0, "{what}");
        }
        assert!(!covers(1, 3..4, now), "another version");
        let almost = now + SHORT_AGE - Duration::from_millis(1);
        assert!(covers(0, 3..4, almost));
        // Verified again later: what was verified first decides.
        memory.note(file(1, 2, 0), 0..2, true, almost);
        assert!(!covers(0, 0..1, now + SHORT_AGE));
        memory.note(file(1, 2, 0), 0..2, true, now + SHORT_AGE);
        assert!(covers(0, 0..2, now + SHORT_AGE) && !covers(0, 3..4, now + SHORT_AGE));
        // A new version forgets the old one.
        memory.note(file(1, 2, 1), 5..6, true, now + SHORT_AGE);
        assert!(covers(1, 5..6, now + SHORT_AGE) && !covers(1, 0..1, now + SHORT_AGE));
    }

    #[test]
    fn the_page_cache_is_asked_now_and_then() {
        let (memory, now) = (memory(), Instant::now());
        memory.note(file(1, 0, 0), 0..2048, true, now);
        let asked = Cell::new(0);
        let covered = |leaves, now| {
            asked.set(0);
            let covered = memory.covered(file(1, 0, 0), leaves, now, |_| {
                asked.set(asked.get() + 1);
                true
            });
            (covered, asked.get())
        };
        assert_eq!(covered(0..100, now), (100, 0), "just read");
        let now = now + RESIDENT_FOR;
        assert_eq!(covered(0..1100, now), (1100, 2), "once for each run");
        assert_eq!(covered(1023..1100, now), (77, 0));
        assert_eq!(covered(0..1, now + RESIDENT_FOR), (1, 1));
    }

    #[test]
    fn pages_that_left_the_cache_are_not_known_when_they_are_back() {
        let (memory, mut now) = (memory(), Instant::now());
        memory.note(file(1, 0, 0), 0..1024, true, now);
        let mut covered = |leaves, there: &dyn Fn(&Range<u64>) -> bool| {
            now += RESIDENT_FOR;
            memory.covered(file(1, 0, 0), leaves, now, |leaves| there(&leaves))
        };
        assert_eq!(covered(0..200, &|_| true), 200);
        // Another range is asked for meanwhile.
        let gone = |leaves: &Range<u64>| leaves.end <= 100 || leaves.start >= 140;
        assert_eq!(covered(500..510, &gone), 10);
        let stayed = covered(0..200, &|_| true);
        assert!((80..=100).contains(&stayed), "{stayed}");
        assert_eq!(covered(100..140, &|_| true), 0, "back, from the disk");
        assert_eq!(covered(160..1024, &|_| true), 864, "these stayed");
        memory.note(file(1, 0, 0), 80..160, true, Instant::now());
        assert_eq!(covered(0..200, &|_| true), 200, "verified again");
    }

    #[test]
    fn what_was_read_past_the_page_cache_was_verified_and_is_not_there() {
        let (memory, now) = (memory(), Instant::now());
        memory.note(file(1, 0, 0), 0..64, false, now);
        assert!(memory.knows(file(1, 0, 0), 0..64, now));
        assert_eq!(memory.covered(file(1, 0, 0), 0..64, now, |_| true), 0);
        memory.note(file(1, 0, 0), 0..32, true, now);
        assert_eq!(memory.covered(file(1, 0, 0), 0..64, now, |_| true), 32);
    }

    #[test]
    fn a_run_that_was_not_seen_in_the_cache_for_long_is_not_known() {
        let (memory, now) = (memory(), Instant::now());
        memory.note(file(1, 0, 0), 0..1024, true, now);
        let covered = |now| memory.covered(file(1, 0, 0), 0..10, now, |_| true);
        let almost = CONFIRMED_FOR - Duration::from_millis(1);
        assert_eq!(covered(now + almost), 10);
        assert_eq!(covered(now + 2 * almost), 10, "it was seen between");
        assert_eq!(covered(now + 2 * almost + CONFIRMED_FOR), 0);
        assert_eq!(covered(now + 2 * almost + CONFIRMED_FOR), 0, "for good");
        let later = now + 2 * almost + CONFIRMED_FOR;
        assert!(
            memory.knows(file(1, 0, 0), 0..10, later),
            "it was verified once"
        );
    }

    #[test]
    fn nothing_is_remembered_where_every_read_is_to_be_verified() {
        let (memory, now) = (VerifiedLeaves::new(None), Instant::now());
        memory.note(file(1, 0, 0), 0..512, true, now);
        assert_eq!(memory.covered(file(1, 0, 0), 0..1, now, |_| true), 0);
        assert_eq!((memory.bytes(), memory.is_kept()), (0, false));
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let (memory, now) = (memory(), Instant::now());
        let pages = VERIFIED_PAGES_MAX as u64;
        for object in 0..3 * pages {
            memory.note(file(object, 0, 0), 0..1, true, now);
            assert!(memory.bytes() <= VERIFIED_PAGES_MAX * VERIFIED_PAGE_BYTES);
        }
        let known = |object| memory.covered(file(object, 0, 0), 0..1, now, |_| true) == 1;
        assert!(known(3 * pages - 1) && known(2 * pages) && !known(2 * pages - 1));
    }

    proptest! {
        #[test]
        fn it_knows_what_a_set_of_leaves_knows(
            noted in prop::collection::vec((0u64..4000, 1u64..1400), 0..6),
            asked in prop::collection::vec((0u64..4000, 1u64..1400), 1..20),
        ) {
            let (memory, now) = (memory(), Instant::now());
            let mut model = std::collections::HashSet::new();
            for (start, count) in noted {
                memory.note(file(7, 1, 0), start..start + count, true, now);
                model.extend(start..start + count);
            }
            for (start, count) in asked {
                let leaves = start..start + count;
                let known = leaves.clone().take_while(|leaf| model.contains(leaf)).count() as u64;
                prop_assert_eq!(memory.covered(file(7, 1, 0), leaves.clone(), now, |_| true), known);
                prop_assert_eq!(memory.knows(file(7, 1, 0), leaves, now), known == count);
            }
        }
    }
}
