//! How an object lies in its shares: segments, blocks and leaves. Pure arithmetic.

use std::ops::Range;

use decode_kernel::share::Geometry;

use crate::memory::limits::SPLICE_BLOCK_BYTES_MIN;
use crate::units::{ObjectOffset, ShareNumber, ShareOffset};

/// How an object lies in its shares, whatever their format: segments of k blocks, one per share, and a
/// share's blocks one after another in *share space*. Blocks are verified leaf by leaf, beginning anew in
/// each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the object.
    pub size: u64,
    /// Data shares.
    pub k: u16,
    /// Shares.
    pub n: u16,
    /// Bytes of one share's block of every segment but the last.
    pub block_bytes: u64,
    /// Bytes of its block of the last one; k of them may be more than is left of the object.
    pub tail_block_bytes: u64,
    /// Bytes of a leaf; a block's last one may be shorter.
    pub leaf_bytes: u64,
}

impl From<&Geometry> for Layout {
    fn from(geometry: &Geometry) -> Layout {
        let tail = geometry.segments().checked_sub(1);
        Layout {
            size: geometry.size(),
            k: geometry.k(),
            n: geometry.n(),
            block_bytes: u64::from(geometry.block_bytes()),
            tail_block_bytes: tail.map_or(0, |tail| u64::from(geometry.block_len(tail))),
            leaf_bytes: u64::from(geometry.leaf_bytes()),
        }
    }
}

impl Layout {
    /// Bytes of the object in one segment, the last one perhaps excepted.
    pub fn segment_bytes(&self) -> u64 {
        self.block_bytes * u64::from(self.k)
    }

    /// Segments of the object.
    pub fn segments(&self) -> u64 {
        self.size.div_ceil(self.segment_bytes())
    }

    /// Bytes of one share's block of a segment.
    pub fn block_len(&self, segment: u64) -> u64 {
        match segment + 1 < self.segments() {
            true => self.block_bytes,
            false => self.tail_block_bytes,
        }
    }

    /// Widens a range of share space to whole leaves.
    ///
    /// The range must not be empty.
    pub fn whole_leaves(&self, range: &Range<ShareOffset>) -> Range<ShareOffset> {
        let (from, to) = (range.start.0, range.end.0);
        let first = from / self.block_bytes;
        let last = (to - 1) / self.block_bytes;
        let (first_start, last_start) = (first * self.block_bytes, last * self.block_bytes);
        let start = (from - first_start) / self.leaf_bytes * self.leaf_bytes;
        let end = (to - last_start).next_multiple_of(self.leaf_bytes);
        ShareOffset(first_start + start)..ShareOffset(last_start + end.min(self.block_len(last)))
    }

    /// The segment that holds a byte of the object.
    pub fn segment_of(&self, position: ObjectOffset) -> u64 {
        position.0 / self.segment_bytes()
    }

    /// The object's end.
    pub fn end(&self) -> ObjectOffset {
        ObjectOffset(self.size)
    }

    /// Where a segment begins in share space.
    pub fn block_start(&self, segment: u64) -> ShareOffset {
        ShareOffset(segment * self.block_bytes)
    }

    /// The block of a segment that holds a byte of share space.
    pub fn block_of(&self, offset: ShareOffset) -> u64 {
        offset.0 / self.block_bytes
    }

    /// The leaves that a range of share space touches, counted through the share.
    pub fn leaves(&self, range: &Range<ShareOffset>) -> Range<u64> {
        range.start.0 / self.leaf_bytes..range.end.0.div_ceil(self.leaf_bytes)
    }

    /// The range of share space that leaves take.
    pub fn leaf_range(&self, leaves: &Range<u64>) -> Range<ShareOffset> {
        ShareOffset(leaves.start * self.leaf_bytes)..ShareOffset(leaves.end * self.leaf_bytes)
    }

    /// The parts of blocks in a range of share space: of each its segment, and its bytes in share space.
    pub fn blocks(
        &self,
        range: &Range<ShareOffset>,
    ) -> impl Iterator<Item = (u64, Range<ShareOffset>)> {
        let range = range.clone();
        let segments = range.start.0 / self.block_bytes..range.end.0.div_ceil(self.block_bytes);
        segments.map(move |segment| {
            let start = self.block_start(segment);
            let end = start + self.block_len(segment);
            (segment, range.start.max(start)..range.end.min(end))
        })
    }

    /// Where the byte at `position` of the object lies.
    pub fn locate(&self, position: ObjectOffset) -> Place {
        let segment = self.segment_of(position);
        let in_segment = position.0 % self.segment_bytes();
        let block_len = self.block_len(segment);
        Place {
            segment,
            share: ShareNumber((in_segment / block_len) as u16),
            in_block: in_segment % block_len,
            block_len,
        }
    }

    /// Whether the blocks around `position` are long enough to be spliced: a run of the page cache costs a call, and
    /// many short ones cost more than copying them.
    pub fn is_splice_worthwhile(&self, position: ObjectOffset) -> bool {
        self.block_len(self.segment_of(position)) >= SPLICE_BLOCK_BYTES_MIN
    }
}

/// Where a byte of the object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's number.
    pub segment: u64,
    /// The data share that holds it.
    pub share: ShareNumber,
    /// The byte's offset in that block.
    pub in_block: u64,
    /// Bytes of the block.
    pub block_len: u64,
}
