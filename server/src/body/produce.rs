//! Produces one piece of an object: reads what its plan asks for, has every leaf verified, rebuilds what is missing.
//!
//! No byte leaves here before the leaf around it matched its checksum. A share that can't be read or
//! does not match is marked, the piece is planned again without it, and the client notices nothing.
//! The piece's pool buffer goes to the socket next and is back right after that.

use std::iter;
use std::ops::Range;
use std::time::Instant;

use super::batch::Batch;
use crate::engine::plan::{self, PiecePlan, Read};
use crate::engine::read::{fill, is_hung};
use crate::engine::{Engine, Piece, PieceError};
use crate::io::{Chunk, PoolBuffer, Room, View, Window};
use crate::memory::limits::TABLE_PAGE_BYTES;
use crate::objects::Object;
use crate::units::ObjectOffset;

/// Produces the first part of `wanted` that fits one pool buffer, from the `batch` that was read ahead as far as that
/// holds it.
///
/// # Errors
/// If too few good shares are left for its beginning, or the server can't do it; see [`PieceError`].
pub async fn produce(
    engine: &Engine,
    object: &Object,
    wanted: Range<ObjectOffset>,
    batch: Option<&Batch>,
) -> Result<Piece, PieceError> {
    let geometry = object.geometry();
    // Every failed attempt marks a share or a leaf, so this many suffice unless marks are forgotten
    // (the record of bad leaves is bounded).
    let more_copies = object.share_files().saturating_sub(geometry.n().into());
    let attempts = 2 * (usize::from(geometry.n()) + more_copies) + 8;
    for _ in 0..attempts {
        let room = engine.pool.room();
        let plan = plan_piece(object, wanted.clone(), room)?;
        let buffer = engine.take_buffer().await?;
        let mut versions = versions(engine, object, &plan);
        let mut found = Vec::with_capacity(plan.reads.len());
        for (read, version) in iter::zip(&plan.reads, &mut versions) {
            found.push(batch.and_then(|batch| batch.find(read)).map(|(view, of)| {
                *version = of;
                view
            }));
        }
        let left = room.bytes - plan.bytes(room.align);
        let missing = engine.missing_pages(object, &plan.reads, left);
        let is_found = |at: usize| found.get(at).is_some_and(Option::is_some);
        let lengths = plan.window_lengths().enumerate();
        let lengths = lengths.filter_map(|(at, length)| (!is_found(at)).then_some(length));
        let pages = iter::repeat_n(TABLE_PAGE_BYTES, missing.len());
        let (mut windows, page) = buffer.carve(lengths.chain(pages));
        let mut page = Some(page);
        let pages = windows.split_off(windows.len() - missing.len());
        let pages = engine.start_pages(object, missing, pages);
        let mut rebuilt = windows.split_off(windows.len() - plan.rebuilt.len());
        let (chunks, all_read) = read(engine, object, &plan.reads, found, windows).await?;
        let unusable = engine.finish_pages(object, pages).await?;
        if !all_read {
            continue;
        }
        let mut verified = true;
        for ((read, chunk), version) in plan.reads.iter().zip(&chunks).zip(versions) {
            let (matched, page_back) = engine.verify(object, read, chunk, page, &unusable).await?;
            page = page_back;
            verified &= matched;
            if let Some(version) = version.filter(|_| matched) {
                let file = (object.id(), read.share, version);
                let leaves = object.layout().leaves(&read.window);
                // A batch was read past the page cache.
                let cached = matches!(chunk, Chunk::Window(_));
                engine.verified.note(file, leaves, cached, Instant::now());
            }
        }
        if !verified {
            continue;
        }
        let (code, layout) = (object.code(), object.layout());
        engine.rebuild(code, layout, &plan, &chunks, &mut rebuilt)?;
        engine.stats.pieces.add(1);
        let rebuilt = rebuilt.into_iter().map(Chunk::Window);
        return Ok(Piece {
            range: plan.range,
            chunks: chunks.into_iter().chain(rebuilt).collect(),
            slices: plan.slices,
            rebuilt: plan.rebuilt,
            rebuilt_window: plan.rebuilt_window,
        });
    }
    Err(PieceError::TooManyAttempts { attempts })
}

/// Plans a piece with the shares that are usable as far as is known: those of slow stores only where it takes them.
///
/// # Errors
/// As [`plan::plan`], or that stores are away that have what is missing.
pub fn plan_piece(
    object: &Object,
    wanted: Range<ObjectOffset>,
    room: Room,
) -> Result<PiecePlan, PieceError> {
    let plan = |also_slow| {
        let usable = |share, window: &_| object.usable_copy(share, window, also_slow);
        let mut plan = plan::plan(object.layout(), wanted.clone(), room, |share, window| {
            usable(share, window).is_some()
        })?;
        for read in &mut plan.reads {
            read.copy = usable(read.share, &read.window).unwrap_or_default();
        }
        Ok(plan)
    };
    let failed = match plan(false) {
        Err(PieceError::TooFewShares { .. }) => match plan(true) {
            Err(error @ PieceError::TooFewShares { .. }) => error,
            result => return result,
        },
        result => return result,
    };
    let error = match object.stores_away() {
        0 => failed,
        away => PieceError::StoresAway {
            away,
            cause: Box::new(failed),
        },
    };
    Err(match object.is_remote() {
        // Whether it may be fetched is found out where it is.
        true => PieceError::NotFetched {
            cause: Box::new(error),
        },
        false => error,
    })
}

/// The versions of the files that are read, as far as it is to be remembered what was verified of them: those of data
/// shares whose blocks are worth splicing. To be asked for before anything is read: a change after that makes another
/// version.
pub fn versions(engine: &Engine, object: &Object, plan: &PiecePlan) -> Vec<Option<u32>> {
    let kept = engine.verified.is_kept() && object.layout().is_splice_worthwhile(plan.range.start);
    let remembered = |read: &&Read| kept && read.share.is_data(object.geometry().k());
    let reads = plan.reads.iter();
    reads
        .map(|read| {
            let read = Some(read).filter(remembered)?;
            object.share(read.share, read.copy)?.version()
        })
        .collect()
}

/// Reads what was not `found` in a batch into the windows, all together. The flag says whether every share gave what
/// was asked.
async fn read(
    engine: &Engine,
    object: &Object,
    reads: &[Read],
    found: Vec<Option<View>>,
    windows: Vec<Window>,
) -> Result<(Vec<Chunk>, bool), PieceError> {
    let missing =
        || iter::zip(reads, &found).filter_map(|(read, view)| view.is_none().then_some(read));
    let (windows, failures) = fill(object.number(), missing(), windows, |read, window| {
        let share = object.share(read.share, read.copy)?;
        let offset = read.window.start.in_file();
        let reading = engine.io.start_read(&share.file, window, offset);
        Some((reading, share.store()))
    })
    .await?;
    for read in missing() {
        if failures.iter().all(|failure| failure.0 != read.share) {
            count_read(engine, object, read);
        }
    }
    for (number, error) in &failures {
        if let Some(read) = reads.iter().find(|read| read.share == *number) {
            engine.give_up_range(object, read, error);
        }
    }
    let mut windows = windows.into_iter();
    let chunks = found.into_iter().filter_map(|view| match view {
        Some(view) => Some(Chunk::View(view)),
        None => windows.next().map(Chunk::Window),
    });
    Ok((chunks.collect(), failures.is_empty()))
}

fn count_read(engine: &Engine, object: &Object, read: &Read) {
    let counter = match read.share.is_data(object.geometry().k()) {
        true => &engine.stats.data_read_bytes,
        false => &engine.stats.parity_read_bytes,
    };
    counter.add(read.bytes() as u64);
}

/// Reads what later pieces will be made of, past the page cache, and the pages of checksums that verifying it takes.
/// `None` if a share did not give what was asked: direct reads of that one end, and the pieces find out whether it can
/// be read at all.
pub async fn read_direct(
    engine: &Engine,
    object: &Object,
    reads: &[Read],
    buffer: PoolBuffer,
) -> Option<Vec<Window>> {
    let lengths = || reads.iter().map(Read::bytes);
    let Room { bytes, align } = buffer.room();
    let used: usize = lengths().map(|length| length.next_multiple_of(align)).sum();
    let missing = engine.missing_pages(object, reads, bytes - used);
    let pages = iter::repeat_n(TABLE_PAGE_BYTES, missing.len());
    let (mut windows, _) = buffer.carve(lengths().chain(pages));
    let pages = windows.split_off(reads.len());
    let pages = engine.start_pages(object, missing, pages);
    let filled = fill(object.number(), reads.iter(), windows, |read, window| {
        let share = object.share(read.share, read.copy)?;
        let file = share.direct_file()?;
        let offset = read.window.start.in_file();
        let reading = engine.io.start_direct_read(&file, window, offset);
        Some((reading, share.store()))
    });
    let (windows, failures) = filled.await.ok()?;
    engine.finish_pages(object, pages).await.ok()?;
    for (number, error) in &failures {
        let read = reads.iter().find(|read| read.share == *number);
        let share = read.and_then(|read| object.share(read.share, read.copy));
        if let Some(share) = share.filter(|_| !is_hung(error)) {
            share.refuse_direct(error);
        }
    }
    if !failures.is_empty() {
        return None;
    }
    for read in reads {
        count_read(engine, object, read);
        engine.stats.direct_read_bytes.add(read.bytes() as u64);
    }
    Some(windows)
}
