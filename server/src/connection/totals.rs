//! What all cores have sent and lent to each network, so that each core's turns and loans (see
//! [`networks`](super::networks)) are by the sum.
//!
//! A total is made when the first connection of a network comes to a core and ends when the last one has left all of
//! them: only then is the map locked. Turns read and add to one number of their network. Nobody waits for anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::network::Network;

/// What one network has of all cores.
#[derive(Debug, Default)]
pub struct Total {
    /// Bytes that were sent to it while some core had a choice. Only differences count, since it may wrap.
    sent: AtomicU64,
    /// Bytes of credit that its connections have borrowed.
    lent: AtomicU64,
}

/// What an [`Arc`] of a total takes: its counts are in front, and the allocator adds a header and rounds up.
pub const TOTAL_BYTES: usize = size_of::<Total>() + 2 * size_of::<usize>() + 16;

// Relaxed, in all of this: the numbers are all that is shared; no other memory depends on them.
impl Total {
    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// So many bytes are to be sent.
    pub fn add(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of them were not.
    pub fn take_back(&self, bytes: u64) {
        self.sent.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of credit that are lent to it.
    pub fn lent(&self) -> u64 {
        self.lent.load(Ordering::Relaxed)
    }

    /// One of its connections has borrowed so many bytes now, and so many `before`.
    pub fn note_lent(&self, before: u64, now: u64) {
        self.lent
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// The totals of all networks, shared by the cores.
#[derive(Debug, Default)]
pub struct Totals {
    of: Mutex<HashMap<Network, Arc<Total>>>,
    /// Cores that give turns.
    choosing: AtomicUsize,
}

impl Totals {
    fn of(&self) -> MutexGuard<'_, HashMap<Network, Arc<Total>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The total of a network that has come to a core.
    pub fn join(&self, network: Network) -> Arc<Total> {
        Arc::clone(self.of().entry(network).or_default())
    }

    /// A core has no connection of this network any more, and lets its total go.
    pub fn leave(&self, network: Network, total: Arc<Total>) {
        let mut of = self.of();
        drop(total);
        // Nobody else clones it meanwhile: that takes the lock.
        if of
            .get(&network)
            .is_some_and(|one| Arc::strong_count(one) == 1)
        {
            of.remove(&network);
        }
    }

    /// A core begins or ceases to give turns.
    pub fn note_choosing(&self, begins: bool) {
        match begins {
            true => self.choosing.fetch_add(1, Ordering::Relaxed),
            false => self.choosing.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Whether some core gives turns.
    pub fn is_one_choosing(&self) -> bool {
        self.choosing.load(Ordering::Relaxed) > 0
    }

    /// Networks with a total.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.of().len()
    }
}
