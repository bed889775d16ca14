//! Produces one piece of a file: a part of one verified segment, compared with its record, rebuilt where
//! a data share is missing, and decrypted.

use std::ops::Range;
use std::rc::Rc;

use super::file::File;
use super::gateway::Gateway;
use crate::engine::read::fill;
use crate::engine::{Engine, Piece, PieceError, plan};
use crate::io::Chunk;
use crate::units::{FileOffset, ObjectOffset};

/// Produces the first part of `wanted` that lies in one segment and fits one pool buffer.
pub async fn produce(
    engine: &Engine,
    gateway: &Gateway,
    file: &Rc<File>,
    wanted: Range<ObjectOffset>,
) -> Result<Piece, PieceError> {
    let layout = &file.layout;
    let segment = file.geometry.segment_of(wanted.start.0);
    let end = ObjectOffset(file.geometry.segment_range(segment).end);
    let end = wanted.end.min(end);
    let first_byte = layout.block_start(segment);
    // A record that does not match any more is dropped and made again from what is good then.
    let attempts = 2 * file.copies.len() + 8;
    for _ in 0..attempts {
        let record = gateway.record(engine, file, segment).await?;
        if record
            .sources()
            .iter()
            .any(|&at| !file.copies[at].is_usable(true))
        {
            // A node was suspended since: others take its place, if there are some.
            gateway.forget(file, segment);
            continue;
        }
        let room = engine.pool.room();
        let plan = plan::plan(layout, wanted.start..end, room, |number, _| {
            file.slot(&record, number).is_some()
        })?;
        let copy = |number| {
            file.slot(&record, number)
                .map(|slot| record.sources()[slot])
        };
        let buffer = engine.take_buffer().await?;
        let (windows, _) = buffer.carve(plan.window_lengths());
        let (mut windows, failures) =
            fill(file.number, plan.reads.iter(), windows, |read, window| {
                let copy = &file.copies[copy(read.share)?];
                let blocks = copy.regions.block_range(0).start;
                let offset = FileOffset(blocks + read.window.start.0);
                let reading = engine.io.start_read(&copy.file, window, offset);
                Some((reading, &copy.store))
            })
            .await?;
        for (number, error) in &failures {
            if let Some(at) = copy(*number) {
                file.lose(at, error);
            }
        }
        if !failures.is_empty() {
            gateway.forget(file, segment);
            continue;
        }
        let matches = plan.reads.iter().zip(&windows).all(|(read, window)| {
            let slot = file.slot(&record, read.share);
            let start = read.window.start - first_byte;
            slot.is_some_and(|slot| record.check(slot, start, window).is_ok())
        });
        if !matches {
            gateway.forget(file, segment);
            continue;
        }
        let (read, rebuilt) = windows.split_at_mut(plan.reads.len());
        engine.rebuild(&file.code, layout, &plan, read, rebuilt)?;
        let mut position = plan.range.start;
        for slice in &plan.slices {
            let bytes = &mut windows[slice.window][slice.bytes.clone()];
            file.cipher.apply(position.0, bytes);
            position += bytes.len() as u64;
        }
        engine.stats.pieces.add(1);
        return Ok(Piece {
            range: plan.range,
            chunks: windows.into_iter().map(Chunk::Window).collect(),
            slices: plan.slices,
            rebuilt: plan.rebuilt,
            rebuilt_window: plan.rebuilt_window,
        });
    }
    Err(PieceError::TooManyAttempts { attempts })
}
