//! Idle connections that give way: when all seats are taken, the one that has been idle for longest is closed, so that as
//! many idle ones as there are seats keep nobody out.
//!
//! A client that comes back on a connection that was closed asks again on a new one, as it must at any time (RFC 9112
//! section 9.3.1). Each core looks among its own. Where it finds none, the others are asked to make room at their
//! next tick, since the kernel may have given them the idle ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::seats::Seat;
use super::state::{CloseReason, Connection};
use crate::memory::limits::{IDLE_FOUND_MAX, IDLE_GIVES_WAY, IDLE_LOOK_PAUSE};
use crate::stats::Phase;

/// The connections of one core that have been idle for longest, as of the last look at all of them.
#[derive(Default)]
pub struct Idle {
    /// Slots, the longest idle first, with the time since when.
    found: RefCell<VecDeque<(usize, Instant)>>,
    /// When a look found none.
    in_vain: Cell<Option<Instant>>,
}

impl Idle {
    /// Closes the connection that has been idle for longest, and takes its seat; `None` if there is none.
    pub fn close_longest(&self, connections: &Slab<Rc<Connection>>, now: Instant) -> Option<Seat> {
        let mut found = self.found.borrow_mut();
        loop {
            let Some((slot, since)) = found.pop_front() else {
                let pause = |at| now.saturating_duration_since(at) < IDLE_LOOK_PAUSE;
                if self.in_vain.get().is_some_and(pause) {
                    return None;
                }
                let all = connections.iter();
                let all = all.filter(|(_, connection)| is_idle(connection, now));
                *found = longest(all.map(|(slot, connection)| (slot, connection.since.get())));
                if found.is_empty() {
                    self.in_vain.set(Some(now));
                    return None;
                }
                continue;
            };
            // It may have been used since, or be another one by now.
            let connection = connections.get(slot);
            let still = connection.filter(|one| one.since.get() == since && is_idle(one, now));
            let Some(connection) = still else { continue };
            // Of the last response something may be on its way, which holds memory.
            if connection.socket.unacknowledged_bytes().unwrap_or(1) > 0 {
                continue;
            }
            let Some(seat) = connection.take_seat() else {
                continue;
            };
            connection.close_reason.set(Some(CloseReason::Closed));
            connection.socket.shutdown_receive();
            return Some(seat);
        }
    }
}

/// Whether a connection could be closed with nobody losing anything but time.
fn is_idle(connection: &Connection, now: Instant) -> bool {
    connection.phase.get() == Phase::Idle
        && connection.close_reason.get().is_none()
        && is_long(connection.since.get(), now)
}

fn is_long(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= IDLE_GIVES_WAY
}

/// The first of them in the order of their times, as many as are noted.
fn longest(all: impl Iterator<Item = (usize, Instant)>) -> VecDeque<(usize, Instant)> {
    let mut all: Vec<(usize, Instant)> = all.collect();
    if all.len() > IDLE_FOUND_MAX {
        all.select_nth_unstable_by_key(IDLE_FOUND_MAX, |&(_, since)| since);
        all.truncate(IDLE_FOUND_MAX);
    }
    all.sort_unstable_by_key(|&(_, since)| since);
    all.shrink_to_fit();
    all.into()
}

// A look is worth its cost only if what it finds is used for a while.
const _: () = assert!(IDLE_LOOK_PAUSE.as_millis() < Duration::from_secs(1).as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_come_first_and_few_are_noted() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let all = (0..1000).map(|slot| (slot, at((slot as u64 * 7919) % 1000)));
        let found = longest(all);
        assert_eq!(found.len(), IDLE_FOUND_MAX);
        for (number, (slot, since)) in found.into_iter().enumerate() {
            assert_eq!(since, at(number as u64));
            assert_eq!((slot as u64 * 7919) % 1000, number as u64);
        }
        assert!(longest(std::iter::empty()).is_empty());
        assert!(!is_long(begun, begun) && is_long(begun, begun + IDLE_GIVES_WAY));
    }
}
