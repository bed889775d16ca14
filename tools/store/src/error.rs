//! The error that every operation on files shares.

use std::io;
use std::path::{Path, PathBuf};

/// An I/O error, with the operation that failed and the file it failed on. The message includes the
/// system's message. So the I/O error is not the `source` as well: a printed chain of errors would
/// repeat it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}", path.display())]
pub struct FileError {
    /// The operation: "write", "rename", …
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    pub cause: io::Error,
}

/// Adds the operation and the path to an I/O error.
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

/// Things that a message names at its end: a wide object on lost disks has hundreds.
const NAMED_MAX: usize = 5;

/// Formats things for the end of a message: "; a; b; and 5 more".
pub(crate) fn list(things: &[String]) -> String {
    let named = things.iter().take(NAMED_MAX);
    let mut text: String = named.map(|thing| format!("; {thing}")).collect();
    if things.len() > NAMED_MAX {
        text += &format!("; and {} more", things.len() - NAMED_MAX);
    }
    text
}
