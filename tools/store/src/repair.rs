//! Repair: rebuild missing and damaged shares in place, one object or all.
//!
//! A share is rebuilt in a temporary file of the store it goes to, synced, read back, and renamed
//! over what was there. A crash leaves each share as it was or whole. Sources are verified leaf by
//! leaf, and the object's digest is checked before anything is written, so that repair never
//! spreads damage. Older puts are removed only when all n shares of the newest readable one are
//! good; shares of a newer, incomplete put are left alone, for they may be those of a put at work.

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
use crate::store::{self, Group, OpenError, OpenShare, RejectReason, Rejected, Scan};
use crate::temp::{TempFile, allow_open_files, create_dir, remove_stale, sync_dir};
use crate::write::NewShares;

/// What k sources and the shares being rebuilt take at once, in bytes, unless a row of them takes
/// more.
const WINDOW_BYTES: u64 = 16 << 20;
/// Read at once to verify what was written.
const READ_BACK_BYTES: u64 = 1 << 20;

/// What to repair.
#[derive(Clone, Debug)]
pub struct RepairOptions {
    /// All stores that may have shares, and where missing ones may go: share i to the i-th if that
    /// is free. Made if need be.
    pub stores: Vec<PathBuf>,
    /// One object, or all if `None`.
    pub key: Option<Key>,
}

/// Something done, or that could not be.
#[derive(Debug)]
pub enum Repaired {
    /// A share is whole again.
    Share {
        /// Which.
        number: u16,
        /// Where it is now.
        path: PathBuf,
    },
    /// Shares of older puts were removed.
    Older {
        /// How many files.
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

/// The sum of it.
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
    Stores(#[from] io::Error),
}

/// Repairs the object or objects; calls `report` with each thing done, and the object's name (its
/// directory's, if no share tells the key). Goes on with the next object after a failure. Memory
/// stays bounded: 32 MiB, or two rows if that is more.
pub fn repair(
    options: &RepairOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&str, Repaired),
) -> Result<RepairReport, RepairError> {
    let stores = different(&options.stores);
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
                return Err(store::choose(&stores, key)
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

/// The stores without those that are the same directory as an earlier one: a share "missing" from
/// the second name would replace the one under the first.
fn different(stores: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let new = |store: &&PathBuf| match fs::metadata(store) {
        Ok(found) => seen.insert((found.dev(), found.ino())),
        Err(_) => true,
    };
    stores.iter().filter(new).cloned().collect()
}

/// Repairs what `scan` found; whether it found any file.
fn repair_object(
    mut scan: Scan,
    name: &str,
    stores: &[PathBuf],
    progress: &Progress,
    sum: &mut RepairReport,
    report: &mut dyn FnMut(&str, Repaired),
) -> bool {
    scan.rejected
        .retain(|rejected| !matches!(rejected.reason, RejectReason::StoreMissing));
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
    match scan.chosen() {
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

/// What was reported of one object.
struct Done {
    shares: u64,
    failed: bool,
    older: usize,
}

/// A share to be rebuilt, and where to.
struct Target {
    number: u16,
    store: usize,
    path: PathBuf,
}

/// Makes all shares of the group good; an error if it cannot be read, in which case nothing was
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

/// Where each share that is missing or damaged is to go: a damaged one stays where it is; a missing
/// one goes to the store at its number if that has no share of this put, else to the first that has
/// none.
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
        // The first file of a number is the one that counts. A store with only a second copy is
        // free: the copy has the name that the missing share will have, and gives way to it.
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

/// Rebuilds all targets in one pass over the sources. A store that fails costs its own share only.
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
            // Read well a moment ago, so the disks are failing now.
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

/// Reads a new share back and renames it over its place.
fn place(temp: TempFile, target: &Target, header: &Header) -> Result<(), String> {
    // From the disk, not from memory, where the system takes the advice.
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

/// Verifies all of a share that was just written; an error names the part.
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
