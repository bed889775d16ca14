//! Why a piece can't be produced. What a client is answered then is decided in [`connection`](crate::connection).

use std::ops::Range;

use decode_kernel::CodeError;

use crate::units::ObjectOffset;

/// Why a piece can't be produced.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// Too few usable shares. `range` is the smallest part of the object that was tried.
    #[error("bytes {}..{}: {have} usable shares, {need} are needed", range.start, range.end)]
    TooFewShares {
        /// Usable shares for the range.
        have: usize,
        /// k.
        need: usize,
        /// Bytes of the object.
        range: Range<ObjectOffset>,
    },
    /// The same, and stores are suspended that have more of them.
    #[error("{away} stores are away: {cause}")]
    StoresAway {
        /// Stores of the object that are away.
        away: usize,
        /// What is missing.
        cause: Box<PieceError>,
    },
    /// The same, and remote stores have more of them, which was not fetched yet.
    #[error("not fetched: {cause}")]
    NotFetched {
        /// What is missing.
        cause: Box<PieceError>,
    },
    /// Reads that hang have all pool buffers, and the reserve.
    #[error("reads that hang have all pool buffers")]
    NoBuffers,
    /// Shares kept failing in new ways. The bound keeps a hostile disk from holding the connection.
    #[error("gave up after {attempts} attempts to read good shares")]
    TooManyAttempts {
        /// How often it was tried.
        attempts: usize,
    },
    /// Too few good blocks of a segment of a Tahoe-LAFS file.
    #[error("segment {segment}: {have} shares have a good block, {need} are needed")]
    TooFewBlocks {
        /// The segment's number.
        segment: u64,
        /// Good ones, as far as is known.
        have: usize,
        /// k.
        need: usize,
    },
    /// The blocks of a Tahoe-LAFS segment are good, but what they decode to is not: the uploader made them of different
    /// codewords, or every copy of the ciphertext hash tree is damaged.
    #[error("segment {segment}: the ciphertext is not what the cap stands for")]
    WrongCiphertext {
        /// The segment's number.
        segment: u64,
    },
    /// The operator's pool buffers are too small for even one leaf of each share that takes part.
    #[error(
        "one leaf of each of k shares takes {need} bytes, a pool buffer has {have}: raise --pool-buffer-size"
    )]
    BufferTooSmall {
        /// Bytes of a pool buffer that pieces may use.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A mistake of this program: the code refused what a plan asked of it.
    #[error("this is a bug: {0}")]
    Code(#[from] CodeError),
    /// A mistake of this program: a plan is not what the object allows.
    #[error("this is a bug: {0}")]
    Bug(&'static str),
    /// The server is stopping: the thread that read is gone.
    #[error("reading was interrupted")]
    Interrupted,
}

impl PieceError {
    /// What is wrong if nothing more can be fetched.
    pub fn into_cause(self) -> PieceError {
        match self {
            PieceError::NotFetched { cause } => *cause,
            error => error,
        }
    }
}
