//! Files and stores that are not used, and why.

use std::io;
use std::path::PathBuf;

use decode_kernel::share::{HeaderError, Key};
use rustix::io::Errno;
use serde::Serialize;

use crate::json;

/// A share file or a store that could not be used, and why.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// Index of the store in the list of stores.
    pub store: usize,
    /// The file, or the directory that could not be listed.
    #[serde(serialize_with = "json::path")]
    pub path: PathBuf,
    /// The problem.
    #[serde(serialize_with = "json::text")]
    pub reason: RejectReason,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Why a file or store was not used.
#[derive(Debug, thiserror::Error)]
pub enum RejectReason {
    /// It could not be opened, listed or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The store is away: its directory does not exist or is not a store, as a disk that is not mounted; or whoever
    /// looked gave it up.
    #[error("{0}")]
    Away(String),
    /// A directory or special file with the name of a share.
    #[error("not a regular file")]
    NotAFile,
    /// Its header is invalid.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// Too short or too long for its header.
    #[error("the file is {len} bytes long; its header says {expected}")]
    Length {
        /// Bytes.
        len: u64,
        /// Bytes.
        expected: u64,
    },
    /// A share of some other object.
    #[error("a share of another object, {0:?}")]
    OtherObject(Key),
}

impl RejectReason {
    /// Whether this process or the system has too many files open: that says nothing about the file.
    pub(super) fn is_descriptor_shortage(&self) -> bool {
        let shortage = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        matches!(self, RejectReason::Io(error) if shortage.contains(&error.raw_os_error()))
    }
}
