//! Hot objects: small objects that are requested again and again, kept whole in memory as they were verified.
//!
//! A small object costs a read for each of its shares, more than everything else about its request. So one
//! that was produced twice stays in memory of a planned size, and is sent from there. That memory is a
//! [`Ring`]: an object that is kept is written over the one that was kept first.
//!
//! An object never changes, so its copy can't be outdated: a new put is another object, and one whose shares
//! are gone is not found any more. It counts for the verify age only, so that damage to its files is noticed;
//! with `--verify always` nothing is kept.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::ring::Ring;
use super::turn::Turn;
use crate::engine::{Engine, Piece};
use crate::memory::limits::{HOT_OBJECT_BYTES_MAX, HOT_RECORD_BYTES};
use crate::objects::Object;
use crate::units::{Length, ObjectId};

/// Where an object is kept.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Bytes that had gone into the ring before it.
    at: u64,
    /// Bytes of it that are there, from its start on: clients take it piece by piece.
    filled: u64,
    since: Instant,
}

/// One core's hot objects.
pub struct HotObjects {
    /// How long one is kept; `None` if none is.
    age: Option<Duration>,
    ring: RefCell<Ring>,
    /// Objects whose start was produced, by id, and where those are that are kept.
    records: RefCell<LruCache<ObjectId, Option<Place>>>,
    records_max: usize,
}

// An entry of the list with its links and what the allocator adds, and its slot in the map, which has 16/7 as many
// slots at most, with its tag.
const _: () = assert!(
    size_of::<(ObjectId, Option<Place>)>()
        + 2 * size_of::<usize>()
        + 16
        + (2 * size_of::<usize>() + 1) * 16 / 7
        <= HOT_RECORD_BYTES
);

impl HotObjects {
    /// None yet, in a memory of `bytes` bytes; each counts for `age`, `None` keeps nothing. At most `objects_max` objects
    /// are open at one time; their records are part of what open share files are planned with.
    pub fn new(bytes: usize, objects_max: usize, age: Option<Duration>) -> HotObjects {
        HotObjects {
            age,
            ring: RefCell::new(Ring::new(bytes)),
            records: RefCell::new(LruCache::unbounded()),
            records_max: objects_max,
        }
    }

    /// Bytes of memory in use, without the records.
    pub fn bytes(&self) -> usize {
        self.ring.borrow().used()
    }

    fn can_hold(&self, object: &Object) -> bool {
        self.age.is_some() && object.layout().size <= HOT_OBJECT_BYTES_MAX
    }

    /// Keeps a piece of a small object that was just verified, if the object's start was produced before and nothing is
    /// left out.
    pub fn keep(&self, object: &Object, piece: &Piece, now: Instant) {
        if !self.can_hold(object) {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        let mut place = match self.place(&ring, object, now) {
            Some(place) => place,
            None if piece.range.start.0 == 0 && self.record(object) => {
                let Some(at) = ring.room(object.layout().size as usize) else {
                    return;
                };
                let (filled, since) = (0, now);
                Place { at, filled, since }
            }
            None => return,
        };
        if piece.range.start.0 > place.filled {
            return;
        }
        let length = piece.range.length() as usize;
        let Some(room) = ring.find(place.at + piece.range.start.0, length) else {
            return;
        };
        let mut room = ring.write(room);
        for bytes in piece.bytes() {
            let (start, rest) = room.split_at_mut(bytes.len());
            start.copy_from_slice(bytes);
            room = rest;
        }
        place.filled = place.filled.max(piece.range.end.0);
        self.records.borrow_mut().put(object.id(), Some(place));
    }

    /// Records that an object's start was produced. Returns whether it was before.
    fn record(&self, object: &Object) -> bool {
        let mut records = self.records.borrow_mut();
        if records.get(&object.id()).is_some() {
            return true;
        }
        records.put(object.id(), None);
        if records.len() > self.records_max {
            records.pop_lru();
        }
        false
    }

    /// Where an object is kept, if it is and not for too long.
    fn place(&self, ring: &Ring, object: &Object, now: Instant) -> Option<Place> {
        let mut records = self.records.borrow_mut();
        let record = records.get_mut(&object.id())?;
        let place = (*record)?;
        let age = now.saturating_duration_since(place.since);
        let is_there = ring.find(place.at, 0).is_some() && self.age.is_some_and(|most| age < most);
        if !is_there {
            *record = None;
        }
        is_there.then_some(place)
    }

    /// Sends what the socket takes of the turn's head and body, if the object is kept; `None` if it isn't.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(
        &self,
        engine: &Engine,
        turn: &Turn<'_>,
        object: &Object,
        now: Instant,
    ) -> io::Result<Option<usize>> {
        if !self.can_hold(object) {
            return Ok(None);
        }
        let ring = self.ring.borrow();
        let start = turn.body.start.0;
        let place = self.place(&ring, object, now);
        let Some(place) = place.filter(|place| place.filled > start) else {
            return Ok(None);
        };
        let length = (place.filled - start).min(turn.admitted) as usize;
        let Some(bytes) = ring.find(place.at + start, length) else {
            return Ok(None);
        };
        let (head, bytes) = (turn.head, ring.read(bytes));
        let sent = turn.send([head, bytes].into_iter())?;
        let of_body = sent.saturating_sub(head.len());
        engine.stats.hot_sent_bytes.add(of_body as u64);
        Ok(Some(sent))
    }
}
