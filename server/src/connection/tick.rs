//! The tick: a look at all connections of a core, several times a second. It enforces deadlines, samples sockets, takes
//! back what is no longer earned, and sets the gauges.

use std::time::Instant;

use super::core::Core;
use super::deadlines::Timeouts;
use super::stalled;
use super::state::Connection;
use crate::objects::Health;
use crate::stats::Phase;

/// A round of sampling asks the kernel about every socket once; it is spread over this many ticks, so
/// that ten thousand connections cost well under 1% of a core.
const SAMPLE_TICKS: usize = 8;

/// The ticks of one core.
#[derive(Default)]
pub struct Ticks {
    /// Which part of the connections is sampled next.
    turn: usize,
}

impl Ticks {
    /// Looks at every connection, and samples some.
    pub fn tick(&mut self, core: &Core) {
        let now = Instant::now();
        let timeouts = Timeouts::from(&**core.live.borrow());
        let mut phases = [0u64; Phase::ALL.len()];
        let (mut held, mut sockets, mut queues) = (0, 0, 0);
        for (slot, connection) in core.connections.borrow().iter() {
            if slot % SAMPLE_TICKS == self.turn {
                sample(connection, now);
            }
            timeouts.enforce(core, connection, now);
            phases[connection.phase.get() as usize] += 1;
            connection.readahead.reclaim(now);
            held += connection.held_bytes.get() as u64;
            sockets += connection.socket_bytes.get();
            queues += connection.send_queue_bytes.get();
        }
        self.turn = (self.turn + 1) % SAMPLE_TICKS;
        if let Some(most) = core.live.borrow().stalled_loan_timeout {
            stalled::close(core, most, now);
        }
        core.sources.resources.close_unused(now);
        if let Some(secured) = &core.secured {
            secured.tick(now);
        }
        core.networks.tick();

        let stats = core.stats();
        stats.heartbeat.add(1);
        for (cell, count) in stats.connections.iter().zip(phases) {
            cell.set(count);
        }
        stats.connection_bytes.set(held);
        stats.socket_bytes.set(sockets);
        stats.send_queue_bytes.set(queues);
        set_gauges(core);
    }
}

/// Sets the gauges of what serves the connections.
fn set_gauges(core: &Core) {
    let (stats, sources) = (core.stats(), &core.sources);
    let engine = &sources.engine;
    stats
        .pool_buffers_free
        .set(engine.pool.free_buffers() as u64);
    stats
        .pool_buffers_hung
        .set(engine.pool.hung_buffers() as u64);
    let readahead = sources.readahead.as_ref();
    let free = readahead.map_or(0, |readahead| readahead.pool().free_buffers());
    stats.readahead_buffers_free.set(free as u64);
    stats
        .verified_memory_bytes
        .set(engine.verified.bytes() as u64);
    stats.hot_memory_bytes.set(sources.hot.bytes() as u64);
    stats
        .rebuilt_memory_bytes
        .set(sources.rebuilt.bytes() as u64);
    let mut health = Health::default();
    sources.resources.catalogue.survey(&mut health);
    if let Some(gateway) = &sources.resources.gateway {
        gateway.survey(&mut health);
    }
    stats.open_objects.set(health.open);
    stats.degraded_objects.set(health.degraded);
    stats
        .objects_without_redundancy
        .set(health.without_redundancy);
    stats
        .decoder_bytes
        .set(engine.coder.borrow().workspace_bytes() as u64);
}

/// Asks the kernel what the peer acknowledged and what the socket holds, and takes back credit that the
/// connection no longer needs.
fn sample(connection: &Connection, now: Instant) {
    if let Ok(memory) = connection.socket.memory() {
        connection.socket_bytes.set(memory.total());
        connection
            .send_queue_bytes
            .set(u64::from(memory.send_queue));
    }
    let Ok(unacknowledged) = connection.socket.unacknowledged_bytes() else {
        return;
    };
    connection.meter.update(unacknowledged, now);
    let sample = connection.meter.sample(now);
    let held_bytes = connection.socket_bytes.get();
    connection.send_buffer.shrink(
        &connection.socket,
        &connection.meter,
        sample,
        held_bytes,
        now,
    );
}
