//! Why a put failed.

use std::io;

use decode_kernel::CodeError;
use decode_kernel::share::{Generation, GeometryError, HeaderError, Key};

use super::options::SEGMENT_BYTES_MAX;
use crate::error::{FileError, list};
use crate::store::{OpenError, StoreError};

/// Why nothing was stored. The object is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Fewer stores than shares.
    #[error(
        "{need} shares need {need} stores, each its own, and {} can be written{}{}",
        match have { 0 => "none".to_owned(), 1 => "only one".to_owned(), have => format!("only {have}") },
        list(reasons),
        if *have > usize::from(*data) { "; --min-shares writes fewer now, and a repair adds the others" } else { "" }
    )]
    TooFewStores {
        /// Shares that must be written.
        need: u16,
        /// Stores that can be written.
        have: usize,
        /// k.
        data: u16,
        /// Why the others can't be.
        reasons: Vec<String>,
    },
    /// A number of shares that makes no sense as the least.
    #[error("--min-shares {least}: it must be between {} (one more than the data shares) and {n}", data + 1)]
    MinShares {
        /// What was asked for.
        least: u16,
        /// k.
        data: u16,
        /// n.
        n: u16,
    },
    /// The object is there already.
    #[error("{key:?} is there already, and is left as it is")]
    Exists {
        /// Its name.
        key: Key,
    },
    /// Stores that can't be used together.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// The numbers make no valid layout.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A segment of k blocks is too long.
    #[error(
        "a segment of {k} blocks of {block_size} bytes is over {SEGMENT_BYTES_MAX} bytes; choose a \
         smaller block size"
    )]
    Segment {
        /// k.
        k: u16,
        /// Bytes.
        block_size: u32,
    },
    /// The numbers make no valid code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A content type that cannot be stored.
    #[error(transparent)]
    ContentType(#[from] HeaderError),
    /// A content type or a header field that is not written as HTTP wants it.
    #[error("{what} {text:?} is not written as HTTP wants it; for example: {example}")]
    Syntax {
        /// The field.
        what: String,
        /// Its value.
        text: String,
        /// A right one.
        example: &'static str,
    },
    /// The source failed.
    #[error("cannot read what is to be put: {0}")]
    Source(io::Error),
    /// The newest share of the object has the last generation there is, so no newer put can be made.
    #[error(
        "the generation {0} of the object's newest share leaves no room for a newer one; remove \
         that share"
    )]
    Generation(Generation),
    /// The system gives no random bytes.
    #[error("cannot get random bytes: {0}")]
    Random(getrandom::Error),
    /// A store failed at the end, so that too few shares could be placed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Whether the object exists can't be known.
    #[error(transparent)]
    Open(#[from] OpenError),
}
