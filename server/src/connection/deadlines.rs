//! Deadlines and sampling: once a tick, one look at the core's connections.
//!
//! Tasks set no timers of their own. A connection whose time is up is ended from here by shutting its
//! socket, which ends whatever its task waits for of the peer; so no task is dropped amid its work.
//! A client is judged by the bytes it acknowledged, not by those the kernel buffered: a live slow one is
//! kept, a dead one is closed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::connection::core::{Connection, Core, Ending};
use crate::memory::limits::LINGER_TIMEOUT;
use crate::objects::object::Health;
use crate::stats::Phase;

/// What connections are held to.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Time for a request head to arrive.
    pub head: Duration,
    /// Time without a request.
    pub idle: Duration,
    /// Time without acknowledged bytes while some wait; also the window of `rate_min`.
    pub send: Duration,
    /// Bytes per second that a client must acknowledge, on average over `send`, while some wait.
    pub rate_min: u64,
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
        let mut phases = [0u64; Phase::ALL.len()];
        let (mut held, mut sockets, mut queues) = (0, 0, 0);
        for (slot, connection) in core.connections.borrow().iter() {
            if slot % SAMPLE_TICKS == self.turn {
                sample(core, connection, now);
            }
            self.judge(core, connection, now);
            let phase = connection.phase.get();
            phases[phase as usize] += 1;
            connection.take_back(now);
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
        stats.pool_buffers_free.set(core.pool.free() as u64);
        let ahead = core.ahead.as_ref().map_or(0, |all| all.pool().free());
        stats.readahead_buffers_free.set(ahead as u64);
        stats
            .verified_memory_bytes
            .set(core.verified.bytes() as u64);
        stats.hot_memory_bytes.set(core.hot.bytes() as u64);
        stats.rebuilt_memory_bytes.set(core.rebuilt.bytes() as u64);
        let mut health = Health::default();
        core.catalogue.survey(&mut health);
        if let Some(gateway) = &core.gateway {
            gateway.survey(&mut health);
        }
        stats.open_objects.set(health.open);
        stats.degraded_objects.set(health.degraded);
        stats.objects_without_redundancy.set(health.unspared);
        stats
            .decoder_bytes
            .set(core.coder.borrow().workspace_bytes() as u64);
    }

    fn judge(&self, core: &Core, connection: &Connection, now: Instant) {
        if connection.ending.get() == Some(Ending::Closed) {
            return;
        }
        let since = now.saturating_duration_since(connection.since.get());
        let quiet = || {
            let (_, acknowledged_at) = connection.acknowledged.get();
            since.min(now.saturating_duration_since(acknowledged_at))
        };
        let end = |ending| {
            connection.ending.set(Some(ending));
            core.stats.timed_out_connections.add(1);
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
                if quiet() <= self.timeouts.send && !self.window_is_over(connection, now) {
                    return;
                }
                // What is known is as old as the last sample: no verdict without another look.
                look(connection, now);
                if quiet() > self.timeouts.send || self.too_slow(connection, now) {
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
                if quiet() > self.timeouts.idle {
                    end(Ending::Closed);
                    connection.socket.finish_receiving();
                }
            }
            Phase::Lingering => {
                if quiet() > LINGER_TIMEOUT {
                    end(Ending::Closed);
                    connection.socket.abort();
                }
            }
        }
    }
}

impl Watch {
    fn window_is_over(&self, connection: &Connection, now: Instant) -> bool {
        let (_, then) = connection.window.get();
        now.saturating_duration_since(then) >= self.timeouts.send
    }

    /// Judges a client by what it acknowledged over one whole window in which it always had something to
    /// take. The window begins again with every phase, and after every verdict.
    fn too_slow(&self, connection: &Connection, now: Instant) -> bool {
        let (acknowledged_then, then) = connection.window.get();
        let (acknowledged, _) = connection.acknowledged.get();
        if connection.since.get() > then {
            connection.window.set((acknowledged, now));
            return false;
        }
        if !self.window_is_over(connection, now) {
            return false;
        }
        let took = now.saturating_duration_since(then);
        connection.window.set((acknowledged, now));
        let least = u128::from(self.timeouts.rate_min) * took.as_millis() / 1000;
        u128::from(acknowledged.saturating_sub(acknowledged_then)) < least
    }
}

impl Connection {
    /// Whether bytes that the kernel took are not acknowledged yet, as of the last sample.
    fn waits_for_peer(&self) -> bool {
        self.acknowledged.get().0 < self.sent_bytes.get()
    }
}

/// Asks the kernel what the peer acknowledged and what the socket holds, and takes back credit that the
/// connection no longer needs.
fn sample(core: &Core, connection: &Connection, now: Instant) {
    if let Ok(memory) = connection.socket.memory() {
        connection.socket_bytes.set(memory.total());
        connection
            .send_queue_bytes
            .set(u64::from(memory.send_queue));
    }
    let Some(acknowledged) = look(connection, now) else {
        return;
    };
    let (sampled, then) = connection.sampled.replace((acknowledged, now));
    let delivered = acknowledged.saturating_sub(sampled);
    let took = now.saturating_duration_since(then);
    connection
        .rate
        .set((u128::from(delivered) * 1000 / took.as_millis().max(1)) as u64);
    connection.give_back(core, delivered, took);
}

/// Asks the kernel what the peer acknowledged, and notes when that grows.
fn look(connection: &Connection, now: Instant) -> Option<u64> {
    let unacknowledged = connection.socket.unacknowledged_bytes().ok()?;
    let sent = connection.sent_bytes.get();
    let acknowledged = sent.saturating_sub(u64::from(unacknowledged));
    if acknowledged > connection.acknowledged.get().0 {
        connection.acknowledged.set((acknowledged, now));
    }
    Some(acknowledged)
}

/// A connection that stands out.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Who.
    pub peer: SocketAddr,
    /// What it is doing.
    pub phase: &'static str,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Kernel memory of its socket.
    pub socket_bytes: u64,
    /// `SO_SNDBUF` that it has now.
    pub send_buffer_bytes: u32,
    /// Bytes handed to the kernel since it was accepted.
    pub sent_bytes: u64,
    /// Bytes acknowledged per second, lately.
    pub bytes_per_second: u64,
}

/// Connections listed of each kind, per core.
const LISTED_MAX: usize = 8;

/// The connections that hold the most, and the slowest of those that are being sent to.
pub fn list(core: &Core) -> Vec<Listed> {
    let now = Instant::now();
    let connections = core.connections.borrow();
    let mut all: Vec<&Connection> = connections.iter().map(|(_, c)| &**c).collect();
    let mut listed = Vec::with_capacity(2 * LISTED_MAX);
    let mut add = |connection: &Connection| {
        listed.push(Listed {
            peer: connection.peer,
            phase: connection.phase.get().name(),
            seconds: now
                .saturating_duration_since(connection.since.get())
                .as_secs(),
            socket_bytes: connection.socket_bytes.get(),
            send_buffer_bytes: connection.send_buffer.get(),
            sent_bytes: connection.sent_bytes.get(),
            bytes_per_second: connection.rate.get(),
        });
    };
    all.sort_unstable_by_key(|c| std::cmp::Reverse(c.socket_bytes.get()));
    all.iter().take(LISTED_MAX).for_each(|c| add(c));
    // Those listed already are not listed twice.
    let mut rest: Vec<&Connection> = all
        .into_iter()
        .skip(LISTED_MAX)
        .filter(|c| c.phase.get() == Phase::Sending)
        .collect();
    rest.sort_unstable_by_key(|c| c.rate.get());
    rest.iter().take(LISTED_MAX).for_each(|c| add(c));
    listed
}
