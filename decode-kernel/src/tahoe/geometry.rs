//! Offsets: derived from size, k, n and the uploader's segment length, for every segment and block.
//!
//! ```text
//!  G  segments  = size / S rounded up         S  segment length, a multiple of k
//!  T  tail      = size - (G-1)*S              the last segment's length, 1..=S
//!  B  block     = S / k                       TB tail block = T / k rounded up
//!  P  leaves    = the least power of two >= G, of the block and ciphertext hash trees
//!
//!  the data of a share:  | B | B | ... | TB |  G blocks, no gaps
//! ```
//!
//! S may exceed the size by up to k-1. The tail's ciphertext is padded with zeros to k*TB before it
//! is encoded; the padding is in the blocks' hashes, but not in the segment's.
//!
//! The uploader chooses S, and the hashes cover S like everything else. So [`Geometry::new`] refuses choices that would
//! cost too much: segments longer than the caller's limit, and very many very short ones, whose hashes cost thousands
//! of times as much as their bytes.

use std::ops::Range;

use super::tree::Tree;

/// Most shares of a file: the code has no more.
pub const SHARES_MAX: u16 = 256;
/// Segments may be shorter than this, in bytes, only if there are at most [`SMALL_SEGMENTS_MAX`]. Uploaders use 128 KiB
/// or 1 MiB by default.
pub const SEGMENT_BYTES_FLOOR: u64 = 1024;
/// The most segments of a file whose segments are shorter than [`SEGMENT_BYTES_FLOOR`]. Small files have small
/// segments; this bounds the work to seconds for any k.
pub const SMALL_SEGMENTS_MAX: u64 = 4096;

/// Why some numbers are not an acceptable geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not 1 <= k <= n <= [`SHARES_MAX`].
    #[error("{k} of {n} shares: need 1 <= k <= n <= {SHARES_MAX}")]
    Shares {
        /// Shares needed.
        k: u16,
        /// Shares in all.
        n: u16,
    },
    /// A file of no bytes has no shares.
    #[error("a size of 0 bytes")]
    Empty,
    /// Not a positive multiple of k.
    #[error("segments of {segment_bytes} bytes: need a positive multiple of k={k}")]
    Segment {
        /// S.
        segment_bytes: u64,
        /// Shares needed.
        k: u16,
    },
    /// Longer than the caller allows.
    #[error("segments of {segment_bytes} bytes are longer than the limit of {max}")]
    SegmentTooLong {
        /// S.
        segment_bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Shorter than [`SEGMENT_BYTES_FLOOR`], and too many.
    #[error(
        "{segments} segments of {segment_bytes} bytes: with more than {SMALL_SEGMENTS_MAX}, they \
         must have at least {SEGMENT_BYTES_FLOOR} bytes"
    )]
    SegmentsTooShort {
        /// S.
        segment_bytes: u64,
        /// G.
        segments: u64,
    },
    /// A share would be longer than 2^64 bytes.
    #[error("a size of {size} bytes: its hash trees or shares have no place in any file")]
    Size {
        /// Bytes of the file.
        size: u64,
    },
}

/// The numbers above, checked. Small and `Copy`; its arithmetic cannot overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    k: u16,
    n: u16,
    size: u64,
    segment_bytes: u64,
    // Derived once from the fields above.
    segments: u64,
    tail_bytes: u64,
    tail_block_bytes: u64,
    share_data_bytes: u64,
    tree: Tree,
}

impl Geometry {
    /// The geometry of a file of `size` bytes, `k` of `n`, in segments of `segment_bytes`, which may be at most
    /// `segment_max`.
    pub fn new(
        k: u16,
        n: u16,
        size: u64,
        segment_bytes: u64,
        segment_max: u64,
    ) -> Result<Geometry, GeometryError> {
        if k == 0 || k > n || n > SHARES_MAX {
            return Err(GeometryError::Shares { k, n });
        }
        if size == 0 {
            return Err(GeometryError::Empty);
        }
        let wide_k = u64::from(k);
        if segment_bytes == 0 || !segment_bytes.is_multiple_of(wide_k) {
            return Err(GeometryError::Segment { segment_bytes, k });
        }
        if segment_bytes > segment_max {
            return Err(GeometryError::SegmentTooLong {
                segment_bytes,
                max: segment_max,
            });
        }
        let segments = size.div_ceil(segment_bytes);
        if segment_bytes < SEGMENT_BYTES_FLOOR && segments > SMALL_SEGMENTS_MAX {
            return Err(GeometryError::SegmentsTooShort {
                segment_bytes,
                segments,
            });
        }
        let too_large = GeometryError::Size { size };
        let tail_bytes = size - (segments - 1) * segment_bytes; // both below size
        let tail_block_bytes = tail_bytes.div_ceil(wide_k);
        let share_data_bytes = ((segments - 1) * (segment_bytes / wide_k))
            .checked_add(tail_block_bytes)
            .ok_or(too_large)?;
        let tree = Tree::for_leaves(segments).ok_or(too_large)?;
        Ok(Geometry {
            k,
            n,
            size,
            segment_bytes,
            segments,
            tail_bytes,
            tail_block_bytes,
            share_data_bytes,
            tree,
        })
    }

    /// Shares needed.
    pub fn k(&self) -> u16 {
        self.k
    }

    /// Shares in all.
    pub fn n(&self) -> u16 {
        self.n
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// S: bytes of every segment but the last. May exceed the size.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// G: how many segments there are, at least 1.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// T: bytes of the last segment.
    pub fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    /// B: bytes of the blocks of every segment but the last.
    pub fn block_bytes(&self) -> u64 {
        self.segment_bytes / u64::from(self.k)
    }

    /// TB: bytes of the blocks of the last segment.
    pub fn tail_block_bytes(&self) -> u64 {
        self.tail_block_bytes
    }

    /// Bytes of all blocks of one share.
    pub fn share_data_bytes(&self) -> u64 {
        self.share_data_bytes
    }

    /// The shape of the block and ciphertext hash trees: P leaves.
    pub fn tree(&self) -> Tree {
        self.tree
    }

    /// The shape of the share hash tree: the least power of two that is at least n.
    pub fn share_tree(&self) -> Tree {
        Tree::for_leaves(self.n.into()).expect("at most 256 leaves")
    }

    /// Bytes of `segment`, without padding.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn segment_len(&self, segment: u64) -> u64 {
        if self.is_tail(segment) {
            self.tail_bytes
        } else {
            self.segment_bytes
        }
    }

    /// Bytes of the file that `segment` holds.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn segment_range(&self, segment: u64) -> Range<u64> {
        let len = self.segment_len(segment);
        let start = segment * self.segment_bytes;
        start..start + len
    }

    /// The segment that holds byte `offset` of the file.
    ///
    /// # Panics
    /// If `offset` is not below the size.
    pub fn segment_of(&self, offset: u64) -> u64 {
        assert!(offset < self.size, "byte {offset} of {}", self.size);
        offset / self.segment_bytes
    }

    /// Bytes of each of `segment`'s blocks.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn block_len(&self, segment: u64) -> u64 {
        if self.is_tail(segment) {
            self.tail_block_bytes
        } else {
            self.block_bytes()
        }
    }

    /// The range of `segment`'s block in the data of every share.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn block_range(&self, segment: u64) -> Range<u64> {
        let len = self.block_len(segment);
        let start = segment * self.block_bytes();
        start..start + len
    }

    fn is_tail(&self, segment: u64) -> bool {
        assert!(
            segment < self.segments,
            "segment {segment} of {}",
            self.segments
        );
        segment + 1 == self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(k: u16, size: u64, segment_bytes: u64) -> Geometry {
        Geometry::new(k, 256, size, segment_bytes, 1 << 30).unwrap()
    }

    #[test]
    fn segments_are_those_of_tahoe() {
        // k, size, S; G, T, B, TB, P
        for (k, size, segment, g, t, b, tb, p) in [
            (3, 56, 57, 1, 56, 19, 19, 1),
            (3, 1000, 1002, 1, 1000, 334, 334, 1),
            (3, 1048576, 1048578, 1, 1048576, 349526, 349526, 1),
            (2, 131073, 131072, 2, 1, 65536, 1, 2),
            (3, 300000, 131073, 3, 37854, 43691, 12618, 4),
            (2, 1048583, 131072, 9, 7, 65536, 4, 16),
            (1, 700, 256, 3, 188, 256, 188, 4),
        ] {
            let geometry = geometry(k, size, segment);
            assert_eq!(
                (geometry.segments(), geometry.tail_bytes()),
                (g, t),
                "size {size}"
            );
            assert_eq!(
                (geometry.block_bytes(), geometry.tail_block_bytes()),
                (b, tb)
            );
            assert_eq!(geometry.tree().leaves(), p);
            assert_eq!(
                geometry.block_range(g - 1),
                (g - 1) * b..geometry.share_data_bytes()
            );
            assert_eq!(geometry.segment_range(g - 1).end, size);
            assert_eq!(geometry.segment_of(size - 1), g - 1);
        }
    }

    #[test]
    fn costly_segments_are_refused() {
        let new = |k, size, segment| Geometry::new(k, 10, size, segment, 1 << 20);
        assert!(matches!(new(3, 1, 0), Err(GeometryError::Segment { .. })));
        assert!(matches!(new(3, 1, 4), Err(GeometryError::Segment { .. })));
        assert!(new(1, u64::MAX, 1 << 20).is_ok());
        assert!(matches!(
            new(1, 1, (1 << 20) + 1),
            Err(GeometryError::SegmentTooLong { .. })
        ));
        assert!(matches!(
            new(1, 1, u64::MAX),
            Err(GeometryError::SegmentTooLong { .. })
        ));
        assert!(matches!(new(0, 1, 1), Err(GeometryError::Shares { .. })));
        assert!(matches!(new(11, 1, 11), Err(GeometryError::Shares { .. })));
        assert!(matches!(new(1, 0, 1), Err(GeometryError::Empty)));
        // Small segments: in small files only.
        assert!(new(1, 4096, 1).is_ok() && new(1, 700, 256).is_ok());
        assert!(matches!(
            new(1, 4097, 1),
            Err(GeometryError::SegmentsTooShort { .. })
        ));
        assert!(matches!(
            new(3, u64::MAX, 3),
            Err(GeometryError::SegmentsTooShort { .. })
        ));
        assert!(new(1, 1 << 40, 1024).is_ok());
    }

    proptest! {
        /// Any numbers: refused, or a geometry whose parts add up, in 128-bit arithmetic.
        #[test]
        fn any_numbers_add_up_or_are_refused(
            k in prop_oneof![any::<u16>(), 1..=256u16],
            n in prop_oneof![any::<u16>(), 1..=256u16],
            size in prop_oneof![any::<u64>(), 0..100_000_000u64],
            segment in prop_oneof![any::<u64>(), (0..10_000u64).prop_map(|x| x * 64)],
            max in any::<u64>(),
        ) {
            let Ok(g) = Geometry::new(k, n, size, segment, max) else { return Ok(()) };
            let wide = |x: u64| u128::from(x);
            prop_assert!(segment <= max && segment % u64::from(k) == 0);
            prop_assert_eq!(wide(g.segments() - 1) * wide(segment) + wide(g.tail_bytes()), wide(size));
            prop_assert!((1..=segment).contains(&g.tail_bytes()));
            let last = g.segments() - 1;
            prop_assert_eq!(g.segment_range(last).end, size);
            prop_assert_eq!(g.block_range(last).end, g.share_data_bytes());
            prop_assert!(g.tree().leaves() >= g.segments());
            prop_assert!(g.tree().leaves() / 2 < g.segments());
            prop_assert!(wide(g.tree().nodes()) * 32 < 1 << 64);
            prop_assert!(wide(g.block_len(last)) * wide(k.into()) >= wide(g.segment_len(last)));
        }
    }
}
