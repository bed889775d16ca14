//! Why a look-up failed. What a client is answered then is decided in [`connection`](crate::connection).

/// Why an object or a file can't be served. Paths and stores stay in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No store has a share of it.
    #[error("no such object")]
    NotFound,
    /// Stores have shares of it, but fewer good ones than it takes.
    #[error("fewer good shares are left than it takes")]
    TooFewShares,
    /// Stores that are away may have it, or the shares that it lacks.
    #[error("stores are away that may have it, or its missing shares")]
    StoresAway,
    /// A Tahoe-LAFS file whose encoding this server does not accept.
    #[error("its encoding is not accepted")]
    EncodingRefused,
    /// One leaf of each share does not fit a pool buffer.
    #[error(
        "a pool buffer is too small for one leaf of each share: --pool-buffer-size needs {needed_bytes} bytes"
    )]
    BufferTooSmall {
        /// Bytes of the pool buffer that it takes.
        needed_bytes: usize,
    },
    /// The code can't be constructed.
    #[error("its code can't be used")]
    CodeUnusable,
    /// The memory that decoding a wide code may take is not to be had.
    #[error("no memory is left for its code")]
    NoMemoryForCode,
    /// Decoding it takes more memory than this server will ever have for that.
    #[error("its code takes more memory than this server has for codes")]
    TooWideForMemory,
    /// It has more share files than may be open.
    #[error("it has more share files than may be open: --share-files needs {needed}")]
    TooManyFiles {
        /// What it takes.
        needed: usize,
    },
    /// As many share files as may be open are being read.
    #[error("as many share files as may be open are being read")]
    NoOpenFiles,
    /// Another put took its place while its files were closed, since its client waited.
    #[error("another put has taken its place")]
    Replaced,
    /// The helper thread ended before the look-up did.
    #[error("the look-up was interrupted")]
    Interrupted,
}
