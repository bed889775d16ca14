//! A message to a socket: parts of windows and views, after a head.

use std::io::IoSlice;
use std::ops::{Deref, Range};

use bytes::Bytes;

use super::pool::{View, Window};

/// What a piece is made of.
pub enum Chunk {
    /// What was read or rebuilt for it.
    Own(Window),
    /// What was read ahead.
    Ahead(View),
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Chunk::Own(window) => window,
            Chunk::Ahead(view) => view,
        }
    }
}

/// What one `sendmsg` sends: the rest of a head, then parts of chunks.
pub struct Message {
    head: Bytes,
    chunks: Vec<Chunk>,
    slices: Vec<(usize, Range<usize>)>,
}

impl Message {
    /// A message of `head` and then `slices` (of the chunk with that index, these bytes), in order.
    pub fn new(head: Bytes, chunks: Vec<Chunk>, slices: Vec<(usize, Range<usize>)>) -> Message {
        Message {
            head,
            chunks,
            slices,
        }
    }

    /// What goes before the slices.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The slices alone.
    #[must_use]
    pub fn without_head(self) -> Message {
        Message {
            head: Bytes::new(),
            ..self
        }
    }

    /// Whether all of it lies in windows of its own, and so in one buffer.
    pub fn is_own(&self) -> bool {
        self.chunks
            .iter()
            .all(|chunk| matches!(chunk, Chunk::Own(_)))
    }

    /// The index under which the buffer of its own windows is registered, if there are some, and it is.
    pub fn buffer_index(&self) -> Option<u16> {
        self.chunks.iter().find_map(|chunk| match chunk {
            Chunk::Own(window) => window.buffer_index(),
            Chunk::Ahead(_) => None,
        })
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        let slices = self.slices.iter().map(|(_, bytes)| bytes.len());
        self.head.len() + slices.sum::<usize>()
    }

    /// The parts in order, as far as they lie in `range` of the message.
    ///
    /// # Panics
    /// If a slice lies outside its window: plans make them.
    pub fn parts(&self, range: Range<usize>) -> Vec<IoSlice<'_>> {
        within(self.whole(), range)
    }

    /// All parts in order.
    ///
    /// # Panics
    /// As [`Message::parts`].
    pub fn whole(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let slices = self.slices.iter();
        std::iter::once(&self.head[..])
            .chain(slices.map(|(at, bytes)| &self.chunks[*at][bytes.clone()]))
    }
}

/// Of parts that follow one another, what lies in `range`, counted from the first one's start.
pub(super) fn within<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    range: Range<usize>,
) -> Vec<IoSlice<'a>> {
    let mut at = 0;
    parts
        .filter_map(|part| {
            let start = range.start.saturating_sub(at);
            let end = range.end.saturating_sub(at).min(part.len());
            at += part.len();
            (start < end).then(|| IoSlice::new(&part[start..end]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::*;

    #[test]
    fn a_message_lists_its_parts_in_order() {
        let pool = Pool::new(1, 16 * 1024);
        let (mut windows, _) = pool.try_take().unwrap().carve([4, 4].into_iter());
        windows[0].copy_from_slice(b"abcd");
        windows[1].copy_from_slice(b"efgh");
        let message = Message::new(
            Bytes::from_static(b"head"),
            windows.into_iter().map(Chunk::Own).collect(),
            vec![(1, 1..3), (0, 0..4)],
        );
        let text = |range: Range<usize>| -> Vec<u8> {
            let parts = message.parts(range);
            assert!(parts.iter().all(|part| !part.is_empty()));
            parts.iter().flat_map(|part| part.to_vec()).collect()
        };
        let whole = b"headfgabcd";
        assert_eq!(message.bytes(), whole.len());
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                assert_eq!(text(start..end), whole[start..end]);
            }
        }
    }
}
