//! The leaf checksums that one core keeps at hand: pages of the shares' checksum tables, each verified.
//!
//! All pages lie in one piece of memory of their own, taken once. Long-lived allocations among those of
//! connections, which come and go, would keep the heap from shrinking when a crowd has left.

use std::cell::RefCell;
use std::collections::HashMap;

use decode_kernel::share::{TABLE_PAGE_ENTRIES, TablePage, TablePageError};

use super::Object;
use crate::memory::limits::TABLE_PAGES_MAX;

/// Object, share number, page index.
pub type PageId = (u64, u16, u64);

/// Pages of leaf checksums. The one that was not used for longest makes room for another, by second chance.
pub struct ChecksumCache(RefCell<Pages>);

struct Pages {
    /// Entries of all places, one after the other.
    entries: Box<[u64]>,
    places: Vec<Place>,
    index: HashMap<PageId, usize>,
    /// The place that makes room next, unless it was used since the hand was there.
    hand: usize,
}

struct Place {
    id: PageId,
    /// Since the hand was last here.
    used: bool,
}

impl Default for ChecksumCache {
    fn default() -> ChecksumCache {
        ChecksumCache::with_places(TABLE_PAGES_MAX)
    }
}

impl ChecksumCache {
    fn with_places(places: usize) -> ChecksumCache {
        ChecksumCache(RefCell::new(Pages {
            // Zeroed and never written: the kernel gives memory to pages that are used.
            entries: vec![0; places * TABLE_PAGE_ENTRIES].into_boxed_slice(),
            places: Vec::with_capacity(places),
            index: HashMap::with_capacity(places),
            hand: 0,
        }))
    }

    /// Whether a page is at hand.
    pub fn has(&self, id: PageId) -> bool {
        self.0.borrow().index.contains_key(&id)
    }

    /// Shows a page's entries, or that they are not at hand. Nothing can be inserted meanwhile.
    pub fn with<T>(&self, id: PageId, look: impl FnOnce(Option<&[u64]>) -> T) -> T {
        let mut pages = self.0.borrow_mut();
        let Some(&place) = pages.index.get(&id) else {
            return look(None);
        };
        pages.places[place].used = true;
        look(Some(&pages.entries[span(place)]))
    }

    /// Checks a page as read from a share and keeps its entries.
    pub fn insert(
        &self,
        object: &Object,
        number: u16,
        index: u64,
        bytes: &[u8],
    ) -> Result<(), TablePageError> {
        let page = TablePage::decode(&object.header().generation, number, index, bytes)?;
        let mut pages = self.0.borrow_mut();
        let place = pages.place((object.id(), number, index));
        for (at, entry) in pages.entries[span(place)].iter_mut().enumerate() {
            *entry = page.entry(at);
        }
        Ok(())
    }
}

fn span(place: usize) -> std::ops::Range<usize> {
    place * TABLE_PAGE_ENTRIES..(place + 1) * TABLE_PAGE_ENTRIES
}

impl Pages {
    /// The place of a page: the one it has, a free one, or that of another page.
    fn place(&mut self, id: PageId) -> usize {
        if let Some(&place) = self.index.get(&id) {
            return place;
        }
        let new = Place { id, used: true };
        let place = if self.places.len() * TABLE_PAGE_ENTRIES < self.entries.len() {
            self.places.push(new);
            self.places.len() - 1
        } else {
            // Ends in the second round at the latest.
            while std::mem::take(&mut self.places[self.hand].used) {
                self.hand = (self.hand + 1) % self.places.len();
            }
            let place = self.hand;
            self.hand = (place + 1) % self.places.len();
            let old = std::mem::replace(&mut self.places[place], new);
            self.index.remove(&old.id);
            place
        };
        self.index.insert(id, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(page: u64) -> PageId {
        (1, 2, page)
    }

    /// Puts a page whose entries all are `value`.
    fn put(tables: &ChecksumCache, page: u64, value: u64) {
        let mut pages = tables.0.borrow_mut();
        let place = pages.place(id(page));
        pages.entries[span(place)].fill(value);
    }

    fn value(tables: &ChecksumCache, page: u64) -> Option<u64> {
        tables.with(id(page), |entries| {
            let entries = entries?;
            assert_eq!(entries.len(), TABLE_PAGE_ENTRIES);
            assert!(entries.iter().all(|&entry| entry == entries[0]));
            Some(entries[0])
        })
    }

    #[test]
    fn what_was_put_is_found_until_room_is_needed() {
        const PLACES: u64 = 8;
        let tables = ChecksumCache::with_places(PLACES as usize);
        assert_eq!(value(&tables, 0), None);
        for page in 0..PLACES {
            put(&tables, page, page + 100);
        }
        for page in 0..PLACES {
            assert_eq!(value(&tables, page), Some(page + 100));
        }
        put(&tables, 3, 7);
        assert_eq!(value(&tables, 3), Some(7), "in its place");
        for page in PLACES..5 * PLACES {
            put(&tables, page, page);
            assert_eq!(value(&tables, page), Some(page));
            let held = (0..=page).filter(|&page| tables.has(id(page))).count();
            assert_eq!(held, PLACES as usize);
        }
    }

    #[test]
    fn what_is_used_stays() {
        let tables = ChecksumCache::with_places(8);
        for page in 0..8 {
            put(&tables, page, page);
        }
        for page in 8..200 {
            assert_eq!(value(&tables, 5), Some(5));
            put(&tables, page, page);
        }
    }

    #[test]
    fn it_takes_no_more_memory_than_planned() {
        let tables = ChecksumCache::with_places(64);
        let before = tables.0.borrow().index.capacity();
        for page in 0..100_000 {
            put(&tables, page, page);
        }
        let pages = tables.0.borrow();
        assert_eq!((pages.places.len(), pages.places.capacity()), (64, 64));
        // What was removed leaves marks, which may double it once.
        assert!(pages.index.capacity() <= 2 * before + 1);
    }
}
