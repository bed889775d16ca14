//! The calls on a store's directory, each of which may block for ever: they run on the store's threads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decode_kernel::share::Key;
use penstock_store::{self as store, Id, Look, Presence};

use super::health::Cause;
use crate::memory::limits::DIRECT_ALIGN;
use crate::remote::Origin;

/// The marker of a store: a file that is always there.
const MARKER: &str = "penstock-store.toml";

/// What was found of a store that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id, if it has a marker.
    pub id: Option<Id>,
    /// Device and inode of its directory.
    pub directory: (u64, u64),
    /// A remark for the log, if something is unusual.
    pub remark: Option<String>,
    /// Whether its file system has no server that could be gone, although it can't say so itself: one in memory, or one
    /// of layers.
    pub is_local: bool,
    /// How long reading took.
    pub took: Duration,
}

/// The calls on a store's directory. Tests have others.
pub trait Disk: Send + Sync {
    /// Looks for an object.
    fn look(&self, store: usize, root: &Path, key: &Key) -> Look {
        store::look(store, root, key)
    }

    /// Asks whether what it has of an object changed.
    ///
    /// # Errors
    /// If it can't tell.
    fn fingerprint(&self, root: &Path, key: &Key) -> io::Result<u64> {
        store::fingerprint(root, key)
    }

    /// Looks whether the store is there, and reads something from the disk itself.
    ///
    /// # Errors
    /// Why it can't serve.
    fn probe(&self, root: &Path, is_node: bool) -> Result<Found, (Cause, String)> {
        probe(root, is_node)
    }

    /// Bytes that its file system has free, and has in all.
    fn space(&self, root: &Path) -> Option<(u64, u64)> {
        let found = rustix::fs::statvfs(root).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some((bytes(found.f_bavail), bytes(found.f_blocks)))
    }

    /// The remote store that this is, if it is one.
    fn origin(&self) -> Option<&Arc<Origin>> {
        None
    }
}

/// What a server asks.
pub(super) struct Directory;

impl Disk for Directory {}

/// See [`Disk::probe`].
pub(super) fn probe(root: &Path, is_node: bool) -> Result<Found, (Cause, String)> {
    let failed = |error: io::Error| {
        let cause = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Cause::Missing,
            _ => Cause::Failing,
        };
        (cause, error.to_string())
    };
    let mut found = Found {
        id: None,
        directory: (0, 0),
        remark: None,
        is_local: is_local(root),
        took: Duration::ZERO,
    };
    let mut file = None;
    if !is_node {
        match store::presence(&root.into()) {
            Presence::Marked(marker) => {
                found.id = Some(marker.store);
                file = Some(root.join(MARKER));
            }
            Presence::Unmarked(error) => found.remark = Some(error.to_string()),
            Presence::Absent(error) => return Err((Cause::Missing, error.to_string())),
        }
    }
    let metadata = fs::metadata(root).map_err(failed)?;
    found.directory = (metadata.dev(), metadata.ino());
    let start = Instant::now();
    match file {
        Some(path) => read_from_disk(&path).map_err(failed)?,
        None => fs::read_dir(root)
            .and_then(|mut entries| entries.next().transpose())
            .map(drop)
            .map_err(failed)?,
    }
    found.took = start.elapsed();
    Ok(found)
}

pub(super) fn is_local(root: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const OVERLAYFS: u64 = 0x794c_7630;
    // The kernel's constants have 32 bits, whatever the type is here.
    let kind = rustix::fs::statfs(root).map(|found| found.f_type as u64 & 0xffff_ffff);
    kind.is_ok_and(|kind| [TMPFS, RAMFS, OVERLAYFS].contains(&kind))
}

/// Reads the start of a file past the page cache, which would answer for a disk that is gone. Where there are no direct
/// reads it is read as it can be.
fn read_from_disk(path: &PathBuf) -> io::Result<()> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let mut buffer = vec![0; 2 * DIRECT_ALIGN];
    let start = buffer.as_ptr().align_offset(DIRECT_ALIGN);
    let mut read = |file: io::Result<File>| {
        let aligned = buffer.get_mut(start..start + DIRECT_ALIGN);
        file?.read(aligned.unwrap_or_default()).map(drop)
    };
    match read(direct) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => read(File::open(path)),
        result => result,
    }
}
