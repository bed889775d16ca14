//! Each request as it went: timed, counted, and handed to the access log.
//!
//! A core hands over what it knows and goes on; a thread of the log writes lines of it (`control`). What does not fit the
//! queue is dropped and counted.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::core::Core;
use super::state::Connection;
use crate::http::method::Method;
use crate::http::protocol::Finished;
use crate::http::record::Record;
use crate::memory::limits::ACCESS_QUEUE_MAX;
use crate::stats::METHOD_NAMES;

/// A request that ended.
#[derive(Debug)]
pub struct Entry {
    /// What its head said.
    pub record: Box<Record>,
    /// The client, as far as trusted proxies tell.
    pub client: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// The status of its response.
    pub status: u16,
    /// Bytes of the response that the kernel took, head included.
    pub sent: u64,
    /// From the arrival of its head until the kernel had all of the response, or until it was cut off.
    pub duration: Duration,
    /// Until the kernel had the first byte.
    pub first_byte: Option<Duration>,
    /// Whether shares of its object were missing.
    pub degraded: bool,
    /// Whether the response was sent to its end.
    pub complete: bool,
}

/// The cores' end of the queue to the access log.
#[derive(Clone, Debug)]
pub struct AccessLog(Sender<Entry>);

/// Both ends of a queue.
pub fn queue() -> (AccessLog, Receiver<Entry>) {
    let (sender, receiver) = bounded(ACCESS_QUEUE_MAX);
    (AccessLog(sender), receiver)
}

/// How the request under way went so far.
#[derive(Clone, Copy, Debug)]
struct Going {
    begun: Instant,
    first_byte: Option<Duration>,
    sent: u64,
    degraded: bool,
}

/// The request that a connection serves now.
#[derive(Debug)]
pub struct Timing(Cell<Going>);

impl Timing {
    /// None yet.
    pub fn new(now: Instant) -> Timing {
        Timing(Cell::new(Going::at(now)))
    }

    /// One begins.
    pub fn begin(&self, now: Instant) {
        self.0.set(Going::at(now));
    }
}

impl Going {
    fn at(begun: Instant) -> Going {
        Going {
            begun,
            first_byte: None,
            sent: 0,
            degraded: false,
        }
    }
}

/// The kernel took bytes of the response; `degraded` says whether shares of its object are missing.
pub fn note_sent(core: &Core, connection: &Connection, bytes: u64, degraded: bool, now: Instant) {
    let timing = &connection.timing;
    let mut going = timing.0.get();
    if going.first_byte.is_none() && bytes > 0 {
        let first_byte = now.saturating_duration_since(going.begun);
        core.stats().first_byte.record(first_byte);
        going.first_byte = Some(first_byte);
    }
    going.sent += bytes;
    going.degraded |= degraded;
    timing.0.set(going);
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
    let going = connection.timing.0.get();
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
    if log.0.try_send(entry).is_err() {
        core.stats().access_log_lines_dropped.add(1);
    }
}
