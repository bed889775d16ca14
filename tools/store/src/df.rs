//! Df: how full the stores are, and how evenly the shares lie on them.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytesize::ByteSize;
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::Serialize;

use crate::json;
use crate::store::{self, Id, Lister, Presence, Store, StoreError};

/// Stores whose shares are counted at the same time: their disks seek in parallel.
const COUNTED_TOGETHER: usize = 16;

/// Whether a store can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreState {
    /// It can be read and written.
    Ok,
    /// So it can, and it is being emptied: nothing is put there.
    Draining,
    /// Its file system is read-only.
    ReadOnly,
    /// It has objects and no marker, or one that can't be read: it is not written.
    NoMarker,
    /// A directory with neither marker nor objects, as that of a disk that is not mounted.
    NotAStore,
    /// There is no such directory.
    Missing,
    /// It can't be read.
    Unreadable,
}

impl fmt::Display for StoreState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StoreState::Ok => "ok",
            StoreState::Draining => "draining",
            StoreState::ReadOnly => "read-only",
            StoreState::NoMarker => "no marker",
            StoreState::NotAStore => "not a store",
            StoreState::Missing => "missing",
            StoreState::Unreadable => "unreadable",
        })
    }
}

/// How full a store is.
#[derive(Clone, Debug, Serialize)]
pub struct StoreUsage {
    /// Its directory, or its URL.
    #[serde(serialize_with = "json::path")]
    pub path: PathBuf,
    /// Its id, if it has a marker.
    pub id: Option<Id>,
    /// What fails together with it.
    pub domain: Option<String>,
    /// Whether it can be used.
    pub state: StoreState,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The file system it is on, unless it is away or a bucket.
    pub space: Option<Space>,
    /// Its share files, if they were counted.
    pub shares: Option<Shares>,
    /// How much more share bytes it has than its part, in percent: all share bytes divided by the stores' capacities.
    /// Below 0 if it has less. `None` if shares were not counted, or there are none.
    pub deviation_percent: Option<f64>,
}

impl StoreUsage {
    fn is_here(&self) -> bool {
        self.is_well() || [StoreState::ReadOnly, StoreState::NoMarker].contains(&self.state)
    }

    /// Whether it can be read and written.
    pub fn is_well(&self) -> bool {
        matches!(self.state, StoreState::Ok | StoreState::Draining)
    }
}

/// The bytes of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Space {
    /// All.
    pub total_bytes: u64,
    /// Taken, by whatever it is.
    pub used_bytes: u64,
    /// What may still be written without being root.
    pub free_bytes: u64,
    /// Stores on the same file system, this one included: they share these bytes.
    pub stores_on_it: u64,
}

/// Share files of one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Shares {
    /// Their number, those of puts that are not decided included.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Directories and files that could not be read, and are not counted.
    pub unread: u64,
}

/// How full each store is; `count` also walks through the stores and counts shares.
///
/// # Errors
/// If a store is given twice. One that can't be read is no error.
pub fn df(stores: &[Store], count: bool) -> Result<Vec<StoreUsage>, StoreError> {
    store::refuse_duplicates(stores)?;
    let mut usages: Vec<StoreUsage> = Vec::with_capacity(stores.len());
    let mut on_device: HashMap<u64, u64> = HashMap::new();
    let mut devices = Vec::with_capacity(stores.len());
    for store in stores {
        let (usage, device) = look_at(store);
        if let Some(device) = device {
            *on_device.entry(device).or_default() += 1;
        }
        devices.push(device);
        usages.push(usage);
    }
    for (usage, device) in usages.iter_mut().zip(devices) {
        if let (Some(space), Some(device)) = (&mut usage.space, device) {
            space.stores_on_it = on_device[&device];
        }
    }
    if count {
        for usages in usages.chunks_mut(COUNTED_TOGETHER) {
            std::thread::scope(|scope| {
                for usage in usages.iter_mut().filter(|usage| usage.is_here()) {
                    let store = stores.iter().find(|store| store.path() == usage.path);
                    scope.spawn(move || usage.shares = store.map(count_shares));
                }
            });
        }
        set_deviations(&mut usages);
    }
    Ok(usages)
}

/// A store without its shares, and its device.
fn look_at(store: &Store) -> (StoreUsage, Option<u64>) {
    let path = store.path();
    let mut usage = StoreUsage {
        path: path.to_owned(),
        id: None,
        domain: None,
        state: StoreState::Ok,
        reason: None,
        space: None,
        shares: None,
        deviation_percent: None,
    };
    let away = match store::presence(store) {
        Presence::Marked(marker) => {
            usage.id = Some(marker.store);
            usage.domain = marker.domain;
            if marker.drain {
                usage.state = StoreState::Draining;
            }
            false
        }
        Presence::Unmarked(error) => {
            usage.state = StoreState::NoMarker;
            usage.reason = Some(error.to_string());
            false
        }
        Presence::Absent(error) => {
            usage.state = match &error {
                StoreError::Missing(_) => StoreState::Missing,
                StoreError::NotAStore(_) | StoreError::NotABucketStore(_) => StoreState::NotAStore,
                _ => StoreState::Unreadable,
            };
            usage.reason = Some(error.to_string());
            true
        }
    };
    // What is free below the mount point of a disk that is not mounted says nothing.
    if away {
        return (usage, None);
    }
    // What a bucket holds nobody says.
    if store.is_bucket() {
        return (usage, None);
    }
    let found = statvfs(path)
        .map_err(io::Error::from)
        .and_then(|found| Ok((found, fs::metadata(path)?.dev())));
    match found {
        Ok((found, device)) => {
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            usage.space = Some(Space {
                total_bytes: bytes(found.f_blocks),
                used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
                free_bytes: bytes(found.f_bavail),
                stores_on_it: 1,
            });
            let read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
            if read_only && usage.is_well() {
                usage.state = StoreState::ReadOnly;
                usage.reason = Some(StoreError::ReadOnly(path.to_owned()).to_string());
            }
            (usage, Some(device))
        }
        Err(error) => {
            usage.state = StoreState::Unreadable;
            usage.reason = Some(format!("{}: {error}", path.display()));
            (usage, None)
        }
    }
}

/// Walks through a store. Holds the names of one directory at a time.
fn count_shares(store: &Store) -> Shares {
    tracing::debug!(store = %store.path().display(), "counting its shares");
    let stores = [store.clone()];
    let mut shares = Shares::default();
    let (mut lister, listing) = Lister::start(&stores);
    shares.unread += listing.unlisted.len() as u64;
    for first in 0..=255 {
        let listing = lister.list(first);
        shares.unread += listing.unlisted.len() as u64;
        for found in listing.into_found() {
            let Ok(files) = stores[0].lengths(&found.dir, found.files_in(0)) else {
                shares.unread += 1;
                continue;
            };
            for (_, bytes) in files.into_iter().filter(|(kind, _)| kind.is_share()) {
                match bytes {
                    Ok(bytes) => {
                        shares.files += 1;
                        shares.bytes += bytes;
                    }
                    // A put or a repair replaced it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => shares.unread += 1,
                }
            }
        }
    }
    shares
}

/// Capacities decide what each store should have, as they do where shares are placed.
fn set_deviations(usages: &mut [StoreUsage]) {
    let capacity = |space: &Space| (space.total_bytes / space.stores_on_it.max(1)).max(1) as f64;
    let counted = |usage: &StoreUsage| Some((usage.shares?.bytes as f64, capacity(&usage.space?)));
    let all: Vec<(f64, f64)> = usages.iter().filter_map(counted).collect();
    let bytes: f64 = all.iter().map(|(bytes, _)| bytes).sum();
    let capacities: f64 = all.iter().map(|(_, capacity)| capacity).sum();
    if bytes == 0.0 {
        return;
    }
    for usage in usages {
        let deviation = counted(usage).map(|(own, capacity)| {
            let part = bytes * (capacity / capacities);
            (own / part - 1.0) * 100.0
        });
        usage.deviation_percent = deviation;
    }
}

/// Usages as a table.
pub fn table(usages: &[StoreUsage]) -> impl fmt::Display + '_ {
    Table(usages)
}

struct Table<'a>(&'a [StoreUsage]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: Option<u64>| match bytes {
            Some(bytes) => ByteSize(bytes).display().iec().to_string(),
            None => "-".to_owned(),
        };
        write!(
            f,
            "{:<11}  {:>10}  {:>10}  {:>10}  {:>9}  {:>10}  {:>9}  {:<12}  {:<8}  store",
            "state", "total", "used", "free", "shares", "of bytes", "deviation", "domain", "id"
        )?;
        for usage in self.0 {
            let StoreUsage {
                path,
                id,
                domain,
                state,
                space,
                shares,
                deviation_percent,
                ..
            } = usage;
            // Eight digits tell stores apart; all are in the marker and in JSON.
            let id = id.map_or("-".to_owned(), |id| id.to_string()[..8].to_owned());
            let files = shares.map_or("-".to_owned(), |shares| shares.files.to_string());
            let deviation =
                deviation_percent.map_or("-".to_owned(), |percent| format!("{percent:+.1}%"));
            write!(
                f,
                "\n{state:<11}  {:>10}  {:>10}  {:>10}  {files:>9}  {:>10}  {deviation:>9}  {:<12}  {id:<8}  {}",
                size(space.map(|space| space.total_bytes)),
                size(space.map(|space| space.used_bytes)),
                size(space.map(|space| space.free_bytes)),
                size(shares.map(|shares| shares.bytes)),
                domain.as_deref().unwrap_or("-"),
                path.display()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(bytes: u64, total_bytes: u64) -> StoreUsage {
        StoreUsage {
            path: PathBuf::new(),
            id: None,
            domain: None,
            state: StoreState::Ok,
            reason: None,
            space: Some(Space {
                total_bytes,
                used_bytes: 0,
                free_bytes: 0,
                stores_on_it: 1,
            }),
            shares: Some(Shares {
                files: 1,
                bytes,
                unread: 0,
            }),
            deviation_percent: None,
        }
    }

    fn deviations(mut usages: Vec<StoreUsage>) -> Vec<Option<f64>> {
        set_deviations(&mut usages);
        let rounded = |usage: &StoreUsage| usage.deviation_percent.map(f64::round);
        usages.iter().map(rounded).collect()
    }

    #[test]
    fn a_store_is_measured_by_its_capacity() {
        let even = deviations(vec![usage(10, 100), usage(20, 200)]);
        assert_eq!(even, [Some(0.0), Some(0.0)]);
        let uneven = deviations(vec![usage(15, 100), usage(5, 100)]);
        assert_eq!(uneven, [Some(50.0), Some(-50.0)]);
        // One that is away has no part in it, and nothing has no mean.
        let mut away = usage(0, 0);
        (away.space, away.shares) = (None, None);
        assert_eq!(deviations(vec![usage(5, 9), away]), [Some(0.0), None]);
        assert_eq!(deviations(vec![usage(0, 9)]), [None]);
    }
}
