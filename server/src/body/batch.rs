//! A batch: the reads of one readahead, the same bytes of the shares that a range of an object is made of.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::plan::Read;
use crate::io::{View, Window};
use crate::units::ObjectOffset;

/// A range of an object whose shares were read ahead.
pub struct Batch {
    /// Bytes of the object.
    pub range: Range<ObjectOffset>,
    reads: Vec<Held>,
}

/// One of its reads.
struct Held {
    read: Read,
    /// The version of the share's file before it was read.
    version: Option<u32>,
    window: Arc<Window>,
}

impl Batch {
    /// A batch of these reads, each with its file's version from before it was read, and what it brought.
    pub fn new(
        range: Range<ObjectOffset>,
        reads: impl Iterator<Item = (Read, Option<u32>, Window)>,
    ) -> Batch {
        let held = reads.map(|(read, version, window)| Held {
            read,
            version,
            window: Arc::new(window),
        });
        Batch {
            range,
            reads: held.collect(),
        }
    }

    /// What a read would bring, if the batch has all of it, and the version of the share's file that it was read from,
    /// if that is known.
    pub fn find(&self, read: &Read) -> Option<(View, Option<u32>)> {
        let held = self
            .reads
            .iter()
            .find(|held| (held.read.share, held.read.copy) == (read.share, read.copy))?;
        let (wanted, all) = (&read.window, &held.read.window);
        if wanted.start < all.start || wanted.end > all.end {
            return None;
        }
        let (start, end) = (wanted.start - all.start, wanted.end - all.start);
        let view = View::new(Arc::clone(&held.window), start as usize..end as usize);
        Some((view, held.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Pool;
    use crate::memory::limits::DIRECT_ALIGN;
    use crate::units::{ShareNumber, ShareOffset};

    #[tokio::test]
    async fn a_batch_gives_what_lies_in_it_with_the_version_before_it_was_read() {
        let pool = Pool::for_direct_reads(1, 4 * DIRECT_ALIGN);
        let lengths = [8000, 4000];
        let (windows, _) = pool.try_take().unwrap().carve(lengths.into_iter());
        let shares = [(1, 16 << 10, Some(7)), (4, 20 << 10, None)];
        let read = |share, window: Range<u64>| {
            let window = ShareOffset(window.start)..ShareOffset(window.end);
            Read::new(ShareNumber(share), window)
        };
        let reads = shares
            .iter()
            .zip(windows)
            .map(|(&(share, start, version), mut window)| {
                for (at, byte) in window.iter_mut().enumerate() {
                    *byte = (at % 251) as u8 ^ share as u8;
                }
                let read = read(share, start..start + window.len() as u64);
                (read, version, window)
            });
        let batch = Batch::new(Range::default(), reads);
        for ((share, start, version), length) in shares.into_iter().zip(lengths) {
            let end = start + length as u64;
            for part in [start..end, start + 1..end - 1, end - 1..end] {
                let (view, of) = batch.find(&read(share, part.clone())).unwrap();
                let offset = (part.start - start) as usize;
                assert_eq!((view.len() as u64, of), (part.end - part.start, version));
                assert_eq!(view[0], (offset % 251) as u8 ^ share as u8);
            }
            for part in [start - 1..end, start..end + 1, end..end + 1] {
                assert!(batch.find(&read(share, part)).is_none());
            }
            assert!(batch.find(&read(share + 1, start..end)).is_none());
        }
        assert_eq!(pool.free_buffers(), 0);
        let (view, _) = batch.find(&read(1, 16 << 10..17 << 10)).unwrap();
        drop(batch);
        assert_eq!(pool.free_buffers(), 0, "what is being sent stays");
        drop(view);
        assert_eq!(pool.free_buffers(), 1);
    }
}
