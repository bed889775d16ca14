//! Why share files and nodes are not used.

use std::io;
use std::path::PathBuf;

use decode_kernel::tahoe::{ChainError, ContainerError, LayoutError, UebError};
use serde::Serialize;

use crate::json;

/// A share file or node that could not be used, and why.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// Index of the node in the list of nodes.
    pub node: usize,
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
    /// Not the container of an immutable share.
    #[error("{0}")]
    Container(#[from] ContainerError),
    /// Its offset table cannot be used.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// It belongs to another file, or is damaged.
    #[error("{0}")]
    Ueb(#[from] UebError),
    /// It has another number than its name says, or is damaged.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// A good copy of a share; the limit of open files is reached.
    #[error("not opened: {files_max} files of this file's shares are open already")]
    TooMany {
        /// The limit.
        files_max: usize,
    },
}
