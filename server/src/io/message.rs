//! Messages: a head and parts of pool buffers, sent to a socket together.

use std::io::IoSlice;
use std::ops::{Deref, Range};

use bytes::Bytes;

use super::pool::{View, Window};

/// One contiguous part of memory that a message is sent from.
pub enum Chunk {
    /// Owned by this message alone.
    Window(Window),
    /// Shared with other readers.
    View(View),
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Chunk::Window(window) => window,
            Chunk::View(view) => view,
        }
    }
}

/// The bytes of one `sendmsg`: the rest of a head, then slices of chunks.
pub struct Message {
    head: Bytes,
    chunks: Vec<Chunk>,
    slices: Vec<(usize, Range<usize>)>,
}

impl Message {
    /// Makes a message of `head` and then `slices`, in order. A slice is the index of a chunk and bytes of it.
    pub fn new(head: Bytes, chunks: Vec<Chunk>, slices: Vec<(usize, Range<usize>)>) -> Message {
        Message {
            head,
            chunks,
            slices,
        }
    }

    /// The bytes before the slices.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The same message without its head.
    #[must_use]
    pub fn without_head(self) -> Message {
        Message {
            head: Bytes::new(),
            ..self
        }
    }

    /// Whether the message owns all its chunks. They are of one buffer then.
    pub fn is_owned(&self) -> bool {
        self.chunks
            .iter()
            .all(|chunk| matches!(chunk, Chunk::Window(_)))
    }

    /// The [index](Window::buffer_index) of the buffer that its own windows lie in, if there are any.
    pub(super) fn buffer_index(&self) -> Option<u16> {
        self.chunks.iter().find_map(|chunk| match chunk {
            Chunk::Window(window) => window.buffer_index(),
            Chunk::View(_) => None,
        })
    }

    /// The number of bytes, head and slices.
    pub fn bytes(&self) -> usize {
        let slices = self.slices.iter().map(|(_, bytes)| bytes.len());
        self.head.len() + slices.sum::<usize>()
    }

    /// The bytes in `range` of the message, as a list for the kernel.
    ///
    /// # Panics
    /// If a slice lies outside its chunk.
    pub fn io_slices(&self, range: Range<usize>) -> Vec<IoSlice<'_>> {
        io_slices(self.parts(), range)
    }

    /// Head and slices in order.
    ///
    /// # Panics
    /// As [`Message::io_slices`].
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let slices = self.slices.iter();
        std::iter::once(&self.head[..])
            .chain(slices.map(|(at, bytes)| &self.chunks[*at][bytes.clone()]))
    }
}

/// Lists the bytes in `range` of parts that follow one another, counted from the start of the first.
pub(super) fn io_slices<'a>(
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
            windows.into_iter().map(Chunk::Window).collect(),
            vec![(1, 1..3), (0, 0..4)],
        );
        let text = |range: Range<usize>| -> Vec<u8> {
            let parts = message.io_slices(range);
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
