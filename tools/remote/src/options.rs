//! The bounds that a caller sets.

use std::time::Duration;

/// The bounds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin.
    pub first_byte_timeout: Duration,
    /// How long a body may pause.
    pub idle_timeout: Duration,
    /// What is held of an answer at one time, in bytes; 8192 at least.
    pub h1_buffer_bytes: usize,
    /// `SO_RCVBUF` of connections; `None` leaves it to the kernel.
    pub receive_buffer_bytes: Option<usize>,
    /// Idle connections that are kept to each store.
    pub connections_per_store: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            h1_buffer_bytes: 256 << 10,
            receive_buffer_bytes: None,
            connections_per_store: 16,
        }
    }
}
