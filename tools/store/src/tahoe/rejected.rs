//! Why share files and nodes are not used.

use std::io;
use std::path::PathBuf;

use decode_kernel::tahoe::{ChainError, ContainerError, LayoutError, UebError};

/// A share file or node that could not be used, and why.
#[derive(Debug)]
pub struct Rejected {
    /// Index of the node in the list given.
    pub node: usize,
    /// The file, or the directory that could not be listed.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: RejectReason,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Why a share file or a node is not used.
#[derive(Debug, thiserror::Error)]
pub enum RejectReason {
    /// It could not be opened, listed or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The node's directory does not exist: a lost or unmounted disk.
    #[error("the node's directory is missing")]
    NodeMissing,
    /// A directory or special file with the name of a share.
    #[error("not a regular file")]
    NotAFile,
    /// No container of an immutable share.
    #[error("{0}")]
    Container(#[from] ContainerError),
    /// Its offset table cannot be used.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// Not of this file, or damaged.
    #[error("{0}")]
    Ueb(#[from] UebError),
    /// Not of this number, or damaged.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// A good copy of a share, but enough files are open.
    #[error("not opened: {files_max} files of this file's shares are open already")]
    TooMany {
        /// The limit.
        files_max: usize,
    },
}
