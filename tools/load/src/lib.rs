//! A load generator for HTTP/1.1 servers, with TLS or without: tens of thousands of fast, slow, stalled and aborting clients in one process,
//! and measurements of the server's memory and CPU time.
//!
//! A [`Plan`] names the target and its [`Group`]s of clients; [`run`] plays it and returns a [`Report`]. Any server
//! will do; nothing here knows Penstock. The server is measured from outside only: the process by `/proc`, the kernel
//! memory of its sockets by `sock_diag`. So the server's own counters cannot flatter it. Starting the server and
//! judging the report are left to the caller. `penstock-load` is a command line around [`run_with`].
//!
//! The way of one client: `connect` opens the connection, `stream` and `session` speak TLS on it if the URL says so,
//! `client` sends the request, `reading` reads the response as fast as the client's class does, `response` parses it,
//! `check` compares the bytes, `tally` counts. Clients are tasks on one or two event loops. They share one read buffer per
//! thread, so a stalled client costs its socket and about a KiB, and by TLS the keys of its session.
//!
//! Every run ends by itself: a plan has a duration, and everything still open then is dropped. The target must be this
//! machine unless the plan says otherwise. Random choices (ranges, cut points) come from the plan's seed, and each
//! client has its own sequence, so they do not depend on scheduling.
//!
//! The clients are a closed loop: each waits for its response before it sends the next request. The latencies are those
//! that such clients measure; they say nothing about a fixed arrival rate.

mod check;
mod client;
mod connect;
mod error;
mod picture;
mod plan;
mod rate_limit;
mod reading;
mod report;
mod response;
mod run;
mod scratch;
mod session;
mod shared;
mod sockets;
mod spec;
mod stream;
mod tally;
mod target;
mod tls;
mod watch;

pub use error::LoadError;
pub use plan::{
    ByteSpan, CLIENTS_MAX, Class, DURATION_MAX, Group, Hello, Plan, Reading, Verify, Watch,
};
pub use report::{Cpu, Fault, GroupReport, Peaks, Quantiles, Report, ServerReport};
pub use run::{Progress, run, run_with};
pub use sockets::SocketMemory;
pub use tally::FaultKind;
pub use tls::{Tls, TlsVersion, Trust};
pub use watch::Sample;
