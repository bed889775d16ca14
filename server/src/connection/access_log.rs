//! The cores' end of the access log.
//!
//! A core hands over what it knows and goes on; a thread of the log writes lines of it (`control`). What does not fit the
//! queue is dropped and counted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::http::record::Record;
use crate::memory::limits::ACCESS_QUEUE_MAX;

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

impl AccessLog {
    /// Hands an entry over; `false` if there is no room for it.
    pub fn note(&self, entry: Entry) -> bool {
        self.0.try_send(entry).is_ok()
    }
}
