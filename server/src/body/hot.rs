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

use crate::body::produce::Piece;
use crate::body::ring::Ring;
use crate::connection::core::{Connection, Core};
use crate::io::taken;
use crate::memory::limits::HOT_OBJECT_BYTES_MAX;
use crate::objects::object::Object;

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

impl HotObjects {
    /// None yet, in a memory of `bytes` bytes; each counts for `age`, `None` keeps nothing.
    pub fn new(bytes: usize, age: Option<Duration>) -> HotObjects {
        HotObjects {
            age,
            ring: RefCell::new(Ring::new(bytes)),
        }
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.ring.borrow().used()
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
        let mut room = ring.write(room);
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
        Some(look(ring.read(bytes)))
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
        .hot_sent_bytes
        .add(taken.saturating_sub(head.len()) as u64);
    Ok(Some(taken))
}
