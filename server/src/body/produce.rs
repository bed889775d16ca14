//! Produces one piece: reads what its plan asks for, verifies every leaf, rebuilds what is missing.
//!
//! No byte leaves here before the leaf around it matched its checksum. A share that can't be read or
//! does not match is marked, the piece is planned again without it, and the client notices nothing.
//! The piece's pool buffer goes to the socket next and is back right after that.

use std::io;
use std::iter;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::time::Instant;

use decode_kernel::code::Code;
use decode_kernel::share::{BLOCKS_OFFSET, TABLE_PAGE_ENTRIES};

use crate::body::readahead::Stretch;
use crate::body::splice;
use crate::connection::core::Core;
use crate::engine::plan::{self, Layout, PiecePlan, PlanError, Read, Room, Slice};
use crate::http::status::Status;
use crate::io::Reading;
use crate::io::pool::{Chunk, PoolBuffer, View, Window};
use crate::memory::limits::{TABLE_PAGE_BYTES, TABLE_PAGES_AT_ONCE};
use crate::objects::checksums::PageId;
use crate::objects::object::Object;
use crate::tahoe::verify::SegmentError;

/// A piece ready to be sent.
pub struct Piece {
    /// The object's bytes that it holds.
    pub range: Range<u64>,
    /// What was read and rebuilt for it.
    pub chunks: Vec<Chunk>,
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

/// Produces the first part of `wanted` that fits one pool buffer, from what was read `ahead` of it as far as that goes.
pub async fn produce(
    core: &Core,
    object: &Rc<Object>,
    wanted: Range<u64>,
    ahead: Option<&Stretch>,
) -> Result<Piece, ProduceError> {
    let geometry = object.geometry();
    // Every failed attempt marks a share or a leaf, so this many suffice unless marks are forgotten
    // (the record of bad leaves is bounded).
    let attempts = 2 * usize::from(geometry.n()) + 8;
    for _ in 0..attempts {
        let room = core.pool.room();
        let plan = plan(object, wanted.clone(), room)?;
        let buffer = core.pool.take().await;
        let mut editions = editions(core, object, &plan);
        let mut found = Vec::with_capacity(plan.reads.len());
        for (read, edition) in iter::zip(&plan.reads, &mut editions) {
            found.push(ahead.and_then(|ahead| ahead.find(read)).map(|(view, of)| {
                *edition = of;
                view
            }));
        }
        // Table pages that are not at hand come with the blocks, as far as the buffer has room beside them:
        // read one after the other, they would each cost a disk's latency.
        let missing = missing_pages(
            core,
            object,
            &plan.reads,
            room.bytes - plan.bytes(room.align),
        );
        let is_found = |at: usize| found.get(at).is_some_and(Option::is_some);
        let lengths = plan.window_lengths().enumerate();
        let lengths = lengths.filter_map(|(at, length)| (!is_found(at)).then_some(length));
        let pages = iter::repeat_n(TABLE_PAGE_BYTES, missing.len());
        let (mut windows, mut page) = buffer.carve(lengths.chain(pages));
        let pages = windows.split_off(windows.len() - missing.len());
        let fetching = start_pages(core, object, missing, pages);
        let mut rebuilt = windows.split_off(windows.len() - plan.rebuilt.len());
        let (chunks, all_read) = read(core, object, &plan.reads, found, windows).await?;
        let unusable = finish_pages(core, object, fetching).await?;
        if !all_read {
            continue;
        }
        let mut verified = true;
        for ((read, chunk), edition) in plan.reads.iter().zip(&chunks).zip(editions) {
            let (ok, page_back) = verify(core, object, read, chunk, page, &unusable).await?;
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
        let (code, layout) = (object.code(), object.layout());
        rebuild(core, code, layout, &plan, &chunks, &mut rebuilt)?;
        core.rebuilt.keep(object, &plan, &rebuilt, Instant::now());
        core.stats.pieces.add(1);
        let rebuilt = rebuilt.into_iter().map(Chunk::Own);
        let piece = Piece {
            range: plan.range,
            chunks: chunks.into_iter().chain(rebuilt).collect(),
            slices: plan.slices,
        };
        core.hot.keep(object, &piece, Instant::now());
        return Ok(piece);
    }
    Err(ProduceError::Attempts(attempts))
}

/// The editions of the files that are read, of those of which it is to be remembered what was verified: data shares
/// that are worth passing through. To be asked for before anything is read: what changes after that is another edition.
pub fn editions(core: &Core, object: &Object, plan: &PiecePlan) -> Vec<Option<u32>> {
    let kept = core.verified.is_kept() && splice::is_worth_it(object.layout(), plan.range.start);
    let remembered = |read: &Read| kept && read.share < object.geometry().k();
    plan.reads
        .iter()
        .map(|read| {
            object
                .share(read.share)
                .filter(|_| remembered(read))?
                .edition()
        })
        .collect()
}

/// Plans a piece with the shares that are usable as far as is known.
pub fn plan(object: &Object, wanted: Range<u64>, room: Room) -> Result<PiecePlan, PlanError> {
    plan::plan(object.layout(), wanted, room, |share, window| {
        object.usable(share, window)
    })
}

/// Reads what was not `found` to be at hand into the windows, all together; the flag says whether every share gave
/// what was asked.
async fn read(
    core: &Core,
    object: &Object,
    reads: &[Read],
    found: Vec<Option<View>>,
    windows: Vec<Window>,
) -> Result<(Vec<Chunk>, bool), ProduceError> {
    let missing =
        || iter::zip(reads, &found).filter_map(|(read, view)| view.is_none().then_some(read));
    let (windows, failures) = fill(missing(), windows, |read, window| {
        let share = object.share(read.share)?;
        let offset = BLOCKS_OFFSET + read.window.start;
        Some(core.io.start_read(&share.file, window, offset))
    })
    .await?;
    for read in missing() {
        if failures.iter().all(|failure| failure.0 != read.share) {
            count_read(core, object, read);
        }
    }
    let all_read = failures.is_empty();
    for (number, error) in failures {
        lose(core, object, number, error);
    }
    let mut windows = windows.into_iter();
    let chunks = found.into_iter().filter_map(|view| match view {
        Some(view) => Some(Chunk::Ahead(view)),
        None => windows.next().map(Chunk::Own),
    });
    Ok((chunks.collect(), all_read))
}

fn count_read(core: &Core, object: &Object, read: &Read) {
    let counter = match read.share < object.geometry().k() {
        true => &core.stats.data_read_bytes,
        false => &core.stats.parity_read_bytes,
    };
    counter.add(read.bytes() as u64);
}

/// Reads what pieces to come will be made of, past the page cache, and the table pages that verifying it takes.
/// `None` if a share did not give what was asked: that one is not read so again, and whether it can be read
/// at all is found out by the pieces.
pub async fn read_ahead(
    core: &Core,
    object: &Object,
    reads: &[Read],
    buffer: PoolBuffer,
) -> Option<Vec<Window>> {
    let lengths = || reads.iter().map(Read::bytes);
    let Room { bytes, align } = buffer.room();
    let used: usize = lengths().map(|length| length.next_multiple_of(align)).sum();
    let missing = missing_pages(core, object, reads, bytes - used);
    let pages = iter::repeat_n(TABLE_PAGE_BYTES, missing.len());
    let (mut windows, _) = buffer.carve(lengths().chain(pages));
    let pages = windows.split_off(reads.len());
    let fetching = start_pages(core, object, missing, pages);
    let filled = fill(reads.iter(), windows, |read, window| {
        let file = object.share(read.share)?.opened_direct()?;
        let offset = BLOCKS_OFFSET + read.window.start;
        Some(core.io.start_direct_read(&file, window, offset))
    });
    let (windows, failures) = filled.await.ok()?;
    finish_pages(core, object, fetching).await.ok()?;
    for (number, error) in &failures {
        if let Some(share) = object.share(*number) {
            share.refuse_direct(error);
        }
    }
    if !failures.is_empty() {
        return None;
    }
    for read in reads {
        count_read(core, object, read);
        core.stats.direct_read_bytes.add(read.bytes() as u64);
    }
    Some(windows)
}

/// Fills the windows for these reads, all of them together, as `start` starts them. Gives the windows back in order,
/// with the shares that did not give what was asked.
pub async fn fill<'a, 'b>(
    reads: impl Iterator<Item = &'b Read> + Clone,
    windows: Vec<Window>,
    start: impl Fn(&Read, Window) -> Option<Reading<'a>>,
) -> Result<(Vec<Window>, Vec<(u16, io::Error)>), ProduceError> {
    let mut windows = windows.into_iter();
    let mut readings = Vec::with_capacity(windows.len());
    for (read, window) in reads.clone().zip(windows.by_ref()) {
        // Plans use shares that are open.
        readings.push(start(read, window).ok_or(ProduceError::Interrupted)?);
    }
    let mut filled = Vec::with_capacity(readings.len() + windows.len());
    let mut failures = Vec::new();
    for (reading, read) in readings.into_iter().zip(reads) {
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
        core.stats.failed_shares.add(1);
        let path = object
            .share(number)
            .map(|share| share.path.display().to_string());
        tracing::warn!(
            key = %object.header().key, share = number, path = path.unwrap_or_default(),
            live = object.live_shares(), "share given up: {error}"
        );
    }
}

/// The table pages that verifying these reads takes and that are not at hand: no more than fit `room` bytes, and than
/// are read together.
fn missing_pages(core: &Core, object: &Object, reads: &[Read], room: usize) -> Vec<PageId> {
    let geometry = object.geometry();
    let page_of = |at: u64| {
        geometry
            .table_page_of(at / u64::from(geometry.leaf_bytes()))
            .0
    };
    reads
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
    window: &[u8],
    mut page: Window,
    unusable: &[PageId],
) -> Result<(bool, Window), ProduceError> {
    let geometry = object.geometry();
    let leaf_bytes = geometry.leaf_bytes() as usize;
    let checksum = object.header().leaf_checksum;
    let number = read.share;
    let mut leaf = read.window.start / leaf_bytes as u64;
    let mut rest = window;
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

fn start_pages<'a>(
    core: &'a Core,
    object: &Object,
    ids: Vec<PageId>,
    windows: Vec<Window>,
) -> Vec<PageRead<'a>> {
    iter::zip(ids, windows)
        .filter_map(|(id, window)| PageRead::start(core, object, id, window))
        .collect()
}

/// Waits for pages, and says which of them can't be used.
async fn finish_pages(
    core: &Core,
    object: &Object,
    fetching: Vec<PageRead<'_>>,
) -> Result<Vec<PageId>, ProduceError> {
    let mut unusable = Vec::new();
    for fetch in fetching {
        let id = fetch.id;
        if !fetch.finish(core, object).await?.0 {
            unusable.push(id);
        }
    }
    Ok(unusable)
}

/// Rebuilds what a plan rebuilds from what it reads.
pub fn rebuild(
    core: &Core,
    code: &Code,
    layout: &Layout,
    plan: &PiecePlan,
    read: &[impl Deref<Target = [u8]>],
    rebuilt: &mut [Window],
) -> Result<(), ProduceError> {
    if plan.rebuilt.is_empty() {
        return Ok(());
    }
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
