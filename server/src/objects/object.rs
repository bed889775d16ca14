//! An open object: its shares, and which of them are usable for which range.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, RwLockReadGuard};
use std::time::{Instant, SystemTime};

use decode_kernel::code::Code;
use decode_kernel::share::{Geometry, Header};
use lru::LruCache;

use super::lines::Lines;
use super::open_files::Held;
use super::{Layout, Share};
use crate::memory::limits::{BAD_LEAVES_MAX, TABLE_PAGE_BYTES};
use crate::remote::CachedShare;
use crate::units::{CopyNumber, ObjectId, ShareNumber, ShareOffset, in_file};

/// An object with at least k shares open. Its bytes never change: a new put is another object.
pub struct Object {
    pub(super) id: ObjectId,
    pub(super) header: Header,
    pub(super) layout: Layout,
    pub(super) etag: String,
    pub(super) lines: Lines,
    pub(super) code: Arc<Code>,
    /// By share number.
    pub(super) shares: Vec<Option<Share>>,
    /// Further copies of shares, sorted by number.
    pub(super) copies: Vec<(ShareNumber, Share)>,
    /// Leaves that did not match their checksum, so that they aren't read again for every client. Bounded where leaves
    /// are marked: what falls out is found again.
    pub(super) bad_leaves: RefCell<LruCache<(ShareNumber, CopyNumber, u64), ()>>,
    /// What the stores' directories said when it was looked up.
    pub(super) fingerprints: Vec<Option<u64>>,
    /// How often any store had come back by then: what comes back may have more of it.
    pub(super) returns: u64,
    /// When they were asked last.
    pub(super) checked: Cell<Instant>,
    /// A store said late that it changed.
    pub(super) changed: Cell<bool>,
    /// Tells it apart for its stores.
    pub(super) number: u64,
    /// Whether any of its shares is in a remote store.
    pub(super) is_remote: bool,
    pub(super) _files: Held,
}

/// What is lacking of a share before a range of it can be read.
pub enum Lacking<'a> {
    /// It is at hand.
    Nothing,
    /// Bytes that a remote store has.
    Bytes(&'a Arc<CachedShare>),
    /// No copy of it can be read there.
    Share,
}

impl Object {
    /// Geometry of the object and its shares.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// How it lies in its shares.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What every share says of the object; the number in it means nothing here.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its entity tag, quotes included.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The header lines that are sent with it.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Whether it has expired at this time.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        if self.header.metadata.expires.is_none() {
            return false;
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.header.metadata.is_expired(seconds)
    }

    /// The code that it is written in.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Tells it apart from every other object that this core has opened.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// A copy of a share, if it is open.
    pub fn share(&self, number: ShareNumber, copy: CopyNumber) -> Option<&Share> {
        self.copies(number).nth(copy.0.into())
    }

    /// All copies of a share that are open, in the order of their numbers.
    fn copies(&self, number: ShareNumber) -> impl Iterator<Item = &Share> {
        let first = self.shares.get(number.index());
        let more = self.copies.iter().filter(move |(of, _)| *of == number);
        let first = first.into_iter().flatten();
        first.chain(more.map(|(_, share)| share))
    }

    /// The number of all share files that it has, open or given up.
    pub fn share_files(&self) -> usize {
        self.shares.iter().flatten().count() + self.copies.len()
    }

    /// The path of a share's file, for the log; empty if it is not open.
    pub fn share_path(&self, number: ShareNumber, copy: CopyNumber) -> std::path::Display<'_> {
        let path = self
            .share(number, copy)
            .map_or(Path::new(""), |share| &share.path);
        path.display()
    }

    /// The number that tells it apart for its stores, in every core.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The copy of a share that can serve a range of its space, as far as is known; with `also_slow` its store may be
    /// suspended as slow.
    pub fn usable_copy(
        &self,
        number: ShareNumber,
        window: &Range<ShareOffset>,
        also_slow: bool,
    ) -> Option<CopyNumber> {
        let ranges = self.is_remote.then(|| self.file_ranges(window));
        let is_here = |share: &Share| match (&ranges, share.cached()) {
            (Some(ranges), Some(cached)) => cached.has_all(ranges),
            _ => true,
        };
        let mut good = self.good_copies(number, window, also_slow);
        let here = good.find(|(_, share)| is_here(share));
        here.map(|(copy, _)| copy)
    }

    /// The copies of a share that are good for a range of its space, as far as is known.
    fn good_copies(
        &self,
        number: ShareNumber,
        window: &Range<ShareOffset>,
        also_slow: bool,
    ) -> impl Iterator<Item = (CopyNumber, &Share)> {
        let leaves = self.layout.leaves(window);
        let numbered = (0..=u8::MAX).map(CopyNumber).zip(self.copies(number));
        numbered.filter(move |(copy, share)| {
            let bad = self.bad_leaves.borrow();
            let mut leaves = leaves.clone();
            share.is_usable(also_slow)
                && (bad.is_empty() || !leaves.any(|leaf| bad.contains(&(number, *copy, leaf))))
        })
    }

    /// What is lacking of a share before a range of its space can be read.
    pub fn lacking(&self, number: ShareNumber, window: &Range<ShareOffset>) -> Lacking<'_> {
        let ranges = self.file_ranges(window);
        let mut lacking = Lacking::Share;
        for (_, share) in self.good_copies(number, window, true) {
            match share.cached() {
                Some(cached) if !cached.has_all(&ranges) => lacking = Lacking::Bytes(cached),
                _ => return Lacking::Nothing,
            }
        }
        lacking
    }

    /// What of a share's file takes part where a range of its space is read: the range itself, and its checksums.
    pub fn file_ranges(&self, window: &Range<ShareOffset>) -> [Range<u64>; 2] {
        let geometry = self.geometry();
        let leaves = self.layout.leaves(window);
        let page_of = |leaf| geometry.table_page_of(leaf).0;
        let pages = page_of(leaves.start)..page_of(leaves.end.saturating_sub(1)) + 1;
        let table = geometry.table_offset();
        let page_start = |page| table + page * TABLE_PAGE_BYTES as u64;
        let range = in_file(window);
        [
            range.start.0..range.end.0,
            page_start(pages.start)..page_start(pages.end),
        ]
    }

    /// Notes which bytes of remote shares are wanted, so that they stay.
    pub fn want_cached<'a>(
        &'a self,
        reads: impl IntoIterator<Item = (ShareNumber, &'a Range<ShareOffset>)>,
    ) {
        self.hold_cached(reads).for_each(drop);
    }

    /// Keeps what is there of remote shares from being dropped, and notes that it is wanted.
    pub fn hold_cached<'a>(
        &'a self,
        reads: impl IntoIterator<Item = (ShareNumber, &'a Range<ShareOffset>)>,
    ) -> impl Iterator<Item = RwLockReadGuard<'a, ()>> {
        let wanted = reads.into_iter().flat_map(|(number, window)| {
            let copies = self.copies(number);
            copies.map(move |share| (share, window))
        });
        wanted.filter_map(|(share, window)| {
            let cached = share.cached()?;
            let range = in_file(window);
            cached.want(&(range.start.0..range.end.0));
            Some(cached.hold())
        })
    }

    /// Whether shares of it are in remote stores.
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// Has bytes of a share fetched again that don't match their checksum. Returns whether they will be.
    pub fn refetch(&self, number: ShareNumber, copy: CopyNumber, range: &Range<u64>) -> bool {
        let cached = self.share(number, copy).and_then(Share::cached);
        cached.is_some_and(|cached| cached.refetch(range))
    }

    /// Which copy of a share's file this is.
    pub fn copy_of(&self, number: ShareNumber, cached: &Arc<CachedShare>) -> Option<CopyNumber> {
        let mut numbered = (0..=u8::MAX).map(CopyNumber).zip(self.copies(number));
        let found = numbered.find(|(_, share)| {
            let of = share.cached();
            of.is_some_and(|of| Arc::ptr_eq(of, cached))
        });
        found.map(|(copy, _)| copy)
    }

    /// Marks a leaf that did not match its checksum. Returns whether that is news.
    pub fn mark_bad(&self, number: ShareNumber, copy: CopyNumber, leaf: u64) -> bool {
        let mut bad = self.bad_leaves.borrow_mut();
        let news = bad.put((number, copy, leaf), ()).is_none();
        if bad.len() > BAD_LEAVES_MAX {
            bad.pop_lru();
        }
        news
    }

    /// Marks a share that could not be read. Returns whether that is news.
    pub fn mark_lost(&self, number: ShareNumber, copy: CopyNumber) -> bool {
        self.share(number, copy).is_some_and(Share::mark_lost)
    }

    /// Share numbers of which a file is open and not given up, in a store that serves.
    pub fn live_shares(&self) -> usize {
        self.numbers()
            .filter(|&number| self.is_live(number))
            .count()
    }

    fn numbers(&self) -> impl Iterator<Item = ShareNumber> {
        (0..self.header.geometry.n()).map(ShareNumber)
    }

    fn is_live(&self, number: ShareNumber) -> bool {
        self.copies(number).any(|share| share.is_usable(true))
    }

    /// Shares of it that were not given up, and can't be read since their stores are suspended now, or that the cache lost;
    /// and stores that were away when it was looked up.
    pub fn stores_away(&self) -> usize {
        let of_cache = |share: &Share| share.cached().is_some_and(|cached| cached.is_unreadable());
        let suspended = self.numbers().filter(|&number| {
            let mut copies = self.copies(number);
            !self.is_live(number) && copies.any(|share| !share.is_lost() || of_cache(share))
        });
        let away = self.fingerprints.iter().filter(|said| said.is_none());
        suspended.count() + away.count()
    }

    /// Whether it lost a share since it was opened. Opening it again may find it well, even if the file's name, inode
    /// and time are the same.
    pub(super) fn is_damaged(&self) -> bool {
        let further = self.copies.iter().map(|(_, share)| share);
        let mut all = self.shares.iter().flatten().chain(further);
        all.any(Share::is_lost)
    }
}
