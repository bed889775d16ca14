//! A load generator for HTTP/1.1 servers: tens of thousands of fast, slow, stalled and aborting
//! clients in one process, and a watch on what the server pays for them in memory and CPU.
//!
//! A [`Plan`] names the target and its [`Group`]s of clients; [`run`] plays it and returns a
//! [`Report`]. Any server will do; nothing here knows Penstock. What the server costs is seen from
//! outside only: `/proc` for the process, `sock_diag` for the kernel memory of its sockets, so the
//! server's own counters cannot flatter it. Starting that server, and judging what a run found, are
//! left to the caller; `penstock-load` is a command line around [`run_with`].
//!
//! The way of one client: `connect` opens, `client` asks, `reading` takes the answer at its class's
//! pace, `response` takes it apart, `check` compares the bytes, `tally` counts. Clients are tasks on
//! one or two event loops; they share one read buffer per thread, so a stalled client costs its
//! socket and about a KiB.
//!
//! Every run ends by itself: a plan has a duration, and everything still open then is dropped. The
//! target must be this machine unless the plan says otherwise. Choices (ranges, cut points) come from
//! the plan's seed, each client having its own sequence, so they do not depend on scheduling.
//!
//! The clients are a closed loop: each waits for its answer before it asks again. Latencies are
//! those such clients see; they say nothing about a fixed arrival rate.

mod check;
mod client;
mod connect;
mod error;
mod pace;
mod picture;
mod plan;
mod reading;
mod report;
mod response;
mod run;
mod shared;
mod sockets;
mod spec;
mod tally;
mod target;
mod watch;

pub use error::LoadError;
pub use plan::{ByteSpan, CLIENTS_MAX, Class, DURATION_MAX, Group, Plan, Reading, Verify, Watch};
pub use report::{Cpu, Fault, GroupReport, Peaks, Quantiles, Report, ServerReport};
pub use run::{Progress, run, run_with};
pub use sockets::SocketMemory;
pub use tally::FaultKind;
pub use watch::Sample;
