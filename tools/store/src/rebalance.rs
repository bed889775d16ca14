//! Rebalance: moves shares to the stores that their keys prefer now, after a store was added, grew or is to be emptied.
//!
//! A share is copied to a temporary file of its new store, synced, read back and verified, and renamed into place. Only
//! then is the old file removed, so the object can be read throughout, and a crash leaves two copies at worst: the next
//! run removes the one that is not where it belongs. Nothing else is remembered between runs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use decode_kernel::share::{Header, PAGE_BYTES, object_dir};
use serde::Serialize;

use crate::check::Subject;
use crate::count::Count;
use crate::error::{During, FileError};
use crate::json;
use crate::new_file::NewFile;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::rate::Rate;
use crate::repair::{Target, place};
use crate::store::{self, Group, Kind, OpenShare, Place, Places, Store, StoreError};
use crate::temp::allow_open_files;

/// Bytes that are copied at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The stores, and how to move.
#[derive(Clone, Debug)]
pub struct RebalanceOptions {
    /// All stores of a set.
    pub stores: Vec<Store>,
    /// Those of them that are to be emptied. Their markers say so from then on, and no put or repair writes there.
    pub drain: Vec<PathBuf>,
    /// Bytes copied per second at most; `None` is no limit.
    pub rate: Option<u64>,
    /// Whether to only count what would be moved.
    pub dry_run: bool,
}

/// What happened to one share.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Moved {
    /// It is in another store now, or would be.
    #[serde(rename = "moved")]
    Share {
        /// Its number.
        number: u16,
        /// Where it was.
        #[serde(serialize_with = "json::path")]
        from: PathBuf,
        /// Where it is.
        #[serde(serialize_with = "json::path")]
        to: PathBuf,
    },
    /// It stays where it does not belong.
    Failed {
        /// Its number.
        number: u16,
        /// Where it is.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A store is passed over.
    PassedOver(store::PassedOver),
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moved::Share { number, from, to } => {
                write!(f, "share {number}: {} to {}", from.display(), to.display())
            }
            Moved::Failed {
                number,
                path,
                reason,
            } => write!(
                f,
                "share {number} is NOT moved from {}: {reason}",
                path.display()
            ),
            Moved::PassedOver(store) => write!(f, "a store is passed over: {store}"),
        }
    }
}

/// Totals of a rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RebalanceReport {
    /// Objects seen.
    pub objects: u64,
    /// Shares moved.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Bytes of all shares.
    pub bytes: u64,
    /// Shares that stay where they don't belong.
    pub failed: u64,
}

impl fmt::Display for RebalanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = 100.0 * self.moved_bytes as f64 / self.bytes.max(1) as f64;
        write!(
            f,
            "{} moved, {} not moved; {}, {part:.1}% of all bytes; {}",
            Count(self.moved, "share"),
            self.failed,
            ByteSize(self.moved_bytes).display().iec(),
            Count(self.objects, "object")
        )
    }
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum RebalanceError {
    /// The stores can't be used together.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// A store to be emptied is not among the stores.
    #[error("--drain {}: it is not one of the stores given, or can't be written", .0.display())]
    Drain(PathBuf),
    /// A marker can't be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Moves the shares of all objects to where placement wants them. Calls `report` with each share moved and its
/// object. Goes on after a failure.
///
/// # Errors
/// If the stores can't be used.
pub fn rebalance(
    options: &RebalanceOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&Subject, Moved),
) -> Result<RebalanceReport, RebalanceError> {
    let stores = &options.stores;
    allow_open_files(stores.len() * 3);
    store::check_stores(stores)?;
    let mut places = Places::new(stores)?;
    for passed in &places.passed_over {
        report(&Subject::Stores, Moved::PassedOver(passed.clone()));
    }
    for path in &options.drain {
        let known = places.open.iter_mut().find(|place| place.store.is(path));
        let place = known.ok_or_else(|| RebalanceError::Drain(path.clone()))?;
        if options.dry_run {
            place.marker.drain = true;
        } else {
            place.set_drain(true)?;
        }
    }
    if !options.dry_run {
        for place in &places.open {
            place.store.remove_stale();
        }
    }
    let mut rate = Rate::new(options.rate);
    let mut sum = RebalanceReport::default();
    for found in store::objects(stores) {
        // What is to be moved is looked at afresh.
        let mut scan = store::scan_dir(stores, &found.dir, None);
        let Some(chosen) = scan.chosen(false) else {
            continue;
        };
        let group = scan.groups.swap_remove(chosen);
        let subject = Subject::Object(group.header.key.clone());
        sum.objects += 1;
        places.refresh();
        for step in steps(&group, &places) {
            let geometry = &group.header.geometry;
            let bytes = geometry.share_file_bytes();
            let moved = match step {
                Step::Stays => {
                    sum.bytes += bytes;
                    continue;
                }
                Step::NoPlace(share) => Err((share, "no other store has room for it".to_owned())),
                Step::Copy { share, to } => {
                    sum.bytes += bytes;
                    progress.add_len(bytes);
                    let target = target(&group.header, share.number, to);
                    let path = target.path.clone();
                    let done = match options.dry_run {
                        true => Ok(()),
                        false => copy(share, &target, &group.header, &mut rate, progress)
                            .and_then(|()| remove(&stores[share.store], share, &group.header)),
                    };
                    done.map(|()| (share, path))
                        .map_err(|reason| (share, reason))
                }
                Step::Remove { share, other } => {
                    let done = match options.dry_run {
                        true => Ok(()),
                        false => remove(&stores[share.store], share, &group.header),
                    };
                    done.map(|()| (share, other))
                        .map_err(|reason| (share, reason))
                }
            };
            let event = match moved {
                Ok((share, to)) => {
                    sum.moved += 1;
                    sum.moved_bytes += bytes;
                    Moved::Share {
                        number: share.number,
                        from: share.path.clone(),
                        to,
                    }
                }
                Err((share, reason)) => {
                    sum.failed += 1;
                    Moved::Failed {
                        number: share.number,
                        path: share.path.clone(),
                        reason,
                    }
                }
            };
            progress.suspend(|| report(&subject, event));
        }
    }
    Ok(sum)
}

/// What is to be done with a share file.
enum Step<'a> {
    /// It is where it belongs, or in a store that can't be written.
    Stays,
    /// It goes to this store.
    Copy { share: &'a OpenShare, to: &'a Place },
    /// It is where it does not belong, and a copy is where it does.
    Remove {
        share: &'a OpenShare,
        other: PathBuf,
    },
    /// There is no store that it could go to.
    NoPlace(&'a OpenShare),
}

/// What is to be done with each share file of a put.
fn steps<'a>(group: &'a Group, places: &'a Places) -> Vec<Step<'a>> {
    let header = &group.header;
    let geometry = &header.geometry;
    let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
    let held: BTreeSet<usize> = group.shares.iter().map(|share| share.store).collect();
    // A store that has a share already needs no room for one.
    let bytes = geometry.share_file_bytes();
    let wanted = places.choose_with(&header.key, n, n - k, |place| {
        held.contains(&place.index) || place.has_room(bytes)
    });
    let belongs = |share: &OpenShare| wanted.places.iter().any(|place| place.index == share.store);
    let writable = |share: &OpenShare| places.open.iter().any(|place| place.index == share.store);
    let mut free = wanted
        .places
        .iter()
        .filter(|place| !held.contains(&place.index));
    let mut steps = Vec::with_capacity(group.shares.len());
    for share in &group.shares {
        let copy = group.shares.iter().find(|other| {
            other.number == share.number && other.store != share.store && belongs(other)
        });
        steps.push(if belongs(share) || !writable(share) {
            Step::Stays
        } else if let Some(other) = copy {
            Step::Remove {
                share,
                other: other.path.clone(),
            }
        } else if let Some(to) = free.next() {
            Step::Copy { share, to }
        } else if places.is_draining(share.store) {
            Step::NoPlace(share)
        } else {
            // With shares missing, a store that has none yet is left for what a repair adds.
            Step::Stays
        });
    }
    steps
}

fn target(header: &Header, number: u16, to: &Place) -> Target {
    let (dir, generation) = (object_dir(&header.key), &header.generation);
    Target {
        number,
        path: to.store.object_file(&dir, Kind::Share, generation),
        store: to.store.clone(),
    }
}

/// Copies a share to its new place, and verifies it there.
fn copy(
    share: &OpenShare,
    target: &Target,
    header: &Header,
    rate: &mut Rate,
    progress: &Progress,
) -> Result<(), String> {
    let bytes = header.geometry.share_file_bytes();
    let mut copied = || -> Result<NewFile, FileError> {
        let mut file = NewFile::create(&target.store, target.path.clone(), bytes)?;
        let mut buffer = vec![0; WINDOW_BYTES];
        let first = PAGE_BYTES as u64;
        for start in (first..bytes).step_by(WINDOW_BYTES) {
            let len = (bytes - start).min(WINDOW_BYTES as u64);
            let part = &mut buffer[..len as usize];
            rate.take(len);
            share
                .file
                .read_exact_at(part, start)
                .during("read", &share.path)?;
            file.append(&[part])?;
            progress.add(len);
        }
        let mut page = [0; PAGE_BYTES];
        share
            .file
            .read_exact_at(&mut page, 0)
            .during("read", &share.path)?;
        file.finish(&page)?;
        Ok(file)
    };
    let file = copied().map_err(|error| error.to_string())?;
    place(file, target, header, &Pace::default())
        .map_err(|reason| format!("{reason}; if the share is damaged, `penstock repair` it first"))
}

/// Removes a share file, after its copy is durable.
fn remove(store: &Store, share: &OpenShare, header: &Header) -> Result<(), String> {
    let removed = |path: &Path| store.remove(path).during("remove", path);
    let mark = share.path.with_extension(Kind::Decided.extension());
    let is_pending = Kind::of(&share.path) == Some(Kind::Pending);
    let dir = object_dir(&header.key);
    let done = removed(&share.path)
        .and_then(|()| if is_pending { removed(&mark) } else { Ok(()) })
        // A directory that holds nothing more is no use.
        .and_then(|()| store.remove_empty(&dir));
    done.map_err(|error| error.to_string())
}
