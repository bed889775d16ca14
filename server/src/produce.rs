//! Produces one piece: reads what its plan asks for, verifies every leaf, rebuilds what is missing.
//!
//! No byte leaves here before the leaf around it matched its checksum. A share that can't be read or
//! does not match is marked, the piece is planned again without it, and the client notices nothing.
//! The piece's pool buffer goes to the socket next and is back right after that.

use std::fs::File;
use std::io;
use std::iter;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::code::Code;
use decode_kernel::share::{BLOCKS_OFFSET, TABLE_PAGE_ENTRIES};

use crate::core::Core;
use crate::http::respond::Status;
use crate::io::Reading;
use crate::io::buffer::Window;
use crate::limits::{TABLE_PAGE_BYTES, TABLE_PAGES_AT_ONCE};
use crate::object::Object;
use crate::pass;
use crate::plan::{self, Layout, PiecePlan, PlanError, Read, Slice};
use crate::tables::PageId;
use crate::tahoe::verify::SegmentError;

/// A piece ready to be sent.
pub struct Piece {
    /// The object's bytes that it holds.
    pub range: Range<u64>,
    /// The pool buffer, in windows.
    pub windows: Vec<Window>,
    /// Its bytes in order.
    pub slices: Vec<Slice>,
}

/// Why a piece can't be produced.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// Too few good shares, or pool buffers that are too small.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A segment of a Tahoe-LAFS file can't be verified.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Shares kept failing in new ways; the bound keeps a hostile disk from holding the connection.
    #[error("gave up after {0} attempts to read good shares")]
    Attempts(usize),
    /// The code refused.
    #[error(transparent)]
    Code(#[from] decode_kernel::CodeError),
    /// The runtime is going down.
    #[error("reading was interrupted")]
    Interrupted,
}

impl ProduceError {
    /// What it is to a client that has not been sent anything yet.
    pub fn answer(&self) -> (Status, &'static str) {
        match self {
            ProduceError::Segment(_) => (
                Status::Gone,
                "fewer good shares of this file are here than it takes",
            ),
            _ => (
                Status::InternalError,
                "too few good shares of this object are left",
            ),
        }
    }
}

/// Produces the first part of `wanted` that fits one pool buffer.
pub async fn produce(
    core: &Core,
    object: &Rc<Object>,
    wanted: Range<u64>,
) -> Result<Piece, ProduceError> {
    let geometry = object.geometry();
    // Every failed attempt marks a share or a leaf, so this many suffice unless marks are forgotten
    // (the record of bad leaves is bounded).
    let attempts = 2 * usize::from(geometry.n()) + 8;
    for _ in 0..attempts {
        let capacity = core.pool.piece_capacity();
        let plan = plan::plan(
            object.layout(),
            wanted.clone(),
            capacity,
            |share, window| object.usable(share, window),
        )?;
        let buffer = core.pool.take().await;
        // Asked before anything is read: what changes after that is another edition.
        let remembered = pass::is_worth_it(object.layout(), wanted.start);
        let editions: Vec<Option<u32>> = plan
            .reads
            .iter()
            .map(|read| match remembered {
                true => edition(core, object, read.share),
                false => None,
            })
            .collect();
        // Table pages that are not at hand come with the blocks, as far as the buffer has room beside them:
        // read one after the other, they would each cost a disk's latency.
        let missing = missing_pages(core, object, &plan, capacity - plan.bytes());
        let pages = iter::repeat_n(TABLE_PAGE_BYTES, missing.len());
        let (mut windows, mut page) = buffer.carve(plan.window_lengths().chain(pages));
        let pages = windows.split_off(windows.len() - missing.len());
        let fetching: Vec<PageRead> = iter::zip(missing, pages)
            .filter_map(|(id, window)| PageRead::start(core, object, id, window))
            .collect();
        let (mut windows, all_read) = read(core, object, &plan, windows).await?;
        let mut unusable = Vec::new();
        for fetch in fetching {
            let id = fetch.id;
            if !fetch.finish(core, object).await?.0 {
                unusable.push(id);
            }
        }
        if !all_read {
            continue;
        }
        let mut verified = true;
        for ((read, window), edition) in plan.reads.iter().zip(&windows).zip(editions) {
            let (ok, page_back) = verify(core, object, read, window, page, &unusable).await?;
            page = page_back;
            verified &= ok;
            if let Some(edition) = edition.filter(|_| ok) {
                let leaf = u64::from(geometry.leaf_bytes());
                let leaves = read.window.start / leaf..read.window.end.div_ceil(leaf);
                core.verified
                    .note(object.id(), read.share, edition, leaves, Instant::now());
            }
        }
        if !verified {
            continue;
        }
        rebuild(core, object.code(), object.layout(), &plan, &mut windows)?;
        core.stats.pieces.add(1);
        let piece = Piece {
            range: plan.range,
            windows,
            slices: plan.slices,
        };
        core.hot.keep(object, &piece, Instant::now());
        return Ok(piece);
    }
    Err(ProduceError::Attempts(attempts))
}

/// The edition of a share's file, if what is read from it now is to be remembered: only data shares are
/// ever passed through.
fn edition(core: &Core, object: &Object, number: u16) -> Option<u32> {
    if !core.verified.is_kept() || number >= object.geometry().k() {
        return None;
    }
    object.share(number)?.edition()
}

/// Reads all windows of the plan, together; the flag says whether every share gave what was asked.
async fn read(
    core: &Core,
    object: &Rc<Object>,
    plan: &PiecePlan,
    windows: Vec<Window>,
) -> Result<(Vec<Window>, bool), ProduceError> {
    let (windows, failures) = fill(core, plan, windows, |read| {
        let share = object.share(read.share)?;
        Some((Arc::clone(&share.file), BLOCKS_OFFSET + read.window.start))
    })
    .await?;
    for read in &plan.reads {
        if failures.iter().all(|failure| failure.0 != read.share) {
            let counter = if read.share < object.geometry().k() {
                &core.stats.data_read_bytes
            } else {
                &core.stats.parity_read_bytes
            };
            counter.add(read.window.end - read.window.start);
        }
    }
    let all_read = failures.is_empty();
    for (number, error) in failures {
        lose(core, object, number, error);
    }
    Ok((windows, all_read))
}

/// Fills the windows that a plan reads, all reads together, from where `source` says that they are. Gives
/// the windows back in order, with the shares that did not give what was asked.
pub async fn fill(
    core: &Core,
    plan: &PiecePlan,
    windows: Vec<Window>,
    source: impl Fn(&Read) -> Option<(Arc<File>, u64)>,
) -> Result<(Vec<Window>, Vec<(u16, io::Error)>), ProduceError> {
    let mut windows = windows.into_iter();
    let mut readings = Vec::with_capacity(plan.reads.len());
    for (read, window) in plan.reads.iter().zip(windows.by_ref()) {
        // Plans use shares that are open.
        let (file, offset) = source(read).ok_or(ProduceError::Interrupted)?;
        readings.push(core.io.start_read(&file, window, offset));
    }
    let mut filled = Vec::with_capacity(plan.reads.len() + plan.rebuilt.len());
    let mut failures = Vec::new();
    for (reading, read) in readings.into_iter().zip(&plan.reads) {
        let (result, window) = reading.finish().await;
        let window = window.ok_or(ProduceError::Interrupted)?;
        if let Some(error) = short(result, window.len()) {
            failures.push((read.share, error));
        }
        filled.push(window);
    }
    filled.extend(windows);
    Ok((filled, failures))
}

/// What is wrong with a read, if it did not bring all that was `wanted`.
pub fn short(result: io::Result<usize>, wanted: usize) -> Option<io::Error> {
    match result {
        Ok(count) if count == wanted => None,
        Ok(count) => Some(io::Error::other(format!(
            "the file ends early: {count} of {wanted} bytes"
        ))),
        Err(error) => Some(error),
    }
}

/// Gives a share up.
pub fn lose(core: &Core, object: &Object, number: u16, error: io::Error) {
    if object.mark_lost(number) {
        core.stats.lost_shares.add(1);
        let path = object
            .share(number)
            .map(|share| share.path.display().to_string());
        tracing::warn!(
            key = %object.header().key, share = number, path = path.unwrap_or_default(),
            live = object.live_shares(), "share given up: {error}"
        );
    }
}

/// The table pages that verifying a plan's reads takes and that are not at hand: no more than fit `room` bytes,
/// and than are read together.
fn missing_pages(core: &Core, object: &Object, plan: &PiecePlan, room: usize) -> Vec<PageId> {
    let geometry = object.geometry();
    let page_of = |at: u64| {
        geometry
            .table_page_of(at / u64::from(geometry.leaf_bytes()))
            .0
    };
    plan.reads
        .iter()
        .flat_map(|read| {
            let pages = page_of(read.window.start)..=page_of(read.window.end - 1);
            pages.map(|index| (object.id(), read.share, index))
        })
        .filter(|&id| !core.tables.has(id))
        .take(TABLE_PAGES_AT_ONCE.min(room / TABLE_PAGE_BYTES))
        .collect()
}

/// Checks every leaf of a read's window against the share's table. Table pages that are not at hand are read
/// into `page`, but those that were found `unusable` just now. Returns whether all matched, and the window for
/// table pages.
async fn verify(
    core: &Core,
    object: &Rc<Object>,
    read: &Read,
    window: &Window,
    mut page: Window,
    unusable: &[PageId],
) -> Result<(bool, Window), ProduceError> {
    let geometry = object.geometry();
    let leaf_bytes = geometry.leaf_bytes() as usize;
    let checksum = object.header().leaf_checksum;
    let number = read.share;
    let mut leaf = read.window.start / leaf_bytes as u64;
    let mut rest = &window[..];
    let (mut matched, mut failed) = (0, 0);
    while !rest.is_empty() {
        // As many leaves as one table page covers.
        let (index, entry) = geometry.table_page_of(leaf);
        let length = rest.len().min((TABLE_PAGE_ENTRIES - entry) * leaf_bytes);
        let (part, behind) = rest.split_at(length);
        let id = (object.id(), number, index);
        if !core.tables.has(id) && !unusable.contains(&id) {
            page = match PageRead::start(core, object, id, page) {
                Some(fetch) => fetch.finish(core, object).await?.1,
                None => return Err(ProduceError::Interrupted),
            };
        }
        core.tables.with(id, |sums| {
            for (offset, bytes) in part.chunks(leaf_bytes).enumerate() {
                // A table page that is lost or damaged leaves its leaves unverifiable: as good as bad.
                let sum = sums.and_then(|sums| sums.get(entry + offset));
                if sum == Some(&checksum.compute(bytes)) {
                    matched += 1;
                } else {
                    failed += 1;
                    bad_leaf(object, number, leaf + offset as u64);
                }
            }
        });
        leaf += length.div_ceil(leaf_bytes) as u64;
        rest = behind;
    }
    core.stats.verified_leaves.add(matched);
    core.stats.failed_leaves.add(failed);
    Ok((failed == 0, page))
}

/// Marks a leaf that does not match its checksum.
fn bad_leaf(object: &Object, number: u16, leaf: u64) {
    if object.mark_bad(number, leaf) {
        let path = object
            .share(number)
            .map(|share| share.path.display().to_string());
        tracing::warn!(
            key = %object.header().key, share = number, path = path.unwrap_or_default(),
            offset = BLOCKS_OFFSET + leaf * u64::from(object.geometry().leaf_bytes()),
            "bad leaf: its checksum does not match"
        );
    }
}

/// A page of a share's table on its way.
struct PageRead<'a> {
    id: PageId,
    reading: Reading<'a>,
}

impl<'a> PageRead<'a> {
    /// Starts reading a page into `window`. Plans use shares that are open: `None` for others.
    fn start(core: &'a Core, object: &Object, id: PageId, window: Window) -> Option<PageRead<'a>> {
        let (_, number, index) = id;
        let share = object.share(number)?;
        let offset = object.geometry().table_offset() + index * TABLE_PAGE_BYTES as u64;
        let reading = core.io.start_read(&share.file, window, offset);
        Some(PageRead { id, reading })
    }

    /// Waits for the page, and keeps it if it is good. Returns whether it is, and the window.
    async fn finish(self, core: &Core, object: &Object) -> Result<(bool, Window), ProduceError> {
        let (_, number, index) = self.id;
        let (result, window) = self.reading.finish().await;
        let window = window.ok_or(ProduceError::Interrupted)?;
        if let Some(error) = short(result, window.len()) {
            lose(core, object, number, error);
            return Ok((false, window));
        }
        core.stats.table_read_bytes.add(window.len() as u64);
        let kept = core.tables.insert(object, number, index, &window);
        if let Err(error) = &kept {
            let path = object
                .share(number)
                .map(|share| share.path.display().to_string());
            tracing::warn!(
                key = %object.header().key, share = number, path = path.unwrap_or_default(),
                "leaf checksums can't be used: {error}"
            );
        }
        Ok((kept.is_ok(), window))
    }
}

/// Rebuilds what a plan rebuilds, into its last windows.
pub fn rebuild(
    core: &Core,
    code: &Code,
    layout: &Layout,
    plan: &PiecePlan,
    windows: &mut [Window],
) -> Result<(), ProduceError> {
    if plan.rebuilt.is_empty() {
        return Ok(());
    }
    let (read, rebuilt) = windows.split_at_mut(plan.reads.len());
    let wanted = &plan.rebuilt_window;
    let mut sources = Vec::with_capacity(plan.sources.len());
    let mut inputs = Vec::with_capacity(plan.sources.len());
    for &source in &plan.sources {
        let at = &plan.reads[source];
        let start = (wanted.start - at.window.start) as usize;
        sources.push(usize::from(at.share));
        inputs.push(&read[source][start..start + (wanted.end - wanted.start) as usize]);
    }
    let numbers: Vec<usize> = plan
        .rebuilt
        .iter()
        .map(|&number| usize::from(number))
        .collect();
    let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(|window| &mut window[..]).collect();
    core.coder
        .borrow_mut()
        .rebuild(code, &sources, &inputs, &numbers, &mut outputs)?;

    let block = layout.block_bytes;
    core.stats
        .rebuilt_segments
        .add((wanted.end - 1) / block - wanted.start / block + 1);
    core.stats
        .rebuilt_bytes
        .add((wanted.end - wanted.start) * plan.rebuilt.len() as u64);
    Ok(())
}
