//! A piece: the bytes that one turn produces for one connection.

use std::ops::Range;

use crate::engine::plan::Slice;
use crate::engine::{Engine, PieceError};
use crate::io::{Chunk, Message};
use crate::units::{ObjectOffset, ShareNumber, ShareOffset};

/// A piece ready to be sent.
pub struct Piece {
    /// The object's bytes that it holds.
    pub range: Range<ObjectOffset>,
    /// What was read for it, and then what was rebuilt.
    pub chunks: Vec<Chunk>,
    /// Its bytes in order.
    pub slices: Vec<Slice>,
    /// The shares that were rebuilt, in the order of the last chunks.
    pub rebuilt: Vec<ShareNumber>,
    /// The range of share space that was rebuilt of each of them.
    pub rebuilt_window: Range<ShareOffset>,
}

impl Piece {
    /// A piece of bytes that no share holds: as much of `bytes`, which begin at `start` of the object, as fits one
    /// pool buffer.
    ///
    /// # Errors
    /// As [`Engine::take_buffer`].
    pub async fn literal(
        engine: &Engine,
        start: ObjectOffset,
        bytes: &[u8],
    ) -> Result<Piece, PieceError> {
        let part = &bytes[..bytes.len().min(engine.pool.piece_capacity())];
        let buffer = engine.take_buffer().await?;
        let (mut windows, _) = buffer.carve(std::iter::once(part.len()));
        windows[0].copy_from_slice(part);
        Ok(Piece {
            range: start..start + part.len() as u64,
            chunks: windows.into_iter().map(Chunk::Window).collect(),
            slices: vec![Slice {
                window: 0,
                bytes: 0..part.len(),
            }],
            rebuilt: Vec::new(),
            rebuilt_window: Range::default(),
        })
    }

    /// The bytes that were rebuilt, share by share.
    pub fn rebuilt_chunks(&self) -> &[Chunk] {
        &self.chunks[self.chunks.len() - self.rebuilt.len()..]
    }

    /// Its bytes in order, slice by slice.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        let slices = self.slices.iter();
        slices.map(|slice| &self.chunks[slice.window][slice.bytes.clone()])
    }

    /// The message that sends `head` and then the piece.
    pub fn into_message(self, head: bytes::Bytes) -> Message {
        let slices = self.slices.into_iter();
        let slices = slices.map(|slice| (slice.window, slice.bytes));
        Message::new(head, self.chunks, slices.collect())
    }
}
