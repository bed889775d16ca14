//! Errors of file work that every operation shares.

use std::io;
use std::path::{Path, PathBuf};

/// An I/O error with what was being done, and to which file. Its message has the system's in it, so
/// that is not its `source` too: a chain of messages would say it twice.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}", path.display())]
pub struct FileError {
    /// What was tried: "write", "rename", …
    pub action: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

/// Adds to an I/O error what was tried, and on which path.
pub(crate) trait During<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|cause| FileError {
            action,
            path: path.to_owned(),
            cause,
        })
    }
}
