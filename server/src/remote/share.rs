//! A remote share as a local file: sparse, of the share's own format, and filled as its bytes are wanted.
//!
//! What of it is there is what the file system says: holes are what is missing (`SEEK_HOLE`, lseek(2)). So there is no
//! bitmap that could be wrong after a crash, none that grows with the object, and a reader sees the beginning of an
//! extent before its end has come. Some ranges are remembered, since asking may wait for a write to the same file. Writes are whole units of [`UNIT_BYTES`], so that no page is there in part.
//!
//! A page that a crash has torn is a leaf that does not match its checksum: its unit is dropped and fetched again, once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use penstock_remote::Entry;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::fetch::Fetch;
use super::origin::Origin;
use super::space::{Place, Space};
use crate::memory::limits::{
    MEMORY_EXTENT_BYTES, REMOTE_EXTENT_BYTES, REMOTE_UNIT_BYTES as UNIT_BYTES,
};

/// Units that are fetched again because they did not match, of one share file, at most: beyond it the share is bad.
const REFETCHED_MAX: usize = 256;

/// The share file of a remote store, as far as it was fetched. All cores share it.
pub struct CachedShare {
    origin: Arc<Origin>,
    /// Its name in the store.
    name: String,
    bytes: u64,
    file: File,
    path: PathBuf,
    /// The room of its cache.
    space: Arc<Space>,
    /// Its cache's, called when nobody has it open any more.
    closed: Box<dyn Fn(&CachedShare) + Send + Sync>,
    /// Set once no byte is missing.
    is_whole: AtomicBool,
    /// Set once its file could not be read.
    is_unreadable: AtomicBool,
    /// What is known to be there. The file system knows more, but to ask it may wait for a write to the same file.
    known: Mutex<Known>,
    /// Counts what was dropped again. What was verified before says nothing of what takes its place.
    version: AtomicU32,
    fetches: Mutex<Fetches>,
    /// Told whenever bytes have come or a fetch has ended.
    progress: Notify,
    /// Where it is kept.
    place: Place,
    /// Held by who sends pages of it that were verified before, so that none becomes a hole meanwhile.
    pages: RwLock<()>,
    /// When somebody wanted bytes of it last: milliseconds since the cache was opened.
    wanted: AtomicU64,
}

#[derive(Default)]
struct Fetches {
    under_way: Vec<Arc<Fetch>>,
    /// Units that did not match their checksums and were fetched again.
    refetched: BTreeSet<u64>,
    /// Extents that were wanted since the last sweep.
    wanted: BTreeSet<u64>,
}

/// Ranges of a file that are there: in order, none next to another. As few as [`KNOWN_MAX`]; the file system knows the others.
#[derive(Default)]
struct Known(Vec<Range<u64>>);

/// Files that are read from their beginning have one or two, and a client that jumps adds one.
const KNOWN_MAX: usize = 32;

impl Known {
    /// The first byte from `start` on that is not known to be there.
    fn behind(&self, start: u64) -> u64 {
        let after = self.0.partition_point(|known| known.start <= start);
        let before = after.checked_sub(1).and_then(|at| self.0.get(at));
        before.map_or(start, |known| known.end.max(start))
    }

    fn add(&mut self, mut range: Range<u64>) {
        let first = self.0.partition_point(|known| known.end < range.start);
        let last = self.0.partition_point(|known| known.start <= range.end);
        if let Some(touched) = self
            .0
            .get(first..last)
            .filter(|touched| !touched.is_empty())
        {
            range.start = range.start.min(touched[0].start);
            range.end = range.end.max(touched[touched.len() - 1].end);
        }
        self.0.splice(first..last, [range]);
        if self.0.len() > KNOWN_MAX {
            let lengths = self.0.iter().map(|known| known.end - known.start);
            let shortest = lengths.enumerate().min_by_key(|(_, length)| *length);
            self.0.remove(shortest.map_or(0, |(at, _)| at));
        }
    }
}

impl CachedShare {
    pub(super) fn new(
        origin: Arc<Origin>,
        entry: &Entry,
        file: File,
        path: PathBuf,
        place: Place,
        space: Arc<Space>,
        closed: Box<dyn Fn(&CachedShare) + Send + Sync>,
    ) -> CachedShare {
        CachedShare {
            origin,
            name: entry.name.clone(),
            bytes: entry.bytes,
            file,
            path,
            space,
            closed,
            is_whole: AtomicBool::new(false),
            is_unreadable: AtomicBool::new(false),
            known: Mutex::default(),
            version: AtomicU32::new(0),
            fetches: Mutex::default(),
            progress: Notify::new(),
            place,
            pages: RwLock::new(()),
            wanted: AtomicU64::new(0),
        }
    }

    /// The store that has it.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// Its name in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The local file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is kept.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Bytes of one fetch for who waits for it.
    pub fn extent_bytes(&self) -> u64 {
        match self.place {
            Place::Disk => REMOTE_EXTENT_BYTES,
            Place::Memory => MEMORY_EXTENT_BYTES,
        }
    }

    /// Keeps what is there from being dropped.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Told whenever bytes have come or a fetch has ended.
    pub fn progress(&self) -> &Notify {
        &self.progress
    }

    /// Counts what was dropped again after it had been there.
    pub fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    /// Whether all bytes of a range are there.
    pub fn has(&self, range: &Range<u64>) -> bool {
        self.has_all(std::slice::from_ref(range))
    }

    /// Whether all bytes of some ranges are there.
    pub fn has_all(&self, ranges: &[Range<u64>]) -> bool {
        if self.is_whole.load(Relaxed) {
            return true;
        }
        ranges.iter().all(|range| {
            let unknown = self.known().behind(range.start);
            // What is on its way is known as it comes.
            let is_coming = |fetch: &Arc<Fetch>| fetch.range.contains(&unknown);
            unknown >= range.end
                || !self.fetches().under_way.iter().any(is_coming) && self.missing(range).is_none()
        })
    }

    /// The first bytes of a range that are missing, as whole units; `None` if it is there.
    pub fn missing(&self, range: &Range<u64>) -> Option<Range<u64>> {
        if self.is_whole.load(Relaxed) || range.is_empty() {
            return None;
        }
        let end = range.end.min(self.bytes);
        let version = self.version();
        let hole = match seek(&self.file, SeekFrom::Hole(range.start)) {
            Ok(hole) => hole,
            // The file is shorter than it was made: as good as empty.
            Err(_) => range.start,
        };
        if hole > range.start {
            let mut known = self.known();
            // What was dropped meanwhile is not there any more.
            if self.version() == version {
                known.add(range.start..hole.min(self.bytes));
            }
        }
        if hole >= end {
            return None;
        }
        let start = hole / UNIT_BYTES * UNIT_BYTES;
        let data = match seek(&self.file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            Err(_) => self.bytes,
        };
        Some(start..data.min(self.bytes))
    }

    /// Notes that bytes of it are wanted now, so that they stay.
    pub fn want(&self, range: &Range<u64>) {
        self.wanted.store(self.space.clock(), Relaxed);
        if !self.space.is_crowded(self.place) {
            return;
        }
        let extent = self.extent_bytes();
        let extents = range.start / extent..range.end.div_ceil(extent);
        self.fetches().wanted.extend(extents);
    }

    /// When it was wanted last, by [`Space::clock`].
    pub(super) fn last_wanted(&self) -> u64 {
        self.wanted.load(Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fetch that is under way for the first missing byte of a range.
    pub fn under_way(&self, range: &Range<u64>) -> Option<Arc<Fetch>> {
        let missing = self.missing(range)?;
        let at = missing.start.max(range.start);
        let fetches = self.fetches();
        let covers = |fetch: &&Arc<Fetch>| fetch.range.contains(&at);
        fetches.under_way.iter().find(covers).map(Arc::clone)
    }

    /// Its file can't be read. Its store has it still: whoever opens it from now on has it in memory.
    pub fn note_unreadable(&self, error: &io::Error) {
        self.is_unreadable.store(true, Relaxed);
        if self.place == Place::Disk {
            self.space.note_broken(error);
        }
    }

    /// Whether its file can't be read.
    pub fn is_unreadable(&self) -> bool {
        self.is_unreadable.load(Relaxed)
    }

    /// Whether any of it is on its way.
    pub(super) fn is_coming(&self) -> bool {
        !self.fetches().under_way.is_empty()
    }

    /// Whether some of a range is neither there nor on its way.
    pub fn lacks_a_fetch(&self, range: &Range<u64>) -> bool {
        self.next_fetch(&self.fetches(), range, 1).is_some()
    }

    /// Registers a fetch for the first bytes of `range` that are neither there nor on their way, no longer than
    /// `at_most`. `None` if there are none.
    pub(super) fn begin(&self, range: &Range<u64>, at_most: u64) -> Option<Arc<Fetch>> {
        let mut fetches = self.fetches();
        let next = self.next_fetch(&fetches, range, at_most)?;
        let fetch = Arc::new(Fetch::new(next, Instant::now()));
        fetches.under_way.push(Arc::clone(&fetch));
        Some(fetch)
    }

    fn next_fetch(
        &self,
        fetches: &Fetches,
        range: &Range<u64>,
        at_most: u64,
    ) -> Option<Range<u64>> {
        let mut from = range.start;
        // As often as fetches are under way, and holes lie between them.
        loop {
            from = self.known().behind(from);
            if from >= range.end {
                return None;
            }
            let coming = |fetch: &&Arc<Fetch>| fetch.range.contains(&from);
            if let Some(fetch) = fetches.under_way.iter().find(coming) {
                from = fetch.range.end;
                continue;
            }
            let missing = self.missing(&(from..range.end))?;
            let start = missing.start.max(from / UNIT_BYTES * UNIT_BYTES);
            let covering = |fetch: &&Arc<Fetch>| fetch.range.contains(&start);
            if let Some(fetch) = fetches.under_way.iter().find(covering) {
                from = fetch.range.end;
                if from >= range.end {
                    return None;
                }
                continue;
            }
            let others = fetches.under_way.iter().map(|fetch| fetch.range.start);
            let next = others.filter(|other| *other > start).min();
            let end = (start + at_most)
                .min(missing.end)
                .min(range.end.next_multiple_of(UNIT_BYTES))
                .min(next.unwrap_or(u64::MAX));
            return Some(start..end.min(self.bytes));
        }
    }

    /// A fetch has ended, or can't be made.
    pub(super) fn end(&self, fetch: &Arc<Fetch>) {
        let mut fetches = self.fetches();
        fetches.under_way.retain(|other| !Arc::ptr_eq(other, fetch));
        drop(fetches);
        let known = self.known();
        if known.behind(0) >= self.bytes {
            self.is_whole.store(true, Relaxed);
        }
        drop(known);
        self.progress.notify_waiters();
    }

    /// Tells who waits that bytes have come. To wake a core costs as much as to write a unit.
    pub(super) fn tell_progress(&self) {
        self.progress.notify_waiters();
    }

    /// Bytes have come: whole units, or the file's end.
    ///
    /// # Errors
    /// The cache's disk's, or that there is no room. Nothing of them is there then.
    pub(super) fn fill(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, at);
        if written.is_err() {
            // A part of a page would count as all of it.
            self.punch(&(at..at + bytes.len() as u64));
        }
        written?;
        self.known().add(at..at + bytes.len() as u64);
        Ok(())
    }

    /// What did not match its checksum is fetched again, if that was not done before. Returns whether it will be.
    pub fn refetch(&self, range: &Range<u64>) -> bool {
        let units = range.start / UNIT_BYTES..range.end.div_ceil(UNIT_BYTES);
        if !self.has(range) {
            // It was dropped meanwhile, or is on its way.
            return true;
        }
        let fetches = self.fetches();
        let touches =
            |fetch: &Arc<Fetch>| fetch.range.start < range.end && range.start < fetch.range.end;
        if fetches.under_way.iter().any(touches) {
            // It has just come.
            return false;
        }
        let is_old = units.clone().any(|unit| fetches.refetched.contains(&unit));
        if is_old || fetches.refetched.len() >= REFETCHED_MAX {
            return false;
        }
        drop(fetches);
        let dropped = units.start * UNIT_BYTES..(units.end * UNIT_BYTES).min(self.bytes);
        let drop = || {
            let _pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
            self.punch(&dropped)
        };
        let is_dropped = self.space.try_drop_with(drop).unwrap_or(false);
        if is_dropped {
            self.fetches().refetched.extend(units);
            tracing::warn!(
                share = self.name, store = %self.origin, offset = range.start,
                "cached bytes don't match their checksum: they are fetched again"
            );
        }
        is_dropped
    }

    /// Makes a hole of whole units. Returns whether it is one.
    fn punch(&self, range: &Range<u64>) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = (range.end - range.start).next_multiple_of(UNIT_BYTES);
        self.forget();
        let done = fallocate(&self.file, flags, range.start, length);
        // Whoever asked in between may have seen what is gone now.
        self.forget();
        done.is_ok()
    }

    fn forget(&self) {
        let mut known = self.known();
        self.is_whole.store(false, Relaxed);
        self.version.fetch_add(1, Relaxed);
        known.0.clear();
    }

    /// Drops what nobody wanted since the last time. Returns how many bytes it takes on the disk now.
    pub(super) fn sweep(&self) -> u64 {
        let wanted = std::mem::take(&mut self.fetches().wanted);
        let last = self.bytes.saturating_sub(1) / self.extent_bytes();
        let extents = match self.place {
            // The beginning has the header, and the end the checksums: they are wanted by whoever goes on.
            Place::Disk => 1..last,
            Place::Memory => 0..last + 1,
        };
        self.drop_extents(extents.filter(|extent| !wanted.contains(extent)))
    }

    /// Drops all of it. Returns how many bytes it takes on the disk now.
    pub(super) fn clear(&self) -> u64 {
        self.drop_extents(0..self.bytes.div_ceil(self.extent_bytes()))
    }

    /// Drops some extents, as far as they are neither on their way nor being sent.
    fn drop_extents(&self, extents: impl Iterator<Item = u64>) -> u64 {
        let under_way: Vec<Range<u64>> = {
            let fetches = self.fetches();
            let all = fetches.under_way.iter();
            all.map(|fetch| fetch.range.clone()).collect()
        };
        let length = self.extent_bytes();
        for extent in extents {
            let range = extent * length..(extent + 1) * length;
            let busy = |fetch: &Range<u64>| fetch.start < range.end && range.start < fetch.end;
            if under_way.iter().any(busy) {
                continue;
            }
            if seek(&self.file, SeekFrom::Data(range.start)).is_ok_and(|data| data < range.end)
                // Who sends pages of it wants them.
                && let Ok(_pages) = self.pages.try_write()
            {
                self.punch(&range);
            }
        }
        self.disk_bytes()
    }

    /// Bytes that it takes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.file)
    }
}

impl Drop for CachedShare {
    fn drop(&mut self) {
        (self.closed)(self);
    }
}

/// Bytes that a file takes on the disk.
pub(super) fn disk_bytes(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map_or(0, |found| found.blocks() * 512)
}

/// Whether a file system tells holes as finely as it has to: what was written is there, and nothing beside it.
///
/// # Errors
/// The file system's.
pub(super) fn tells_holes(file: &File) -> io::Result<bool> {
    const AT: u64 = 1 << 20;
    file.set_len(4 << 20)?;
    file.write_all_at(&vec![1; UNIT_BYTES as usize], AT)?;
    let found = (
        seek(file, SeekFrom::Data(0)),
        seek(file, SeekFrom::Hole(AT)),
        seek(file, SeekFrom::Data(AT + UNIT_BYTES)),
    );
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = fallocate(file, flags, AT, UNIT_BYTES);
    let left = seek(file, SeekFrom::Data(0));
    Ok(found == (Ok(AT), Ok(AT + UNIT_BYTES), Err(Errno::NXIO))
        && punched.is_ok()
        && left == Err(Errno::NXIO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is added in whatever order: what is held was added, and neighbours are one.
        #[test]
        fn what_is_known_was_added(added in prop::collection::vec((0_u64..300, 1_u64..20), 1..60)) {
            let mut known = Known::default();
            let (mut there, mut most) = ([false; 400], 0);
            for (start, length) in added {
                known.add(start..start + length);
                there[start as usize..(start + length) as usize].fill(true);
                most = most.max(known.0.len());
                prop_assert!(most <= KNOWN_MAX);
                for pair in known.0.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
            }
            for known in &known.0 {
                prop_assert!(there[known.start as usize..known.end as usize].iter().all(|there| *there));
            }
            for start in 0..300_u64 {
                let is_known = known.behind(start) > start;
                prop_assert!(!is_known || there[start as usize]);
                // Of few ranges none is forgotten.
                if most < KNOWN_MAX && there[start as usize] {
                    prop_assert!(is_known);
                }
            }
        }
    }
}
