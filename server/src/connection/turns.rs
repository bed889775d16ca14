//! Whose turn it is: the count of what was sent to each network of a core, without a clock or a socket.
//!
//! Turns go to networks first and then to connections, so that somebody with very many connections gets what a
//! neighbour with one gets. Each network has a count of the bytes that were sent to it. Of those that have a connection
//! with room to send, the one with the lowest count is next (start-time fair queueing). A network that was not waiting
//! for a while is counted as if it had sent nearly as much as the others, so that nobody saves up turns.
//!
//! What other cores send to a network counts here, too ([`totals`](super::totals)): the kernel spreads connections over
//! the cores, and whoever has very many has some on each. But the clocks of cores differ, and one may be faster than
//! another. So it counts when this core looks at the network, and at most as several times what is sent here: a
//! connection is never left waiting because its neighbours are served elsewhere.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::network::Network;
use super::totals::{TOTAL_BYTES, Total, Totals};
use crate::memory::limits::{NETWORK_BYTES, NETWORKS_MAX, PIECE_BYTES_MAX};

/// How far a network may be behind the one that was served last: one piece, so that it is next, but not for long.
pub(super) const BEHIND_MAX: u64 = PIECE_BYTES_MAX as u64;

/// What other cores sent to a network counts at a turn for at most so many times what is sent then. So one that another
/// core serves very fast still has its turns here, one for so many of its neighbours.
pub(super) const PAID_MAX: u64 = 16;

/// What is left then counts at later turns, up to so many bytes: cores that share their processors with others send in
/// bursts of some megabytes.
pub(super) const OWED_MAX: u64 = 64 * PIECE_BYTES_MAX as u64;

/// The networks of one core, and which of them is next.
pub(super) struct Table {
    totals: Arc<Totals>,
    pub(super) entries: Vec<Entry>,
    /// Those without members.
    pub(super) unused: Vec<EntryId>,
    pub(super) of: HashMap<Network, EntryId>,
    /// Entries with connections that wait, by what was sent to them.
    pub(super) waiting: BTreeSet<(u64, EntryId)>,
    /// The count of the entry that was served last.
    now: u64,
}

/// The index of an entry.
pub(super) type EntryId = u32;

/// A connection that waits for its turn.
#[derive(Default)]
pub(super) struct Waiter {
    /// Bytes that it is to send.
    pub(super) bytes: Cell<u64>,
    pub(super) is_granted: Cell<bool>,
    pub(super) waker: Cell<Option<Waker>>,
}

/// One network, or several where there are too many.
pub(super) struct Entry {
    network: Network,
    pub(super) members: u32,
    pub(super) sending: u32,
    /// Bytes that were sent to it while others wanted to send too.
    pub(super) served: u64,
    /// What all cores have sent to it; `None` once nobody is left.
    pub(super) total: Option<Arc<Total>>,
    /// How much of that this core has counted.
    seen: u64,
    /// What was sent elsewhere and is not counted in `served` yet.
    owed: u64,
    /// What of that was counted since its last turn here.
    paid: u64,
    queue: VecDeque<Rc<Waiter>>,
}

// An entry; its slot in the map, which has 16/7 as many at most, with its tag; its place among those that wait, in nodes
// that are half full; its number among the unused. Queues are of connections, which pay for them.
const _: () = assert!(
    size_of::<Entry>()
        + (size_of::<(Network, EntryId)>() + 1) * 16 / 7
        + TOTAL_BYTES
        + (size_of::<(Network, Arc<Total>)>() + 1) * 16 / 7
        + 2 * size_of::<(u64, EntryId)>()
        + 2 * size_of::<EntryId>()
        <= NETWORK_BYTES
);

impl Entry {
    /// Its network is to be sent so many bytes.
    fn charge(&mut self, bytes: u64) {
        self.served = self.served.saturating_add(bytes);
        self.seen = self.seen.wrapping_add(bytes);
        self.paid = 0;
        if let Some(total) = &self.total {
            total.add(bytes);
        }
    }

    /// Its network was sent so many fewer.
    fn take_back(&mut self, bytes: u64) {
        self.served = self.served.saturating_sub(bytes);
        self.seen = self.seen.wrapping_sub(bytes);
        if let Some(total) = &self.total {
            total.take_back(bytes);
        }
    }

    /// Counts what other cores sent since this one looked last, before it is sent so many bytes `next` here.
    fn look(&mut self, next: u64) {
        let Some(total) = &self.total else { return };
        let elsewhere = total.sent().wrapping_sub(self.seen);
        // Less than nothing, where another core took back what it did not send: that counts later.
        if elsewhere <= u64::MAX / 2 {
            self.seen = self.seen.wrapping_add(elsewhere);
            self.owed = self.owed.saturating_add(elsewhere).min(OWED_MAX);
        }
        let most = PAID_MAX.saturating_mul(next);
        let counted = self.owed.min(most.saturating_sub(self.paid));
        self.owed -= counted;
        self.paid += counted;
        self.served = self.served.saturating_add(counted);
    }
}

impl Table {
    pub(super) fn new(totals: Arc<Totals>) -> Table {
        Table {
            totals,
            entries: Vec::new(),
            unused: Vec::new(),
            of: HashMap::new(),
            waiting: BTreeSet::new(),
            now: 0,
        }
    }

    pub(super) fn entry(&mut self, at: EntryId) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    pub(super) fn join(&mut self, network: Network) -> EntryId {
        if let Some(&at) = self.of.get(&network) {
            self.entry(at).members += 1;
            return at;
        }
        if self.unused.is_empty() && self.entries.len() == NETWORKS_MAX {
            // Every entry is used: it shares one, which nobody can choose.
            let at = (self.of.hasher().hash_one(network) % NETWORKS_MAX as u64) as EntryId;
            self.entry(at).members += 1;
            return at;
        }
        let total = self.totals.join(network);
        let entry = Entry {
            network,
            members: 1,
            sending: 0,
            served: 0,
            seen: total.sent(),
            total: Some(total),
            owed: 0,
            paid: 0,
            queue: VecDeque::new(),
        };
        let at = match self.unused.pop() {
            Some(at) => {
                *self.entry(at) = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as EntryId
            }
        };
        self.of.insert(network, at);
        at
    }

    pub(super) fn leave(&mut self, at: EntryId) {
        let entry = &mut self.entries[at as usize];
        entry.members -= 1;
        if entry.members == 0 {
            self.of.remove(&entry.network);
            self.waiting.remove(&(entry.served, at));
            entry.queue = VecDeque::new();
            if let Some(total) = entry.total.take() {
                self.totals.leave(entry.network, total);
            }
            self.unused.push(at);
        }
    }

    pub(super) fn enqueue(&mut self, at: EntryId, waiter: Rc<Waiter>) {
        let entry = &mut self.entries[at as usize];
        if entry.queue.is_empty() {
            entry.look(waiter.bytes.get());
            entry.served = entry.served.max(self.now.saturating_sub(BEHIND_MAX));
            self.waiting.insert((entry.served, at));
        }
        entry.queue.push_back(waiter);
    }

    /// Whose turn it is. Its network is charged with what it is to send.
    pub(super) fn next(&mut self) -> Option<Rc<Waiter>> {
        loop {
            let (served, at) = self.waiting.pop_first()?;
            let entry = &mut self.entries[at as usize];
            let bytes = entry.queue.front()?.bytes.get();
            entry.look(bytes);
            if entry.served > served {
                // Others may be next: what counts of other cores is bounded, so this ends.
                self.waiting.insert((entry.served, at));
                continue;
            }
            self.now = self.now.max(served);
            let waiter = entry.queue.pop_front()?;
            entry.charge(bytes);
            if !entry.queue.is_empty() {
                self.waiting.insert((entry.served, at));
            }
            return Some(waiter);
        }
    }

    /// Charges an entry with what was sent in place of what was to be.
    pub(super) fn settle(&mut self, at: EntryId, charged: u64, sent: u64) {
        let entry = &mut self.entries[at as usize];
        let is_waiting = self.waiting.remove(&(entry.served, at));
        match charged.checked_sub(sent) {
            Some(less) => entry.take_back(less),
            None => entry.charge(sent - charged),
        }
        if is_waiting {
            self.waiting.insert((entry.served, at));
        }
    }
}
