//! Repair: rebuilds missing and damaged shares in place, of one object or of all.
//!
//! A share is rebuilt in a temporary file of its store, synced, read back, and renamed over the old
//! file. After a crash each share is either as it was or complete. Sources are verified leaf by
//! leaf, and the object's digest is checked before anything is written, so repair never spreads
//! damage. Older puts are removed only when all n shares of the newest readable put are good.
//! Shares of a newer, incomplete put are left alone, since that put may still be running.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use decode_kernel::share::{Header, Key, object_dir, share_file_name};

use crate::check::{check_leaves, missing};
use crate::error::FileError;
use crate::get::read_object;
use crate::progress::Progress;
use crate::put::remove_older;
use crate::rows::{Rows, ShareReader};
use crate::store::{self, Group, OpenError, OpenShare, Rejected, Scan, StoreError};
use crate::temp::{TempFile, allow_open_files, create_dir, remove_stale, sync_dir};
use crate::write::NewShares;

/// Bytes that k sources and the shares being rebuilt take at once, unless one row of them takes
/// more.
const WINDOW_BYTES: u64 = 16 << 20;
/// Bytes that are read at once to verify a new share.
const READ_BACK_BYTES: u64 = 1 << 20;

/// The objects to repair, and the stores.
#[derive(Clone, Debug)]
pub struct RepairOptions {
    /// All stores that may have shares. Missing shares go to these stores too: share i to the i-th
    /// if that is free. They are created if they do not exist.
    pub stores: Vec<PathBuf>,
    /// One object, or all if `None`.
    pub key: Option<Key>,
}

/// One action of a repair, or a failed one.
#[derive(Debug)]
pub enum Repaired {
    /// A share is whole again.
    Share {
        /// Which.
        number: u16,
        /// Its path now.
        path: PathBuf,
    },
    /// Shares of older puts were removed.
    Older {
        /// The number of files.
        shares: usize,
    },
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

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repaired::Share { number, path } => {
                write!(f, "rebuilt share {number}: {}", path.display())
            }
            Repaired::Older { shares } => write!(f, "removed {shares} shares of older puts"),
            Repaired::Failed { number, reason } => {
                write!(f, "FAILED to restore share {number}: {reason}")
            }
            Repaired::Unreadable { reason } => write!(f, "CANNOT be repaired: {reason}"),
        }
    }
}

/// Totals of a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Objects that needed nothing.
    pub healthy: u64,
    /// Objects that were made whole.
    pub repaired: u64,
    /// Objects that still lack shares, or cannot be read.
    pub failed: u64,
    /// Shares that were rebuilt.
    pub shares: u64,
}

impl RepairReport {
    /// Whether all objects are whole now.
    pub fn complete(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RepairReport {
            healthy,
            repaired,
            failed,
            shares,
        } = self;
        write!(
            f,
            "{healthy} healthy, {repaired} repaired, {failed} not repaired; {shares} shares rebuilt"
        )
    }
}

/// Why nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is no such object.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No store can be read.
    #[error(transparent)]
    Stores(#[from] StoreError),
}

/// Repairs one object or all. Calls `report` with each action and the object's name (the name of
/// its directory, if no share tells the key). After a failure it continues with the next object.
/// Takes at most 32 MiB of memory, or two rows if those are longer.
pub fn repair(
    options: &RepairOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&str, Repaired),
) -> Result<RepairReport, RepairError> {
    let stores = without_duplicates(&options.stores);
    allow_open_files(stores.len() * 2);
    store::check_stores(&stores)?;
    stores.iter().for_each(|store| {
        remove_stale(store);
    });
    let mut sum = RepairReport::default();
    match &options.key {
        Some(key) => {
            let scan = store::scan(&stores, key);
            if !repair_object(scan, key.as_str(), &stores, progress, &mut sum, report) {
                return Err(store::choose(&stores, key, false)
                    .map(drop)
                    .expect_err("nothing there")
                    .into());
            }
        }
        None => {
            for dir in store::object_dirs(&stores) {
                let scan = store::scan_dir(&stores, &dir, None);
                repair_object(scan, &dir, &stores, progress, &mut sum, report);
            }
        }
    }
    Ok(sum)
}

/// Removes stores that are the same directory as an earlier one. Otherwise a share "missing" under
/// the second name would replace the share under the first.
fn without_duplicates(stores: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let new = |store: &&PathBuf| match fs::metadata(store) {
        Ok(found) => seen.insert((found.dev(), found.ino())),
        Err(_) => true,
    };
    stores.iter().filter(new).cloned().collect()
}

/// Repairs the object that `scan` found. Returns whether there was any file.
fn repair_object(
    mut scan: Scan,
    name: &str,
    stores: &[PathBuf],
    progress: &Progress,
    sum: &mut RepairReport,
    report: &mut dyn FnMut(&str, Repaired),
) -> bool {
    scan.forget_stores_away();
    if scan.groups.is_empty() && scan.rejected.is_empty() {
        return false;
    }
    let key = scan.groups.first().map(|group| group.header.key.clone());
    let name = key.as_ref().map_or(name, Key::as_str);
    let mut done = Done {
        shares: 0,
        failed: false,
        older: 0,
    };
    let mut report = |event: Repaired| {
        match &event {
            Repaired::Share { .. } => done.shares += 1,
            Repaired::Older { shares } => done.older += shares,
            Repaired::Failed { .. } | Repaired::Unreadable { .. } => done.failed = true,
        }
        progress.suspend(|| report(name, event));
    };
    match scan.chosen(false) {
        Some(chosen) => {
            let group = scan.groups.swap_remove(chosen);
            if let Err(reason) = repair_group(group, stores, progress, &mut report) {
                report(Repaired::Unreadable { reason });
            }
        }
        None => {
            let notes: Vec<_> = scan.rejected.iter().map(Rejected::to_string).collect();
            let have = match scan.groups.first() {
                Some(group) => {
                    format!(
                        "{} shares are left, {} are needed",
                        group.distinct(),
                        group.header.geometry.k()
                    )
                }
                None => "no share can be used".to_owned(),
            };
            report(Repaired::Unreadable {
                reason: [vec![have], notes].concat().join("; "),
            });
        }
    }
    match done {
        Done { failed: true, .. } => sum.failed += 1,
        Done {
            shares: 0,
            older: 0,
            ..
        } => sum.healthy += 1,
        _ => sum.repaired += 1,
    }
    sum.shares += done.shares;
    true
}

/// The outcome of the repair of one object.
struct Done {
    shares: u64,
    failed: bool,
    older: usize,
}

/// A share to rebuild, and its place.
struct Target {
    number: u16,
    store: usize,
    path: PathBuf,
}

/// Makes all shares of the group good. Fails if the group cannot be read, and then nothing was
/// written.
fn repair_group(
    group: Group,
    stores: &[PathBuf],
    progress: &Progress,
    report: &mut dyn FnMut(Repaired),
) -> Result<(), String> {
    let header = group.header.clone();
    let geometry = header.geometry;
    progress.add_len(geometry.share_bytes() * group.shares.len() as u64);
    let mut rows = Rows::new(group).map_err(|error| error.to_string())?;
    let checked = check_leaves(&mut rows, progress, &mut |_| {});
    let missing = missing(
        rows.readers.iter().map(|reader| reader.share.number),
        &header,
    );
    let mut whole = true;
    if !missing.is_empty() || !checked.damaged.is_empty() {
        progress.add_len(geometry.size());
        read_object(&mut rows, &mut io::sink(), progress).map_err(|error| error.to_string())?;
        let targets = targets(
            &rows,
            stores,
            &missing,
            &checked.damaged,
            &mut |number, reason| {
                whole = false;
                report(Repaired::Failed { number, reason });
            },
        );
        progress.add_len(geometry.share_bytes() * targets.len() as u64);
        for (number, placed) in rebuild(&mut rows, stores, targets, progress) {
            match placed {
                Ok(path) => report(Repaired::Share { number, path }),
                Err(error) => {
                    whole = false;
                    report(Repaired::Failed {
                        number,
                        reason: error.to_string(),
                    });
                }
            }
        }
    }
    if whole {
        let shares = remove_older(stores, &header.key, &header.generation);
        if shares > 0 {
            report(Repaired::Older { shares });
        }
    }
    Ok(())
}

/// The place of each missing or damaged share. A damaged share stays where it is. A missing share
/// goes to the store at its number if that store has no share of this put, else to the first store
/// that has none.
fn targets(
    rows: &Rows,
    stores: &[PathBuf],
    missing: &[u16],
    damaged: &BTreeSet<u16>,
    failed: &mut dyn FnMut(u16, String),
) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut taken = BTreeSet::new();
    let mut last = None;
    for OpenShare {
        number,
        store,
        path,
        ..
    } in rows.readers.iter().map(|reader| &reader.share)
    {
        // The first file of each number counts. A store that only has a second copy is free: the
        // missing share will have the same file name and replaces the copy.
        if last.replace(*number) != Some(*number) {
            taken.insert(*store);
            if damaged.contains(number) {
                targets.push(Target {
                    number: *number,
                    store: *store,
                    path: path.clone(),
                });
            }
        }
    }
    for &number in missing {
        let own = Some(usize::from(number)).filter(|own| *own < stores.len());
        let mut places = own.into_iter().chain(0..stores.len());
        let Some(store) = places.find(|place| !taken.contains(place)) else {
            let reason =
                "every store given has a share of this object already; give one more --store";
            failed(number, reason.to_owned());
            continue;
        };
        taken.insert(store);
        let dir = store::objects_dir(&stores[store]).join(object_dir(&rows.header.key));
        let path = dir.join(share_file_name(&rows.header.generation));
        targets.push(Target {
            number,
            store,
            path,
        });
    }
    targets
}

/// Rebuilds all targets in one pass over the sources. A failing store costs only its own share.
fn rebuild(
    rows: &mut Rows,
    stores: &[PathBuf],
    targets: Vec<Target>,
    progress: &Progress,
) -> Vec<(u16, Result<PathBuf, String>)> {
    let header = rows.header.clone();
    let Header {
        geometry,
        generation,
        leaf_checksum,
        ..
    } = header;
    let leaf_bytes = geometry.leaf_bytes();
    let Some(first) = targets.first() else {
        return Vec::new();
    };
    let spool = &stores[first.store];
    let mut shares = NewShares::new(spool, targets.len(), generation, leaf_checksum, leaf_bytes);
    let mut results = Vec::new();
    let mut going = Vec::new();
    for target in targets {
        match shares.add(&stores[target.store], target.number) {
            Ok(()) => going.push(target),
            Err(error) => results.push((target.number, Err(error.to_string()))),
        }
    }
    let mut errors: Vec<Option<String>> = vec![None; going.len()];
    let wanted: Vec<u16> = going.iter().map(|target| target.number).collect();
    let row_bytes = u64::from(leaf_bytes) * (u64::from(geometry.k()) + wanted.len() as u64);
    let window = (WINDOW_BYTES / row_bytes).max(1) * u64::from(leaf_bytes);
    let mut buffers = vec![vec![0; window.min(geometry.share_bytes()) as usize]; wanted.len()];
    for start in (0..geometry.share_bytes()).step_by(window as usize) {
        let len = window.min(geometry.share_bytes() - start);
        let mut outputs: Vec<&mut [u8]> = buffers
            .iter_mut()
            .map(|buffer| &mut buffer[..len as usize])
            .collect();
        if let Err(error) = rows.read(start..start + len, &wanted, &mut outputs) {
            // The same leaves were read successfully a moment ago, so the disks are failing now.
            errors.fill(Some(error.to_string()));
            break;
        }
        for (index, (output, error)) in outputs.iter().zip(&mut errors).enumerate() {
            if error.is_none() {
                *error = shares
                    .append(index, &[output])
                    .err()
                    .map(|error| error.to_string());
            }
        }
        progress.add(len * wanted.len() as u64);
    }
    for (index, error) in errors
        .iter_mut()
        .enumerate()
        .filter(|(_, error)| error.is_none())
    {
        *error = shares
            .finish(index, &header)
            .err()
            .map(|error| error.to_string());
    }
    for (((number, temp), target), error) in shares.into_files().zip(going).zip(errors) {
        let placed = match error {
            Some(error) => Err(error),
            None => place(temp, &target, &header).map(|()| target.path),
        };
        results.push((number, placed));
    }
    results
}

/// Reads a new share back, then renames it into place.
fn place(temp: TempFile, target: &Target, header: &Header) -> Result<(), String> {
    // The read back should come from the disk and not from the page cache, where the system follows
    // the advice.
    let _ = rustix::fs::fadvise(temp.file(), 0, None, rustix::fs::Advice::DontNeed);
    read_back(&temp, target, header)
        .map_err(|what| format!("{}: {what} reads back differently", temp.path().display()))?;
    let dir = target.path.parent().unwrap_or(Path::new("/"));
    let placed = || {
        create_dir(dir)?;
        temp.rename(&target.path)?;
        sync_dir(dir)
    };
    placed().map_err(|error: FileError| error.to_string())
}

/// Verifies every part of a share that was just written. An error names the bad part.
fn read_back(temp: &TempFile, target: &Target, header: &Header) -> Result<(), String> {
    let number = target.number;
    let (found, file) = store::open_share(temp.path()).map_err(|error| error.to_string())?;
    if found.number != number || !found.same_object(header) {
        return Err("the header".to_owned());
    }
    let share = OpenShare {
        number,
        store: target.store,
        path: temp.path().to_owned(),
        file,
    };
    let mut reader = ShareReader::new(share, header);
    let geometry = header.geometry;
    let leaf_bytes = u64::from(geometry.leaf_bytes());
    let window = (READ_BACK_BYTES / leaf_bytes).max(1) * leaf_bytes;
    let mut buffer = vec![0; window as usize];
    let mut good = vec![false; (window / leaf_bytes) as usize];
    for start in (0..geometry.share_bytes()).step_by(window as usize) {
        let len = window.min(geometry.share_bytes() - start) as usize;
        if reader.read(header, start, &mut buffer[..len], &mut good) > 0 {
            return Err(format!("a leaf after byte {start} of the blocks"));
        }
    }
    Ok(())
}
