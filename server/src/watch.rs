//! Deadlines and sampling: once a tick, one look at the core's connections.
//!
//! Tasks set no timers of their own. A connection whose time is up is ended from here by shutting its
//! socket, which completes whatever its task waits for; so no operation is ever abandoned in the ring.
//! A client is judged by the bytes it acknowledged, not by those the kernel buffered: a live slow one is
//! kept, a dead one is closed.

use std::time::{Duration, Instant};

use crate::conn::Phase;
use crate::core::{Connection, Core, Ending};
use crate::limits::LINGER_TIMEOUT;
use crate::stats::PHASES;

/// What connections are held to.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Time for a request head to arrive.
    pub head: Duration,
    /// Time without a request.
    pub idle: Duration,
    /// Time without acknowledged bytes while some wait.
    pub send: Duration,
}

/// A round of sampling asks the kernel about every socket once; it is spread over this many ticks, so
/// that ten thousand connections cost well under 1% of a core.
const SAMPLE_TICKS: usize = 8;

/// The state of the look-out.
pub struct Watch {
    timeouts: Timeouts,
    turn: usize,
}

impl Watch {
    /// A look-out that holds connections to these times.
    pub fn new(timeouts: Timeouts) -> Watch {
        Watch { timeouts, turn: 0 }
    }

    /// One look at every connection, and a sample of some.
    pub fn tick(&mut self, core: &Core) {
        let now = Instant::now();
        let mut phases = [0u64; PHASES.len()];
        let (mut held, mut sockets, mut queues) = (0, 0, 0);
        for (slot, connection) in core.connections.borrow().iter() {
            if slot % SAMPLE_TICKS == self.turn {
                sample(connection, now);
            }
            self.judge(core, connection, now);
            let phase = connection.phase.get();
            if let Some(at) = PHASES.iter().position(|&(p, _)| p == phase) {
                phases[at] += 1;
            }
            held += connection.held_bytes.get() as u64;
            sockets += connection.socket_bytes.get();
            queues += connection.send_queue_bytes.get();
        }
        self.turn = (self.turn + 1) % SAMPLE_TICKS;

        let stats = &core.stats;
        for (cell, count) in stats.connections.iter().zip(phases) {
            cell.set(count);
        }
        stats.connection_bytes.set(held);
        stats.socket_bytes.set(sockets);
        stats.send_queue_bytes.set(queues);
        stats.pool_free.set(core.pool.free() as u64);
        stats.open_objects.set(core.catalogue.len() as u64);
        stats.decoder_bytes.set(core.coder.borrow().workspace_bytes() as u64);
    }

    fn judge(&self, core: &Core, connection: &Connection, now: Instant) {
        if connection.ending.get() == Some(Ending::Closed) {
            return;
        }
        let since = now.saturating_duration_since(connection.since.get());
        let (_, acknowledged_at) = connection.acknowledged.get();
        let quiet = since.min(now.saturating_duration_since(acknowledged_at));
        let end = |ending| {
            connection.ending.set(Some(ending));
            core.stats.timed_out.add(1);
        };
        match connection.phase.get() {
            Phase::Head => {
                if since > self.timeouts.head {
                    end(Ending::HeadTimeout);
                    connection.socket.finish_receiving();
                }
            }
            // Looking up is our own time, and bounded by the stores.
            Phase::Opening => {}
            // Also when idle or lingering: the last response may still be on its way.
            _ if connection.waits_for_peer() => {
                if quiet > self.timeouts.send {
                    end(Ending::Closed);
                    connection.socket.abort();
                }
            }
            // Nothing is outstanding: what is waited for is a disk.
            Phase::Sending => {}
            Phase::Idle if core.draining.get() => {
                connection.ending.set(Some(Ending::Closed));
                connection.socket.finish_receiving();
            }
            Phase::Idle => {
                if quiet > self.timeouts.idle {
                    end(Ending::Closed);
                    connection.socket.finish_receiving();
                }
            }
            Phase::Lingering => {
                if quiet > LINGER_TIMEOUT {
                    end(Ending::Closed);
                    connection.socket.abort();
                }
            }
        }
    }
}

impl Connection {
    /// Whether bytes that the kernel took are not acknowledged yet, as of the last sample.
    fn waits_for_peer(&self) -> bool {
        self.acknowledged.get().0 < self.sent_bytes.get()
    }
}

/// Asks the kernel what the peer acknowledged and what the socket holds.
fn sample(connection: &Connection, now: Instant) {
    let sent = connection.sent_bytes.get();
    if let Ok(unacknowledged) = connection.socket.unacknowledged_bytes() {
        let acknowledged = sent.saturating_sub(u64::from(unacknowledged));
        if acknowledged > connection.acknowledged.get().0 {
            connection.acknowledged.set((acknowledged, now));
        }
    }
    if let Ok(memory) = connection.socket.memory() {
        connection.socket_bytes.set(memory.total());
        connection.send_queue_bytes.set(u64::from(memory.send_queue));
    }
}
