//! The work, the same for every way: each connection is sent the file over and over, piece by piece. A piece is read
//! into a buffer of a small pool and sent whole; then the buffer goes to the next connection in line.

use std::fs::File;
use std::net::TcpStream;

use clap::ValueEnum;

/// Buffers of the pool, which is also the number of pieces in progress.
pub(super) const POOL: usize = 64;
/// Entries of a ring's submission queue, for both that have one.
pub(super) const RING_ENTRIES: u32 = 512;

/// What drives the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Way {
    /// One tokio-uring task per connection, the ring set up as the server's: COOP_TASKRUN and SINGLE_ISSUER.
    TokioUring,
    /// The same, with a ring without flags.
    TokioPlain,
    /// The same with COOP_TASKRUN alone.
    TokioCoop,
    /// The same with COOP_TASKRUN, TASKRUN_FLAG and SINGLE_ISSUER.
    TokioFlag,
    /// A loop on the io-uring crate, written for this work: with DEFER_TASKRUN and SINGLE_ISSUER.
    Raw,
    /// The same loop, the ring set up as tokio-uring's.
    RawCoop,
    /// A loop on epoll, `pread` and `send`.
    Epoll,
}

impl Way {
    /// The ways compared by default.
    pub(super) const USUAL: [Way; 3] = [Way::TokioUring, Way::Raw, Way::Epoll];

    pub(super) fn name(self) -> &'static str {
        match self {
            Way::TokioUring => "tokio-uring",
            Way::TokioPlain => "tokio-uring, no flags",
            Way::TokioCoop => "tokio-uring, COOP",
            Way::TokioFlag => "tokio-uring, COOP|FLAG|SINGLE",
            Way::Raw => "raw io-uring",
            Way::RawCoop => "raw io-uring, COOP|SINGLE",
            Way::Epoll => "epoll",
        }
    }
}

/// The task of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) piece: usize,
    pub(super) connections: usize,
}

impl Work {
    /// `SO_SNDBUF` as set: the most that the server lends a low-latency client, or its starting size where there are
    /// many clients.
    pub(super) fn send_buffer(self) -> usize {
        match self.connections {
            0..1000 => 128 << 10,
            _ => 16 << 10,
        }
    }

    /// The start position of connection `number` in a file of `size` bytes.
    pub(super) fn start(self, number: usize, size: u64) -> u64 {
        (number * self.piece) as u64 % size
    }
}

/// The file and how to send it.
pub(super) struct Job {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) piece: usize,
}

/// A client's socket, and its position in the file.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) position: u64,
}
