//! Hot objects: small ones that are asked for again and again, kept whole, as they were verified.
//!
//! A small object costs a read for each of its shares, more than everything else about its request. So one
//! that was produced twice stays in memory of a planned size, and is sent from there. That memory is a ring:
//! what is kept next is written over what was kept first. Where an object lies is noted with the object, so
//! there is no index; its place counts until the ring came round.
//!
//! An object never changes, so what is kept can't be outdated: a new put is another object, and one whose shares
//! are gone is not found any more. It is let go after the re-verification age all the same, so that what
//! happened to its files is noticed; with `--verify always` nothing is kept.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::core::{Connection, Core};
use crate::io::taken;
use crate::limits::HOT_OBJECT_BYTES_MAX;
use crate::object::Object;
use crate::produce::Piece;

/// What an object knows of its being kept.
#[derive(Debug, Default)]
pub struct Heat {
    /// Its start was produced before.
    warm: Cell<bool>,
    place: Cell<Option<Place>>,
}

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
}

struct Ring {
    memory: Box<[u8]>,
    /// Bytes that went into it, those left out at its end included.
    written: u64,
}

impl Ring {
    /// Makes room for `length` bytes in one piece, if there are any and it is as large at all; says what had been
    /// written before.
    fn room(&mut self, length: usize) -> Option<u64> {
        let size = self.memory.len();
        if length == 0 || length > size {
            return None;
        }
        let start = (self.written % size as u64) as usize;
        if start + length > size {
            // Nothing lies partly at the end and partly at the start.
            self.written += (size - start) as u64;
        }
        let at = self.written;
        self.written += length as u64;
        Some(at)
    }

    /// Where what lies at `at` is in the memory, unless it was written over.
    fn find(&self, at: u64, length: usize) -> Option<Range<usize>> {
        let size = self.memory.len() as u64;
        if at + size < self.written {
            return None;
        }
        let start = (at % size) as usize;
        Some(start..start + length)
    }
}

impl HotObjects {
    /// None yet, in a memory of `bytes` bytes; each counts for `age`, `None` keeps nothing.
    pub fn new(bytes: usize, age: Option<Duration>) -> HotObjects {
        HotObjects {
            age,
            ring: RefCell::new(Ring {
                // Zeroed and never written: the kernel gives memory to pages that are used.
                memory: vec![0; bytes].into_boxed_slice(),
                written: 0,
            }),
        }
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        let ring = self.ring.borrow();
        ring.memory.len().min(ring.written as usize)
    }

    /// Keeps what was just verified of a small object, if its start was produced before and nothing is left out.
    pub fn keep(&self, object: &Object, piece: &Piece, now: Instant) {
        let size = object.layout().size;
        if self.age.is_none() || size > HOT_OBJECT_BYTES_MAX {
            return;
        }
        let heat = object.heat();
        let mut ring = self.ring.borrow_mut();
        let mut place = match self.place(&ring, object, now) {
            Some(place) => place,
            None if piece.range.start == 0 && heat.warm.replace(true) => {
                let Some(at) = ring.room(size as usize) else {
                    return;
                };
                let (filled, since) = (0, now);
                Place { at, filled, since }
            }
            None => return,
        };
        if piece.range.start > place.filled {
            return;
        }
        let length = (piece.range.end - piece.range.start) as usize;
        let Some(room) = ring.find(place.at + piece.range.start, length) else {
            return;
        };
        let mut room = &mut ring.memory[room];
        for slice in &piece.slices {
            let bytes = &piece.chunks[slice.window][slice.bytes.clone()];
            let (start, rest) = room.split_at_mut(bytes.len());
            start.copy_from_slice(bytes);
            room = rest;
        }
        place.filled = place.filled.max(piece.range.end);
        heat.place.set(Some(place));
    }

    /// Where an object lies, if it does and is not too old.
    fn place(&self, ring: &Ring, object: &Object, now: Instant) -> Option<Place> {
        let place = object.heat().place.get()?;
        let age = now.saturating_duration_since(place.since);
        let is_there = ring.find(place.at, 0).is_some() && self.age.is_some_and(|most| age < most);
        if !is_there {
            object.heat().place.set(None);
        }
        is_there.then_some(place)
    }

    /// Shows what is kept of an object, from `start` on, if there is any.
    fn with<T>(
        &self,
        object: &Object,
        start: u64,
        now: Instant,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let ring = self.ring.borrow();
        let place = self.place(&ring, object, now)?;
        let length = place
            .filled
            .checked_sub(start)
            .filter(|&length| length > 0)?;
        let bytes = ring.find(place.at + start, length as usize)?;
        Some(look(&ring.memory[bytes]))
    }
}

/// Sends what the socket takes of `head` and then of the first `admitted` bytes of `body`, if the object is kept;
/// `None` if it has to go another way.
///
/// # Errors
/// The connection's.
pub fn send(
    core: &Core,
    connection: &Connection,
    head: &Bytes,
    object: &Object,
    body: Range<u64>,
    admitted: u64,
) -> io::Result<Option<usize>> {
    let sent = core.hot.with(object, body.start, Instant::now(), |bytes| {
        let part = &bytes[..bytes.len().min(admitted as usize)];
        let cut = connection.cut((part.len() as u64) < body.end - body.start)?;
        taken(connection.socket.send([&head[..], part].into_iter(), cut))
    });
    let Some(taken) = sent.transpose()? else {
        return Ok(None);
    };
    core.stats
        .hot_bytes
        .add(taken.saturating_sub(head.len()) as u64);
    Ok(Some(taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(size: usize) -> Ring {
        Ring {
            memory: vec![0; size].into_boxed_slice(),
            written: 0,
        }
    }

    #[test]
    fn what_is_larger_than_the_ring_is_not_kept() {
        assert!(ring(0).room(0).is_none() && ring(0).room(1).is_none());
        let mut ring = ring(100);
        assert_eq!(ring.room(101), None);
        assert_eq!(ring.room(100), Some(0));
        assert_eq!(ring.find(0, 100), Some(0..100));
        assert_eq!(ring.room(1), Some(100));
        assert_eq!(ring.find(0, 100), None, "written over");
        assert_eq!(ring.find(100, 1), Some(0..1));
    }

    proptest! {
        /// What the ring gives is what was put there, and the latest that together fill half of it are there.
        #[test]
        fn nothing_is_given_that_was_written_over(
            size in 1usize..400,
            lengths in prop::collection::vec(0usize..300, 1..60),
        ) {
            let mut ring = ring(size);
            let mut kept: Vec<(u64, usize, u8)> = Vec::new();
            for (length, number) in lengths.into_iter().zip(1u8..) {
                if let Some(at) = ring.room(length) {
                    let room = ring.find(at, length).unwrap();
                    ring.memory[room].fill(number);
                    kept.push((at, length, number));
                }
                let mut newer = 0;
                for &(at, length, number) in kept.iter().rev() {
                    newer += length;
                    match ring.find(at, length) {
                        Some(place) => {
                            let bytes = &ring.memory[place];
                            prop_assert_eq!(bytes.len(), length);
                            prop_assert!(bytes.iter().all(|&byte| byte == number));
                        }
                        None => prop_assert!(2 * newer > size, "{newer} of {size} bytes are newer"),
                    }
                }
            }
        }
    }
}
