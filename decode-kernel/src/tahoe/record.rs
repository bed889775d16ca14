//! The record of a segment that was verified but is not held in memory.
//!
//! A segment is verified as a whole, and the uploader may make it as long as the file. A segment that does not fit a
//! buffer is read more than once, in bounded memory:
//!
//! 1. *Blocks.* The blocks of k shares are read side by side, window by window, and hashed
//!    ([`Lanes`](crate::sha256::Lanes)). The checksum of each leaf of each block goes to a [`SegmentRecord`]. Then the
//!    hashes are checked with the block hash trees. A share that fails is replaced ([`SegmentRecord::restart`]) and the
//!    block of the new share is read.
//! 2. *Ciphertext.* Its hash takes the bytes in their own order: all of data block 0, then all of data block 1, …
//!    ([`Runs`]). A missing block is rebuilt window by window from the same window of the k blocks. Every window that
//!    is read again must match the record. The hash is checked with the ciphertext hash tree. Now the segment is
//!    verified, and a match with the record is enough.
//! 3. *Delivery*, of any part, any number of times, as slowly as the client reads: as in 2, every window is checked
//!    against the record, and nothing is hashed again.
//!
//! The checksums are CRC-64/NVME. They find bytes that decay, are cut off or are overwritten between the passes. They
//! do not withstand a storage server that rewrites its files in between so that they match.

use std::ops::Range;

use super::geometry::Geometry;
use crate::share::LeafChecksum;

/// The shortest leaf in bytes, and the longest before [`SegmentRecord::leaf_bytes_for`] makes leaves longer.
const LEAF_BYTES_MIN: u64 = 512;
const LEAF_BYTES_START: u64 = 4096;

/// A leaf that changed after it was recorded, or was never recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes from {at} on of the block are not those that were verified")]
pub struct Changed {
    /// The offset of the leaf in the block.
    pub at: u64,
}

/// Checksums of the leaves of k blocks of one segment. A *slot* is one of the k; the caller numbers the shares that
/// fill slots.
#[derive(Debug, Clone)]
pub struct SegmentRecord {
    sources: Box<[usize]>,
    block_len: u64,
    leaf_bytes: u64,
    leaves: usize,
    /// Slot by slot, one checksum for each leaf.
    checksums: Box<[u64]>,
    /// Bytes of each slot's block that were recorded, from its beginning on.
    recorded: Box<[u64]>,
}

impl SegmentRecord {
    /// The leaf length for a file: a power of two, 4096 or less so that k+1 leaves fit `row_max`
    /// bytes (but not below 512), and then as much longer as keeps a record within `record_max`
    /// bytes, if k+1 leaves still fit. So a record may exceed `record_max` where rows are short;
    /// [`SegmentRecord::bytes_for`] gives its size.
    pub fn leaf_bytes_for(geometry: &Geometry, record_max: usize, row_max: u64) -> u64 {
        let row = |leaf: u64| (u64::from(geometry.k()) + 1).saturating_mul(leaf);
        let mut leaf = LEAF_BYTES_START;
        while leaf > LEAF_BYTES_MIN && row(leaf) > row_max {
            leaf /= 2;
        }
        while SegmentRecord::bytes_for(geometry, leaf) > record_max && row(2 * leaf) <= row_max {
            leaf *= 2;
        }
        leaf
    }

    /// The most heap bytes that the record of any segment takes.
    pub fn bytes_for(geometry: &Geometry, leaf_bytes: u64) -> usize {
        let block = geometry.block_bytes().max(geometry.tail_block_bytes());
        let leaves = usize::try_from(block.div_ceil(leaf_bytes)).unwrap_or(usize::MAX);
        let slot = leaves
            .saturating_mul(8)
            .saturating_add(8 + size_of::<usize>());
        slot.saturating_mul(geometry.k().into())
    }

    /// A record of `segment`'s blocks of the shares `sources`, k of them, with nothing recorded yet.
    ///
    /// # Panics
    /// If there is no such segment, `leaf_bytes` is 0, or there are not k sources.
    pub fn new(
        geometry: &Geometry,
        segment: u64,
        leaf_bytes: u64,
        sources: &[usize],
    ) -> SegmentRecord {
        assert_eq!(sources.len(), usize::from(geometry.k()), "k sources");
        let block_len = geometry.block_len(segment);
        let leaves = block_len.div_ceil(leaf_bytes) as usize;
        SegmentRecord {
            sources: sources.into(),
            block_len,
            leaf_bytes,
            leaves,
            checksums: vec![0; leaves * sources.len()].into(),
            recorded: vec![0; sources.len()].into(),
        }
    }

    /// The share in each slot.
    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// Heap bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sources) + size_of_val(&*self.checksums) + size_of_val(&*self.recorded)
    }

    /// Bytes of a leaf; a block's last may be shorter.
    pub fn leaf_bytes(&self) -> u64 {
        self.leaf_bytes
    }

    /// Puts share `source` in `slot`, and discards what was recorded for the slot.
    pub fn restart(&mut self, slot: usize, source: usize) {
        self.sources[slot] = source;
        self.recorded[slot] = 0;
    }

    /// Records the next bytes of `slot`'s block: whole leaves, or all the rest of the block.
    ///
    /// # Panics
    /// If they end within a leaf, or after the block's end.
    pub fn record(&mut self, slot: usize, bytes: &[u8]) {
        let at = self.recorded[slot];
        let leaves = self.leaves_of(at, bytes.len());
        let checksums = &mut self.checksums[slot * self.leaves..][leaves];
        for (checksum, leaf) in checksums
            .iter_mut()
            .zip(bytes.chunks(self.leaf_bytes as usize))
        {
            *checksum = LeafChecksum::Crc64Nvme.compute(leaf);
        }
        self.recorded[slot] = at + bytes.len() as u64;
    }

    /// Checks the bytes of `slot`'s block from `at` on, the start of a leaf: whole leaves, or all the rest of the
    /// block.
    ///
    /// # Panics
    /// If they begin or end within a leaf, or after the block's end.
    pub fn check(&self, slot: usize, at: u64, bytes: &[u8]) -> Result<(), Changed> {
        let leaves = self.leaves_of(at, bytes.len());
        if at + bytes.len() as u64 > self.recorded[slot] {
            return Err(Changed { at });
        }
        let checksums = &self.checksums[slot * self.leaves..][leaves];
        let mut leaves = checksums.iter().zip(bytes.chunks(self.leaf_bytes as usize));
        match leaves.position(|(&sum, leaf)| LeafChecksum::Crc64Nvme.compute(leaf) != sum) {
            Some(leaf) => Err(Changed {
                at: at + leaf as u64 * self.leaf_bytes,
            }),
            None => Ok(()),
        }
    }

    /// The leaves of a range. Its ends must be ends of leaves.
    fn leaves_of(&self, at: u64, len: usize) -> Range<usize> {
        let end = at + len as u64;
        assert!(
            at.is_multiple_of(self.leaf_bytes)
                && (end == self.block_len
                    || (end < self.block_len && end.is_multiple_of(self.leaf_bytes))),
            "bytes {at}..{end} are no whole leaves of a block of {}",
            self.block_len
        );
        (at / self.leaf_bytes) as usize..end.div_ceil(self.leaf_bytes) as usize
    }
}

/// Part of a segment in one data block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The data share, below k.
    pub number: u16,
    /// A window of its block that holds the run.
    pub window: Range<u64>,
    /// The run's bytes, within the window.
    pub bytes: Range<usize>,
}

/// The runs that make up a range of a segment's ciphertext, in order; see [`Runs::new`].
#[derive(Debug, Clone)]
pub struct Runs {
    block_len: u64,
    window: u64,
    at: u64,
    end: u64,
}

impl Runs {
    /// The runs of the bytes `range` of `segment`, counted from its beginning. Windows begin at multiples of
    /// `window` bytes of the block, and end there or at the block's end. Padding is in windows, but
    /// in no run.
    ///
    /// # Panics
    /// If there is no such segment, or `window` is 0. What the range has beyond the segment is
    /// ignored.
    pub fn new(geometry: &Geometry, segment: u64, range: Range<u64>, window: u64) -> Runs {
        assert!(window > 0, "windows of no bytes");
        let end = range.end.min(geometry.segment_len(segment));
        Runs {
            block_len: geometry.block_len(segment),
            window,
            at: range.start,
            end,
        }
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.at >= self.end {
            return None;
        }
        let (number, offset) = (self.at / self.block_len, self.at % self.block_len);
        let start = offset - offset % self.window;
        let window = start..self.block_len.min(start.saturating_add(self.window));
        let len = (window.end - offset).min(self.end - self.at);
        self.at += len;
        let first = (offset - start) as usize;
        Some(Run {
            number: number as u16,
            window,
            bytes: first..first + len as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(k: u16, size: u64, segment_bytes: u64) -> Geometry {
        Geometry::new(k, 256, size, segment_bytes, u64::MAX).unwrap()
    }

    #[test]
    fn leaf_lengths() {
        let leaf = |k, segment: u64, record, row| {
            let geometry = geometry(k, segment, segment);
            let leaf = SegmentRecord::leaf_bytes_for(&geometry, record, row);
            (leaf, SegmentRecord::bytes_for(&geometry, leaf))
        };
        let (small, row) = (64 << 10, 256 << 10);
        assert_eq!(leaf(3, 3 << 20, small, row), (4096, 3 * (256 * 8 + 16)));
        assert_eq!(leaf(1, 64 << 20, small, row), (16384, 4096 * 8 + 16));
        // The row decides: k+1 leaves of 64 KiB.
        assert_eq!(leaf(3, 3 << 30, small, row), (65536, 3 * (16384 * 8 + 16)));
        // Not even leaves of 1024 bytes fit.
        assert_eq!(leaf(256, 256 << 20, small, row).0, 512);
    }

    #[test]
    fn changed_bytes_are_found_and_unrecorded_ones_refused() {
        let geometry = geometry(2, 20_000, 20_000);
        let mut record = SegmentRecord::new(&geometry, 0, 4096, &[7, 9]);
        let block: Vec<u8> = (0..10_000u32).map(|i| (i * i / 8) as u8).collect();
        assert_eq!(record.check(0, 0, &block), Err(Changed { at: 0 }));
        record.record(0, &block[..8192]);
        assert_eq!(record.check(0, 4096, &block[4096..8192]), Ok(()));
        assert_eq!(
            record.check(0, 4096, &block[4096..]),
            Err(Changed { at: 4096 })
        );
        record.record(0, &block[8192..]);
        assert_eq!(record.check(0, 0, &block), Ok(()));
        assert_eq!(record.check(1, 0, &block), Err(Changed { at: 0 }));
        let mut other = block.clone();
        other[9_000] ^= 1;
        assert_eq!(record.check(0, 0, &other), Err(Changed { at: 8192 }));
        record.restart(0, 8);
        assert_eq!(record.sources(), [8, 9]);
        assert_eq!(record.check(0, 0, &block), Err(Changed { at: 0 }));
    }

    proptest! {
        /// Runs are the range, in order, without gaps, each in its window.
        #[test]
        fn runs_cover_the_range(
            k in 1..6u16, segment_blocks in 1..50u64, size in 1..2000u64, window in 1..60u64,
            from in 0..300u64, len in 0..300u64, segment: prop::sample::Index,
        ) {
            let geometry = geometry(k, size, segment_blocks * u64::from(k));
            let segment = segment.index(geometry.segments() as usize) as u64;
            let end = (from + len).min(geometry.segment_len(segment));
            let block_len = geometry.block_len(segment);
            let mut at = from;
            for run in Runs::new(&geometry, segment, from..from + len, window) {
                prop_assert!(run.number < k && run.window.start % window == 0);
                prop_assert!(run.window.end <= block_len);
                prop_assert!(run.window.end - run.window.start <= window);
                prop_assert!(!run.bytes.is_empty());
                prop_assert!(run.bytes.end as u64 <= run.window.end - run.window.start);
                let start = u64::from(run.number) * block_len + run.window.start;
                prop_assert_eq!(start + run.bytes.start as u64, at);
                at += run.bytes.len() as u64;
            }
            prop_assert_eq!(at, end.max(from));
        }
    }
}
