//! Stalled borrowers: connections that hold a loan, and whose clients take nothing.
//!
//! Bytes in a socket's queue can't be called back, so a loan lasts until the client takes them, or until the send timeout.
//! If the operator says so (`--stalled-loan-timeout`), those that have stalled for longest are closed earlier, but only
//! while others ask for credit in vain.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::state::{CloseReason, Connection};
use crate::memory::limits::STALLED_CLOSED_MAX;

/// At a tick: closes connections that hold a loan and have stalled for `most`, a few of them, if credit was refused to
/// somebody since the last tick.
pub fn close(core: &Core, most: Duration, now: Instant) {
    if !core.lender.was_refused() {
        return;
    }
    let connections = core.connections.borrow();
    let stalled = connections.iter().filter_map(|(_, connection)| {
        let quiet = stalled_for(connection, now)?;
        (quiet > most).then_some((quiet, connection))
    });
    for (_, connection) in longest(stalled) {
        // What is known is as old as the last sample: no verdict without asking again.
        if let Ok(unacknowledged) = connection.socket.unacknowledged_bytes() {
            connection.meter.update(unacknowledged, now);
        }
        if stalled_for(connection, now).is_some_and(|quiet| quiet > most) {
            connection.close_reason.set(Some(CloseReason::Closed));
            connection.socket.reset();
            core.stats().stalled_connections.add(1);
        }
    }
}

/// How long a connection that holds a loan has been waiting for its client; `None` if it isn't, or holds none.
fn stalled_for(connection: &Connection, now: Instant) -> Option<Duration> {
    let is_stalled = connection.send_buffer.is_lent()
        && connection.meter.is_outstanding()
        && connection.close_reason.get().is_none();
    is_stalled.then(|| connection.meter.quiet(now))
}

/// The longest of them, as many as are closed at one tick.
fn longest<'a>(
    stalled: impl Iterator<Item = (Duration, &'a Rc<Connection>)>,
) -> Vec<(Duration, &'a Rc<Connection>)> {
    let mut longest: Vec<(Duration, &Rc<Connection>)> = Vec::with_capacity(STALLED_CLOSED_MAX + 1);
    for one in stalled {
        let at = longest.partition_point(|(quiet, _)| *quiet >= one.0);
        if at < STALLED_CLOSED_MAX {
            longest.insert(at, one);
            longest.truncate(STALLED_CLOSED_MAX);
        }
    }
    longest
}
