//! The records of verified segments that one core keeps, so that a slow client does not cost a segment's
//! hashing for every piece.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use decode_kernel::tahoe::{Geometry, SegmentRecord};
use lru::LruCache;

use crate::units::ObjectId;

/// The latest used, up to a number of bytes.
pub struct Records {
    known: RefCell<LruCache<(ObjectId, u64), Rc<SegmentRecord>>>,
    bytes: Cell<usize>,
    bytes_max: usize,
}

/// Bytes of a record itself and of its place among the others.
const PLACE_BYTES: usize = size_of::<SegmentRecord>() + 128;

/// Bytes that one takes, as they are counted: of the longest segment of its file, with its place here.
pub fn bytes_of(geometry: &Geometry, leaf_bytes: u64) -> usize {
    SegmentRecord::bytes_for(geometry, leaf_bytes) + PLACE_BYTES
}

impl Records {
    /// None yet.
    pub fn new(bytes_max: usize) -> Records {
        Records {
            known: RefCell::new(LruCache::unbounded()),
            bytes: Cell::new(0),
            bytes_max,
        }
    }

    /// That of a segment of a file.
    pub fn get(&self, file: ObjectId, segment: u64) -> Option<Rc<SegmentRecord>> {
        self.known.borrow_mut().get(&(file, segment)).cloned()
    }

    /// Keeps one, and drops those that were not used for longest.
    pub fn insert(&self, file: ObjectId, segment: u64, record: &Rc<SegmentRecord>) {
        self.remove(file, segment);
        let mut known = self.known.borrow_mut();
        let mut bytes = self.bytes.get() + held(record);
        known.put((file, segment), Rc::clone(record));
        while bytes > self.bytes_max {
            let Some((_, dropped)) = known.pop_lru() else {
                break;
            };
            bytes -= held(&dropped);
        }
        self.bytes.set(bytes);
    }

    /// Forgets one.
    pub fn remove(&self, file: ObjectId, segment: u64) {
        if let Some(dropped) = self.known.borrow_mut().pop(&(file, segment)) {
            self.bytes.set(self.bytes.get() - held(&dropped));
        }
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

fn held(record: &SegmentRecord) -> usize {
    record.bytes() + PLACE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_records_is_bounded() {
        let geometry = Geometry::new(2, 3, 1 << 20, 1 << 20, 1 << 20).unwrap();
        let record = Rc::new(SegmentRecord::new(&geometry, 0, 4096, &[0, 1]));
        assert!(held(&record) <= bytes_of(&geometry, 4096));
        let records = Records::new(10 * held(&record));
        for segment in 0..100 {
            records.insert(ObjectId(1), segment, &record);
            records.insert(ObjectId(1), segment, &record);
        }
        assert_eq!(records.bytes(), 10 * held(&record));
        assert!(records.get(ObjectId(1), 89).is_none() && records.get(ObjectId(1), 90).is_some());
        // What was used last is kept.
        records.insert(ObjectId(2), 0, &record);
        assert!(records.get(ObjectId(1), 90).is_some() && records.get(ObjectId(1), 91).is_none());
        for segment in 0..100 {
            records.remove(ObjectId(1), segment);
        }
        records.remove(ObjectId(2), 0);
        assert_eq!(records.bytes(), 0);
    }
}
