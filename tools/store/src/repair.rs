//! Repair: makes objects whole, one or all, and finishes what was interrupted.
//!
//! A share is rebuilt in a temporary file of its store, synced, read back, and renamed over the old
//! file. After a crash each share is either as it was or complete. Sources are verified leaf by
//! leaf, and the object's digest is checked before anything is written, so repair never spreads
//! damage. A missing share goes to the store that the key prefers among those that have none.
//!
//! A put that was decided is completed, and one that was not is removed if its process is gone. Older puts are removed
//! only when all n shares of the newest are good. Where too few shares of the newest put are left, nothing is done: an
//! older one is never made the object.
//!
//! An object is removed once k of its shares agree that it has expired.
//!
//! A removal is completed: the tombstone goes to every store, then the files it covers are removed.

mod report;

pub use report::{RepairReport, Repaired};

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::share::{Header, Key, object_dir};

use crate::check::{Subject, check_leaves, missing};
use crate::date::now;
use crate::error::{During, FileError};
use crate::get::read_object;
use crate::new_file::{DECIDED_TEXT, NewFile};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::put::remove_older;
use crate::rm;
use crate::rows::{Rows, ShareReader};
use crate::store::{
    self, Group, Kind, OpenError, OpenFile, OpenShare, Places, Rejected, Scan, Store, StoreError,
};
use crate::temp::allow_open_files;
use crate::walk::{Step, Walk};
use crate::write::NewShares;

/// Bytes that k sources and the shares being rebuilt take at once, unless one row of them takes
/// more.
const WINDOW_BYTES: u64 = 16 << 20;
/// Bytes that are read at once to verify a new share.
const READ_BACK_BYTES: u64 = 1 << 20;

/// The objects to repair, and the stores.
#[derive(Clone, Debug)]
pub struct RepairOptions {
    /// All stores of a set.
    pub stores: Vec<Store>,
    /// One object, or all if `None`.
    pub key: Option<Key>,
    /// How fast it reads, and how a run over all objects is divided.
    pub walk: Walk,
}

/// Why nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is no such object.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stores can't be used.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// The cursor can't be read or written.
    #[error(transparent)]
    Cursor(#[from] FileError),
}

/// Repairs one object or all. Calls `report` with each action and what it is about. After a failure it continues with
/// the next object. Takes at most 32 MiB of memory, or two rows if those are longer.
///
/// # Errors
/// If the stores can't be used, if the object asked for does not exist, if too many files are open, or if the cursor
/// can't be written.
pub fn repair(
    options: &RepairOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&Subject, Repaired),
) -> Result<RepairReport, RepairError> {
    let stores = &options.stores;
    allow_open_files(stores.len() * 3);
    store::check_stores(stores)?;
    let places = Places::new(stores)?;
    for store in &places.passed_over {
        report(&Subject::Stores, Repaired::PassedOver(store.clone()));
    }
    for place in &places.open {
        place.store.remove_stale();
    }
    let mut sum = RepairReport {
        stores_passed_over: places.passed_over.len() as u64,
        ..RepairReport::default()
    };
    let pace = options.walk.pace();
    let work = Work {
        stores,
        places: &places,
        progress,
        pace: &pace,
    };
    match &options.key {
        Some(key) => {
            let scan = store::scan(stores, key);
            let name = Subject::Object(key.clone());
            if !work.repair_object(scan, name, &object_dir(key), &mut sum, report)? {
                return Err(match store::choose(stores, key, false) {
                    Err(error) => error,
                    // It was put just now.
                    Ok(_) => OpenError::NotFound {
                        key: key.clone(),
                        stores: stores.len(),
                    },
                }
                .into());
            }
        }
        None => {
            let complete = options.walk.go(stores, &pace, &mut |step| {
                match step {
                    Step::Object(found) => {
                        // What is to be changed is looked at afresh.
                        let dir = found.dir.as_str();
                        let scan = store::scan_dir(stores, dir, None);
                        let name = Subject::Directory(dir.to_owned());
                        work.repair_object(scan, name, dir, &mut sum, report)?;
                    }
                    Step::Stray(..) => {}
                    Step::Unlisted(rejected) => {
                        sum.unlisted += 1;
                        let event = Repaired::Unlisted(rejected);
                        progress.suspend(|| report(&Subject::Stores, event));
                    }
                }
                Ok::<_, RepairError>(())
            })?;
            sum.stopped = !complete;
        }
    }
    sum.bytes = pace.bytes();
    Ok(sum)
}

/// A repair under way.
struct Work<'a> {
    stores: &'a [Store],
    places: &'a Places,
    progress: &'a Progress,
    pace: &'a Pace,
}

impl Work<'_> {
    /// Repairs the object that `scan` found in `dir`. Returns whether there was any file.
    fn repair_object(
        &self,
        mut scan: Scan,
        name: Subject,
        dir: &str,
        sum: &mut RepairReport,
        report: &mut dyn FnMut(&Subject, Repaired),
    ) -> Result<bool, OpenError> {
        let name = scan.key().cloned().map_or(name, Subject::Object);
        // A share whose file could not be opened is not lost.
        if let Some(error) = scan.shortage(name.as_str()) {
            return Err(error);
        }
        scan.forget_stores_away();
        if scan.is_empty() {
            return Ok(false);
        }
        let mut done = Done::default();
        let mut report = |event: Repaired| {
            match &event {
                Repaired::Share { .. } => done.shares += 1,
                Repaired::Failed { .. } | Repaired::Unreadable { .. } => done.failed = true,
                Repaired::PassedOver(_) => {}
                _ => done.other = true,
            }
            self.progress.suspend(|| report(&name, event));
        };
        // Where there is a newer put, what is older than that is removed once it is whole.
        if let Some(tombstone) = scan.tombstone.filter(|_| scan.groups.is_empty()) {
            match rm::finish(self.places, dir, &tombstone, scan.away.is_empty()) {
                Ok(0) => {}
                Ok(files) => report(Repaired::Removed { files }),
                Err(error) => report(Repaired::Unreadable {
                    reason: error.to_string(),
                }),
            }
        }
        if scan.away.is_empty() {
            let shares = remove_abandoned(self.stores, &scan.undecided);
            if shares > 0 {
                report(Repaired::Undecided { shares });
            }
        }
        let there = !scan.groups.is_empty() || !scan.rejected.is_empty();
        match scan.chosen(false) {
            Some(chosen) if scan.groups[chosen].header.metadata.is_expired(now()) => {
                let Header {
                    key,
                    generation,
                    geometry,
                    ..
                } = &scan.groups[chosen].header;
                let needed = usize::from(geometry.n() - geometry.k()) + 1;
                match rm::sweep(self.places, key, generation, needed) {
                    Ok(removed) => {
                        sum.expired += 1;
                        report(Repaired::Expired {
                            files: removed.files,
                        });
                    }
                    Err(error) => report(Repaired::Unreadable {
                        reason: format!("it has expired, and can't be removed: {error}"),
                    }),
                }
            }
            Some(chosen) => {
                let group = scan.groups.swap_remove(chosen);
                let k = group.header.geometry.k();
                match self.repair_group(group, sum, &mut report) {
                    Ok(good) => sum.without_redundancy += u64::from(good <= usize::from(k)),
                    Err(reason) => {
                        sum.unreadable += 1;
                        report(Repaired::Unreadable { reason });
                    }
                }
            }
            None if there => {
                sum.unreadable += 1;
                let notes: Vec<_> = scan.rejected.iter().map(Rejected::to_string).collect();
                let have = match scan.groups.first() {
                    Some(group) => {
                        format!(
                            "{} shares of its newest put are left, {} are needed",
                            group.distinct(),
                            group.header.geometry.k()
                        )
                    }
                    None => "no share can be used".to_owned(),
                };
                let older = scan.chosen(true).map(|_| {
                    "an older put is there: `penstock get --allow-stale` reads it, and putting it again makes it the \
                     object"
                        .to_owned()
                });
                let notes = [vec![have], older.into_iter().collect(), notes].concat();
                report(Repaired::Unreadable {
                    reason: notes.join("; "),
                });
            }
            // Nothing but a tombstone, or a put that runs.
            None => {}
        }
        match done {
            Done { failed: true, .. } => sum.failed += 1,
            Done {
                shares: 0,
                other: false,
                ..
            } => sum.healthy += u64::from(there),
            _ => sum.repaired += 1,
        }
        sum.shares += done.shares;
        Ok(true)
    }

    /// Makes all shares of the group good, and returns how many are. Fails if the group cannot be read, and then
    /// nothing was written.
    fn repair_group(
        &self,
        group: Group,
        sum: &mut RepairReport,
        report: &mut dyn FnMut(Repaired),
    ) -> Result<usize, String> {
        let (header, progress) = (group.header.clone(), self.progress);
        let geometry = header.geometry;
        let pending = group.pending.clone();
        progress.add_len(geometry.share_bytes() * group.shares.len() as u64);
        let rows = Rows::new(group).map_err(|error| error.to_string())?;
        let mut rows = rows.paced(self.pace);
        let checked = check_leaves(&mut rows, progress, &mut |_| {});
        sum.bad_leaves += checked.bad_leaves;
        let missing = missing(
            rows.readers.iter().map(|reader| reader.share.number),
            &header,
        );
        let mut good = usize::from(geometry.n()) - missing.len() - checked.damaged.len();
        let mut whole = true;
        let mut settled = 0;
        for (store, path) in &pending {
            match settle(&self.stores[*store], path, &header) {
                Ok(()) => settled += 1,
                Err(error) => {
                    whole = false;
                    report(Repaired::Unreadable {
                        reason: error.to_string(),
                    });
                }
            }
        }
        if settled > 0 {
            report(Repaired::Settled { shares: settled });
        }
        if !missing.is_empty() || !checked.damaged.is_empty() {
            progress.add_len(geometry.size());
            read_object(&mut rows, &mut io::sink(), progress).map_err(|error| error.to_string())?;
            let targets = self.targets(&rows, &missing, &checked.damaged, &mut |number, reason| {
                whole = false;
                report(Repaired::Failed { number, reason });
            });
            progress.add_len(geometry.share_bytes() * targets.len() as u64);
            for (number, placed) in rebuild(&mut rows, targets, progress, self.pace) {
                match placed {
                    Ok(path) => {
                        good += 1;
                        report(Repaired::Share { number, path });
                    }
                    Err(reason) => {
                        whole = false;
                        report(Repaired::Failed { number, reason });
                    }
                }
            }
        }
        if whole {
            let shares = remove_older(self.stores, &header.key, &header.generation);
            if shares > 0 {
                report(Repaired::Older { shares });
            }
        }
        Ok(good)
    }

    /// The place of each missing or damaged share. A damaged share stays where it is. A missing share
    /// goes to the store that the key prefers among those that have no share of this put.
    fn targets(
        &self,
        rows: &Rows,
        missing: &[u16],
        damaged: &BTreeSet<u16>,
        failed: &mut dyn FnMut(u16, String),
    ) -> Vec<Target> {
        let header = &rows.header;
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
            if last.replace(*number) == Some(*number) {
                continue;
            }
            taken.insert(*store);
            if !damaged.contains(number) {
                continue;
            }
            match self.places.open.iter().find(|place| place.index == *store) {
                Some(place) => targets.push(Target {
                    number: *number,
                    path: final_path(&place.store, path, header),
                    store: place.store.clone(),
                }),
                None => failed(
                    *number,
                    format!("{}: its store can't be written", path.display()),
                ),
            }
        }
        let geometry = &header.geometry;
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        let bytes = geometry.share_file_bytes();
        let chosen = self.places.choose(&header.key, n, n - k, bytes).places;
        let ranked = self.places.ranked(&header.key).into_iter();
        let others = ranked.filter(|place| place.has_room(bytes));
        let mut free = chosen.into_iter().chain(others);
        for &number in missing {
            let Some(place) = free.find(|place| taken.insert(place.index)) else {
                let mut reason = "every store that can be written and has room has a share of this object already; \
                                  give one more --store"
                    .to_owned();
                for passed in &self.places.passed_over {
                    reason += &format!("; {passed}");
                }
                failed(number, reason);
                continue;
            };
            let dir = object_dir(&header.key);
            let path = place
                .store
                .object_file(&dir, Kind::Share, &header.generation);
            targets.push(Target {
                number,
                store: place.store.clone(),
                path,
            });
        }
        targets
    }
}

/// Gives a share of a decided put its final name, or, in a bucket, its mark.
fn settle(store: &Store, path: &Path, header: &Header) -> Result<(), FileError> {
    if store.is_bucket() {
        let mark = path.with_extension(Kind::Decided.extension());
        return store.write(&mark, DECIDED_TEXT);
    }
    let last = final_path(store, path, header);
    match std::fs::rename(path, &last) {
        // The put itself was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound && last.exists() => Ok(()),
        renamed => renamed.during("rename", path),
    }?;
    store.sync_parent(path)
}

/// The name of a share file once its put is decided. A file that was copied by hand keeps the name it was given, and one
/// in a bucket the name it has.
fn final_path(store: &Store, path: &Path, header: &Header) -> PathBuf {
    match Kind::of(path) {
        Some(Kind::Pending) if !store.is_bucket() => {
            path.with_file_name(Kind::Share.file_name(&header.generation))
        }
        _ => path.to_owned(),
    }
}

/// Removes the files of puts that were never decided and whose processes are gone. Returns their number.
fn remove_abandoned(stores: &[Store], undecided: &[Group]) -> usize {
    let mut removed = 0;
    for group in undecided {
        let mut files = group.pending.iter();
        if files.all(|(store, path)| stores[*store].is_abandoned(path)) {
            let files = group.pending.iter();
            let remove = |(store, path): &&(usize, PathBuf)| stores[*store].remove(path).is_ok();
            removed += files.filter(remove).count();
        }
    }
    removed
}

/// The outcome of the repair of one object.
#[derive(Default)]
struct Done {
    shares: u64,
    failed: bool,
    other: bool,
}

/// A share to be written, and its place.
pub(crate) struct Target {
    pub(crate) number: u16,
    pub(crate) store: Store,
    pub(crate) path: PathBuf,
}

/// Rebuilds all targets in one pass over the sources. A failing store costs only its own share.
fn rebuild(
    rows: &mut Rows,
    targets: Vec<Target>,
    progress: &Progress,
    pace: &Pace,
) -> Vec<(u16, Result<PathBuf, String>)> {
    let header = rows.header.clone();
    let Header {
        geometry,
        generation,
        leaf_checksum,
        ..
    } = header;
    let leaf_bytes = geometry.leaf_bytes();
    let mut shares = NewShares::new(generation, leaf_checksum, leaf_bytes);
    let mut results = Vec::new();
    let mut going = Vec::new();
    for target in targets {
        let (path, bytes) = (target.path.clone(), geometry.share_file_bytes());
        match shares.add(&target.store, target.number, path, bytes) {
            Ok(()) => going.push(target),
            Err(error) => results.push((target.number, Err(error.to_string()))),
        }
    }
    let wanted: Vec<u16> = going.iter().map(|target| target.number).collect();
    let row_bytes = u64::from(leaf_bytes) * (u64::from(geometry.k()) + wanted.len() as u64);
    let window = (WINDOW_BYTES / row_bytes).max(1) * u64::from(leaf_bytes);
    let mut buffers = vec![vec![0; window.min(geometry.share_bytes()) as usize]; wanted.len()];
    let mut failed = None;
    for start in (0..geometry.share_bytes()).step_by(window as usize) {
        if shares.live() == 0 {
            break;
        }
        let len = window.min(geometry.share_bytes() - start);
        let mut outputs: Vec<&mut [u8]> = buffers
            .iter_mut()
            .map(|buffer| &mut buffer[..len as usize])
            .collect();
        if let Err(error) = rows.read(start..start + len, &wanted, &mut outputs) {
            // The same leaves were read successfully a moment ago, so the disks are failing now.
            failed = Some(error.to_string());
            break;
        }
        for (index, output) in outputs.iter().enumerate() {
            shares.append(index, &[output]);
        }
        progress.add(len * wanted.len() as u64);
    }
    if failed.is_none() {
        shares.finish(&header);
    }
    for ((number, temp), target) in shares.into_files().zip(going) {
        let placed = match (&failed, temp) {
            (Some(error), _) => Err(error.clone()),
            (None, Err(error)) => Err(error.to_string()),
            (None, Ok(file)) => place(file, &target, &header, pace).map(|()| target.path),
        };
        results.push((number, placed));
    }
    results
}

/// Puts a new share in place, once it was read back. A bucket keeps what it was sent: it checked the digest of each request.
pub(crate) fn place(
    mut file: NewFile,
    target: &Target,
    header: &Header,
    pace: &Pace,
) -> Result<(), String> {
    if let Some(temp) = file.temp() {
        // The read back should come from the disk and not from the page cache, where the system follows
        // the advice.
        let _ = rustix::fs::fadvise(temp.file(), 0, None, rustix::fs::Advice::DontNeed);
        read_back(temp.path(), target, header, pace)
            .map_err(|what| format!("{}: {what} reads back differently", temp.path().display()))?;
    }
    file.prepare()
        .and_then(|()| file.place())
        .map_err(|error| error.to_string())?;
    let synced = file.sync_place();
    file.keep();
    synced.map_err(|error| error.to_string())
}

/// Verifies every part of a share that was just written. An error names the bad part.
fn read_back(path: &Path, target: &Target, header: &Header, pace: &Pace) -> Result<(), String> {
    let number = target.number;
    let (found, file) = store::open_share(path).map_err(|error| error.to_string())?;
    if found.number != number || !found.same_object(header) {
        return Err("the header".to_owned());
    }
    let share = OpenShare {
        number,
        store: 0,
        path: path.to_owned(),
        file: OpenFile::Local(file),
    };
    let mut reader = ShareReader::new(share, header).paced(pace);
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
