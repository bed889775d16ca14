//! Checks every leaf that was read against its share's checksum table, whose pages are read with the blocks.

use std::iter;

use decode_kernel::share::TABLE_PAGE_ENTRIES;

use super::plan::Read;
use super::read;
use super::{Engine, PieceError};
use crate::io::{PendingRead, Window, join};
use crate::memory::limits::{TABLE_PAGE_BYTES, TABLE_PAGES_AT_ONCE};
use crate::objects::Object;
use crate::objects::checksums::PageId;
use crate::units::{CopyNumber, FileOffset, ShareNumber};

/// A page of a share's checksum table, and the copy to read it from. It says the same in all copies.
type Page = (PageId, CopyNumber);

/// A page of a share's checksum table on its way.
pub struct PageRead<'a> {
    id: PageId,
    /// The copy of the share that it is read from.
    copy: CopyNumber,
    reading: PendingRead<'a>,
}

impl<'a> AsMut<PendingRead<'a>> for PageRead<'a> {
    fn as_mut(&mut self) -> &mut PendingRead<'a> {
        &mut self.reading
    }
}

impl Engine {
    /// The pages of checksums that verifying these reads takes and that are not at hand: no more than fit `room` bytes,
    /// and than are read together. Read one after the other, each page would cost a disk's latency.
    pub fn missing_pages(&self, object: &Object, reads: &[Read], room: usize) -> Vec<Page> {
        let geometry = object.geometry();
        let page_of = |leaf| geometry.table_page_of(leaf).0;
        reads
            .iter()
            .flat_map(|read| {
                let leaves = object.layout().leaves(&read.window);
                let pages = page_of(leaves.start)..=page_of(leaves.end - 1);
                pages.map(|index| ((object.id(), read.share, index), read.copy))
            })
            .filter(|(id, _)| !self.checksums.has(*id))
            .take(TABLE_PAGES_AT_ONCE.min(room / TABLE_PAGE_BYTES))
            .collect()
    }

    /// Starts reading pages, each into a window of its own.
    pub fn start_pages(
        &self,
        object: &Object,
        pages: Vec<Page>,
        windows: Vec<Window>,
    ) -> Vec<PageRead<'_>> {
        iter::zip(pages, windows)
            .filter_map(|(page, window)| self.start_page(object, page, window))
            .collect()
    }

    /// Waits for pages, keeps the good ones, and says which can't be used.
    ///
    /// # Errors
    /// If the runtime is going down.
    pub async fn finish_pages(
        &self,
        object: &Object,
        mut pages: Vec<PageRead<'_>>,
    ) -> Result<Vec<PageId>, PieceError> {
        let mut unusable = Vec::new();
        join(&mut pages, self.timeout).await;
        for page in pages {
            let id = page.id;
            if !self.finish_page(object, page)?.0 {
                unusable.push(id);
            }
        }
        Ok(unusable)
    }

    /// Starts reading a page into `window`; `None` if its share is not open.
    fn start_page(&self, object: &Object, page: Page, window: Window) -> Option<PageRead<'_>> {
        let (id, copy) = page;
        let (_, number, index) = id;
        let share = object.share(number, copy)?;
        let table = FileOffset(object.geometry().table_offset());
        let offset = table + index * TABLE_PAGE_BYTES as u64;
        let reading = self.io.start_read(&share.file, window, offset);
        Some(PageRead { id, copy, reading })
    }

    /// Keeps a page that was waited for, if it is good. Returns whether it is, and the window unless its read hangs.
    fn finish_page(
        &self,
        object: &Object,
        page: PageRead<'_>,
    ) -> Result<(bool, Option<Window>), PieceError> {
        let ((_, number, index), copy) = (page.id, page.copy);
        let Some(share) = object.share(number, copy) else {
            return Err(PieceError::Bug("a page of a share that is not open"));
        };
        let (result, window) = read::end(page.reading, share.store(), object.number())?;
        let window = match (result, window) {
            (Ok(()), Some(window)) => window,
            (Ok(()), None) => return Ok((false, None)),
            (Err(error), window) => {
                self.give_up_file(object, number, copy, &error);
                return Ok((false, window));
            }
        };
        self.stats.table_read_bytes.add(window.len() as u64);
        let kept = self.checksums.insert(object, number, index, &window);
        if let Err(error) = &kept {
            let start = object.geometry().table_offset() + index * TABLE_PAGE_BYTES as u64;
            if object.refetch(number, copy, &(start..start + TABLE_PAGE_BYTES as u64)) {
                return Ok((false, Some(window)));
            }
            tracing::warn!(
                key = %object.header().key, share = %number, path = %object.share_path(number, copy),
                "leaf checksums can't be used: {error}"
            );
        }
        Ok((kept.is_ok(), Some(window)))
    }

    /// Checks every leaf of a read's window. Pages of checksums that are not at hand are read into `page`, except those
    /// that were found `unusable` just now. Returns whether all leaves matched, and the window for pages, which is gone if
    /// reading one hangs.
    ///
    /// # Errors
    /// If a plan names a share that is not open, or the runtime is going down.
    pub async fn verify(
        &self,
        object: &Object,
        read: &Read,
        bytes: &[u8],
        mut page: Option<Window>,
        unusable: &[PageId],
    ) -> Result<(bool, Option<Window>), PieceError> {
        let geometry = object.geometry();
        let leaf_bytes = geometry.leaf_bytes() as usize;
        let checksum = object.header().leaf_checksum;
        let (number, copy) = (read.share, read.copy);
        let mut leaf = object.layout().leaves(&read.window).start;
        let mut rest = bytes;
        let (mut matched, mut failed) = (0, 0);
        while !rest.is_empty() {
            // As many leaves as one page covers.
            let (index, entry) = geometry.table_page_of(leaf);
            let length = rest.len().min((TABLE_PAGE_ENTRIES - entry) * leaf_bytes);
            let (part, behind) = rest.split_at(length);
            let id = (object.id(), number, index);
            if !self.checksums.has(id) && !unusable.contains(&id) {
                let Some(window) = page else {
                    // The read of another page hangs: the piece is made anew.
                    return Ok((false, None));
                };
                let mut reading = [self
                    .start_page(object, (id, copy), window)
                    .ok_or(PieceError::Bug("a plan names a share that is not open"))?];
                join(&mut reading, self.timeout).await;
                let [reading] = reading;
                page = self.finish_page(object, reading)?.1;
                if page.is_none() {
                    return Ok((false, None));
                }
            }
            self.checksums.with(id, |sums| {
                for (offset, bytes) in part.chunks(leaf_bytes).enumerate() {
                    // A page that is lost or damaged leaves its leaves unverifiable: as good as bad.
                    let sum = sums.and_then(|sums| sums.get(entry + offset));
                    if sum == Some(&checksum.compute(bytes)) {
                        matched += 1;
                    } else {
                        failed += 1;
                        mark_bad_leaf(object, number, copy, leaf + offset as u64);
                    }
                }
            });
            leaf += length.div_ceil(leaf_bytes) as u64;
            rest = behind;
        }
        self.stats.verified_leaves.add(matched);
        self.stats.failed_leaves.add(failed);
        Ok((failed == 0, page))
    }
}

/// Marks a leaf that does not match its checksum.
fn mark_bad_leaf(object: &Object, number: ShareNumber, copy: CopyNumber, leaf: u64) {
    let bytes = object.layout().leaf_range(&(leaf..leaf + 1));
    let in_file = bytes.start.in_file().0..bytes.end.in_file().0;
    if object.refetch(number, copy, &in_file) {
        return;
    }
    if object.mark_bad(number, copy, leaf) {
        let bad = object.layout().leaf_range(&(leaf..leaf + 1));
        tracing::warn!(
            key = %object.header().key, share = %number, path = %object.share_path(number, copy),
            offset = %bad.start.in_file(),
            "bad leaf: its checksum does not match"
        );
    }
}
