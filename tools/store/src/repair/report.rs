//! What a repair did: each action as it happens, and the totals.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::count::Count;
use crate::json;
use crate::store::{PassedOver, Rejected};

/// One action of a repair, or a failed one.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Repaired {
    /// A share is whole again.
    Share {
        /// Which.
        number: u16,
        /// Its path now.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
    },
    /// Shares of older puts were removed.
    Older {
        /// The number of files.
        shares: usize,
    },
    /// An interrupted put was completed: it had been decided.
    Settled {
        /// The number of shares that got their final names.
        shares: usize,
    },
    /// An interrupted put was removed: it had not been decided.
    Undecided {
        /// The number of files.
        shares: usize,
    },
    /// Files of a removed object were removed.
    Removed {
        /// The number of files.
        files: usize,
    },
    /// An object that had expired was removed.
    Expired {
        /// The number of files.
        files: usize,
    },
    /// A store can't be written.
    PassedOver(PassedOver),
    /// A directory can't be listed. Objects in it may not have been seen.
    Unlisted(Rejected),
    /// A share could not be put in place.
    Failed {
        /// Which.
        number: u16,
        /// Why.
        reason: String,
    },
    /// The object cannot be repaired.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl Repaired {
    /// Whether it is something that did not go as it should.
    pub fn is_trouble(&self) -> bool {
        match self {
            Repaired::PassedOver(_)
            | Repaired::Unlisted(_)
            | Repaired::Failed { .. }
            | Repaired::Unreadable { .. } => true,
            Repaired::Share { .. }
            | Repaired::Older { .. }
            | Repaired::Settled { .. }
            | Repaired::Undecided { .. }
            | Repaired::Removed { .. }
            | Repaired::Expired { .. } => false,
        }
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repaired::Share { number, path } => {
                write!(f, "rebuilt share {number}: {}", path.display())
            }
            Repaired::Older { shares } => {
                write!(f, "removed {} of older puts", Count(*shares, "share"))
            }
            Repaired::Settled { shares } => {
                write!(
                    f,
                    "completed an interrupted put: {}",
                    Count(*shares, "share")
                )
            }
            Repaired::Undecided { shares } => {
                write!(
                    f,
                    "removed {} of an interrupted put",
                    Count(*shares, "share")
                )
            }
            Repaired::Removed { files } => {
                write!(f, "removed {} of a removed object", Count(*files, "file"))
            }
            Repaired::Expired { files } => {
                write!(f, "removed an expired object: {}", Count(*files, "file"))
            }
            Repaired::PassedOver(store) => write!(f, "a store is passed over: {store}"),
            Repaired::Unlisted(directory) => write!(f, "CANNOT be listed: {directory}"),
            Repaired::Failed { number, reason } => {
                write!(f, "FAILED to restore share {number}: {reason}")
            }
            Repaired::Unreadable { reason } => write!(f, "CANNOT be repaired: {reason}"),
        }
    }
}

/// Totals of a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Objects that needed nothing.
    pub healthy: u64,
    /// Objects that were made whole.
    pub repaired: u64,
    /// Objects that still lack shares, or cannot be read.
    pub failed: u64,
    /// Those among them that cannot be read.
    pub unreadable: u64,
    /// Objects that can be read and still have exactly k good shares. Those that were put without parity are among them.
    pub without_redundancy: u64,
    /// Objects that had expired and were removed.
    pub expired: u64,
    /// Leaves that were bad before.
    pub bad_leaves: u64,
    /// Shares that were rebuilt.
    pub shares: u64,
    /// Bytes of share files that were read.
    pub bytes: u64,
    /// Stores that could not be written: they are away, have no marker or are read-only.
    pub stores_passed_over: u64,
    /// Directories that can't be listed. Objects in them may not have been seen.
    pub unlisted: u64,
    /// Whether the run ended before it had visited all objects, since its time or its bytes were used up.
    pub stopped: bool,
}

impl RepairReport {
    /// Whether all objects that could be seen are whole now, and everything could be listed.
    pub fn complete(&self) -> bool {
        self.failed == 0 && self.unlisted == 0
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RepairReport {
            healthy,
            repaired,
            failed,
            expired,
            shares,
            unlisted,
            stopped,
            ..
        } = self;
        write!(
            f,
            "{healthy} healthy, {repaired} repaired, {failed} not repaired; {} rebuilt",
            Count(*shares, "share")
        )?;
        if *expired > 0 {
            write!(f, "; {} removed", Count(*expired, "expired object"))?;
        }
        if *unlisted > 0 {
            write!(f, "; {} cannot be listed", Count(*unlisted, "directory"))?;
        }
        if *stopped {
            write!(f, "; the other objects are left for the next run")?;
        }
        Ok(())
    }
}
