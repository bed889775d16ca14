//! Each request as it went: counted, and handed to the access log.

use std::time::Instant;

use super::access_log::Entry;
use super::core::Core;
use super::state::Connection;
use crate::http::method::Method;
use crate::http::outgoing::Finished;
use crate::stats::METHOD_NAMES;

/// The kernel took bytes of the response; `degraded` says whether shares of its object are missing.
pub fn note_sent(core: &Core, connection: &Connection, bytes: u64, degraded: bool, now: Instant) {
    if let Some(first_byte) = connection.timing.note_sent(bytes, degraded, now) {
        core.stats().first_byte.record(first_byte);
    }
}

/// A response ended: it is counted if it is complete, and logged.
pub fn note_end(
    core: &Core,
    connection: &Connection,
    finished: Finished,
    complete: bool,
    now: Instant,
) {
    let Finished {
        status,
        method,
        record,
    } = finished;
    let going = connection.timing.so_far();
    let duration = now.saturating_duration_since(going.begun);
    if complete {
        let place = match method {
            Some(Method::Get) => 0,
            Some(Method::Head) => 1,
            Some(Method::Options) => 2,
            None => METHOD_NAMES.len() - 1,
        };
        core.stats().count_response(place, status.code(), duration);
    }
    let (Some(log), Some(record)) = (&core.access, record) else {
        return;
    };
    let entry = Entry {
        record,
        client: connection.client(),
        peer: connection.peer,
        status: status.code(),
        sent: going.sent,
        duration,
        first_byte: going.first_byte,
        degraded: going.degraded,
        complete,
    };
    if !log.note(entry) {
        core.stats().access_log_lines_dropped.add(1);
    }
}
