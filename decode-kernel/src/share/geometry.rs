//! Offsets: derived from size, k, n, block and leaf length, for everything in a share file.
//!
//! A [`Geometry`] is checked once, in [`Geometry::new`]. After that its arithmetic cannot overflow,
//! whatever bytes it was read from: sizes are bounded by [`OBJECT_BYTES_MAX`], and every number
//! derived here stays below 2^62, so it is also a valid file offset.

use std::ops::Range;

use super::{PAGE_BYTES, TABLE_PAGE_ENTRIES};

/// Most shares an object may have (n).
pub const SHARES_MAX: u16 = 1024;
/// Longest block, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 16 << 20;
/// Shortest leaf, in bytes.
pub const LEAF_BYTES_MIN: u32 = 512;
/// Longest leaf, in bytes.
pub const LEAF_BYTES_MAX: u32 = 64 << 10;
/// Largest object: 1 EiB. Keeps all sums far from the ends of `u64` and of file offsets.
pub const OBJECT_BYTES_MAX: u64 = 1 << 60;
/// The offset of the blocks in a share file, in bytes.
pub const BLOCKS_OFFSET: u64 = PAGE_BYTES as u64;

/// Tail blocks are a multiple of this: the granularity of rs16, and a cache line for all.
const TAIL_BLOCK_MULTIPLE: u64 = 64;
/// The most bytes that k leaves and one more may take together, so that a row fits in one of a
/// server's pool buffers.
const LEAF_ROW_BYTES_MAX: u32 = 512 << 10;
const LEAF_BYTES_DEFAULT: u32 = 4096;

const PAGE: u64 = PAGE_BYTES as u64;
const ENTRIES: u64 = TABLE_PAGE_ENTRIES as u64;

// The worst share file: k = 1, the largest object, the shortest leaves. Its table is 1/64 of it.
const _: () = assert!(OBJECT_BYTES_MAX / LEAF_BYTES_MIN as u64 * 8 < OBJECT_BYTES_MAX / 32);
const _: () = assert!(OBJECT_BYTES_MAX < (i64::MAX as u64) / 4);
// Any allowed leaf length up to the default divides any allowed block length.
const _: () = assert!((PAGE_BYTES as u32).is_multiple_of(LEAF_BYTES_DEFAULT));

/// Why some numbers make no valid geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The object is larger than the format allows.
    #[error("object size {size} bytes is over the maximum of {OBJECT_BYTES_MAX}")]
    Size {
        /// Bytes.
        size: u64,
    },
    /// Not 1 <= k <= n <= [`SHARES_MAX`].
    #[error("k={k} of n={n} shares: need 1 <= k <= n <= {SHARES_MAX}")]
    Shares {
        /// Shares needed.
        k: u16,
        /// Shares in all.
        n: u16,
    },
    /// Block length not allowed.
    #[error(
        "block length {block_bytes} is not a multiple of {PAGE_BYTES} in {PAGE_BYTES}..=\
         {BLOCK_BYTES_MAX}"
    )]
    Block {
        /// Bytes.
        block_bytes: u32,
    },
    /// Leaf length not allowed.
    #[error(
        "leaf length {leaf_bytes} is not a power of two in {LEAF_BYTES_MIN}..={LEAF_BYTES_MAX} \
         that divides the block length {block_bytes}"
    )]
    Leaf {
        /// Bytes.
        leaf_bytes: u32,
        /// Bytes.
        block_bytes: u32,
    },
}

/// The layout of an object's shares; see the [module](super) for the drawing. Small, `Copy`,
/// checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    size: u64,
    k: u16,
    n: u16,
    block_bytes: u32,
    leaf_bytes: u32,
    // Derived once from the fields above.
    segments: u64,
    tail_block_bytes: u32,
    share_bytes: u64,
}

impl Geometry {
    /// The layout of an object of `size` bytes, cut in blocks of `block_bytes`, `k` of `n`, with a
    /// checksum every `leaf_bytes`.
    pub fn new(
        size: u64,
        k: u16,
        n: u16,
        block_bytes: u32,
        leaf_bytes: u32,
    ) -> Result<Geometry, GeometryError> {
        if size > OBJECT_BYTES_MAX {
            return Err(GeometryError::Size { size });
        }
        if k == 0 || k > n || n > SHARES_MAX {
            return Err(GeometryError::Shares { k, n });
        }
        let page = PAGE_BYTES as u32;
        if block_bytes == 0 || !block_bytes.is_multiple_of(page) || block_bytes > BLOCK_BYTES_MAX {
            return Err(GeometryError::Block { block_bytes });
        }
        if !leaf_bytes.is_power_of_two()
            || !(LEAF_BYTES_MIN..=LEAF_BYTES_MAX).contains(&leaf_bytes)
            || !block_bytes.is_multiple_of(leaf_bytes)
        {
            return Err(GeometryError::Leaf {
                leaf_bytes,
                block_bytes,
            });
        }
        let segment_bytes = u64::from(k) * u64::from(block_bytes);
        let segments = size.div_ceil(segment_bytes);
        let (tail_block_bytes, share_bytes) = if segments == 0 {
            (0, 0)
        } else {
            let whole = segments - 1;
            let tail = size - whole * segment_bytes;
            // At most block_bytes, since tail/k is at most that and block_bytes is a multiple of
            // 64.
            let tail_block = tail
                .div_ceil(u64::from(k))
                .next_multiple_of(TAIL_BLOCK_MULTIPLE);
            (
                tail_block as u32,
                whole * u64::from(block_bytes) + tail_block,
            )
        };
        Ok(Geometry {
            size,
            k,
            n,
            block_bytes,
            leaf_bytes,
            segments,
            tail_block_bytes,
            share_bytes,
        })
    }

    /// The default leaf length for a code that reads `k` shares at once, in bytes: 4096 up to 127
    /// shares, then smaller, so that k+1 leaves take at most 512 KiB; never below
    /// [`LEAF_BYTES_MIN`] (which only k = 1024 would need). It divides every allowed block length.
    pub fn default_leaf_bytes(k: u16) -> u32 {
        let mut leaf = LEAF_BYTES_DEFAULT;
        while leaf > LEAF_BYTES_MIN && (u32::from(k) + 1) * leaf > LEAF_ROW_BYTES_MAX {
            leaf /= 2;
        }
        leaf
    }

    /// The object's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of shares needed to read the object.
    pub fn k(&self) -> u16 {
        self.k
    }

    /// The number of all shares.
    pub fn n(&self) -> u16 {
        self.n
    }

    /// Length of every block but the tail's, in bytes.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Length of every leaf but a share's last, in bytes.
    pub fn leaf_bytes(&self) -> u32 {
        self.leaf_bytes
    }

    /// Object bytes in every segment but the tail: k blocks.
    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.k) * u64::from(self.block_bytes)
    }

    /// Number of segments, with the tail; 0 for an empty object.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Length of the blocks of the last segment in bytes: a multiple of 64; 0 if there is no
    /// segment.
    pub fn tail_block_bytes(&self) -> u32 {
        self.tail_block_bytes
    }

    /// Length of `segment`'s blocks in bytes.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn block_len(&self, segment: u64) -> u32 {
        assert!(
            segment < self.segments,
            "segment {segment} of {}",
            self.segments
        );
        if segment + 1 == self.segments {
            self.tail_block_bytes
        } else {
            self.block_bytes
        }
    }

    /// Bytes of blocks in each share: the length of the share space.
    pub fn share_bytes(&self) -> u64 {
        self.share_bytes
    }

    /// Number of leaves, the same in each share.
    pub fn leaves(&self) -> u64 {
        self.share_bytes.div_ceil(u64::from(self.leaf_bytes))
    }

    /// The bytes of share space that `leaf` covers. Never straddles two blocks.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn leaf_range(&self, leaf: u64) -> Range<u64> {
        assert!(leaf < self.leaves(), "leaf {leaf} of {}", self.leaves());
        let start = leaf * u64::from(self.leaf_bytes);
        start..self.share_bytes.min(start + u64::from(self.leaf_bytes))
    }

    /// The offset of the table of leaf checksums in a share file, in bytes.
    pub fn table_offset(&self) -> u64 {
        BLOCKS_OFFSET + self.share_bytes.next_multiple_of(PAGE)
    }

    /// Number of pages in the table.
    pub fn table_pages(&self) -> u64 {
        self.leaves().div_ceil(ENTRIES)
    }

    /// The table page that holds `leaf`'s checksum, and its entry in that page.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn table_page_of(&self, leaf: u64) -> (u64, usize) {
        assert!(leaf < self.leaves(), "leaf {leaf} of {}", self.leaves());
        (leaf / ENTRIES, (leaf % ENTRIES) as usize)
    }

    /// Length of each share file, in bytes.
    pub fn share_file_bytes(&self) -> u64 {
        self.table_offset() + self.table_pages() * PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u32 = 1024;

    fn geometry(size: u64, k: u16, n: u16) -> Geometry {
        Geometry::new(size, k, n, 64 * KIB, 4 * KIB).unwrap()
    }

    #[test]
    fn an_empty_object_is_a_header_page() {
        let g = geometry(0, 4, 6);
        assert_eq!(
            (g.segments(), g.share_bytes(), g.leaves(), g.table_pages()),
            (0, 0, 0, 0)
        );
        assert_eq!(g.share_file_bytes(), 4096);
    }

    #[test]
    fn sizes_at_the_edges() {
        // size, segments, last block, share bytes, leaves, for 4+2 with 64 KiB blocks
        let segment = 256 * 1024;
        for (size, segments, last, share, leaves) in [
            (1, 1, 64, 64, 1),
            (256, 1, 64, 64, 1),
            (257, 1, 128, 128, 1),
            (4 * 4096, 1, 4096, 4096, 1),
            (4 * 4096 + 1, 1, 4160, 4160, 2),
            (segment - 1, 1, 65536, 65536, 16),
            (segment, 1, 65536, 65536, 16),
            (segment + 1, 2, 64, 65600, 17),
            (5 * segment, 5, 65536, 5 * 65536, 80),
        ] {
            let g = geometry(size, 4, 6);
            assert_eq!(g.segments(), segments, "size {size}");
            assert_eq!(g.block_len(segments - 1), last, "size {size}");
            assert_eq!(g.share_bytes(), share, "size {size}");
            assert_eq!(g.leaves(), leaves, "size {size}");
            assert_eq!(g.leaf_range(leaves - 1).end, share, "size {size}");
        }
    }

    #[test]
    fn a_table_page_holds_511_leaves() {
        let g = Geometry::new(511 * 4096, 1, 2, 511 * 4096, 4096).unwrap();
        assert_eq!((g.leaves(), g.table_pages()), (511, 1));
        let g = Geometry::new(512 * 4096, 1, 2, 512 * 4096, 4096).unwrap();
        assert_eq!((g.leaves(), g.table_pages()), (512, 2));
        assert_eq!(g.table_page_of(510), (0, 510));
        assert_eq!(g.table_page_of(511), (1, 0));
        assert_eq!(g.share_file_bytes(), 4096 + 512 * 4096 + 2 * 4096);
    }

    #[test]
    fn bad_numbers_are_refused_with_the_number() {
        let bad = |size, k, n, block, leaf| Geometry::new(size, k, n, block, leaf).unwrap_err();
        assert!(matches!(
            bad(u64::MAX, 1, 1, 4096, 512),
            GeometryError::Size { size: u64::MAX }
        ));
        assert!(matches!(
            bad(0, 0, 1, 4096, 512),
            GeometryError::Shares { .. }
        ));
        assert!(matches!(
            bad(0, 3, 2, 4096, 512),
            GeometryError::Shares { .. }
        ));
        assert!(matches!(
            bad(0, 3, 1025, 4096, 512),
            GeometryError::Shares { .. }
        ));
        for block in [0, 64, 4095, 6144, (16 << 20) + 4096, u32::MAX] {
            assert!(
                matches!(bad(0, 1, 1, block, 512), GeometryError::Block { .. }),
                "{block}"
            );
        }
        for leaf in [0, 256, 3072, 8192, 131072, u32::MAX] {
            assert!(
                matches!(bad(0, 1, 1, 4096, leaf), GeometryError::Leaf { .. }),
                "{leaf}"
            );
        }
        assert!(bad(0, 3, 2, 4096, 512).to_string().contains("k=3 of n=2"));
    }

    #[test]
    fn default_leaves_keep_a_row_in_half_a_mebibyte() {
        for k in 1..=1024u16 {
            let leaf = Geometry::default_leaf_bytes(k);
            assert!(Geometry::new(1, k, 1024, 4096, leaf).is_ok());
            assert!(leaf == LEAF_BYTES_MIN || (u32::from(k) + 1) * leaf <= LEAF_ROW_BYTES_MAX);
        }
        assert_eq!(Geometry::default_leaf_bytes(100), 4096);
        assert_eq!(Geometry::default_leaf_bytes(128), 2048);
        assert_eq!(Geometry::default_leaf_bytes(1023), 512);
    }

    proptest! {
        /// Any numbers: refused, or a geometry whose parts add up, in 128-bit arithmetic.
        #[test]
        fn any_numbers_add_up_or_are_refused(
            size in prop_oneof![any::<u64>(), 0..=OBJECT_BYTES_MAX, 0..100_000_000u64],
            k in prop_oneof![any::<u16>(), 1..=1024u16],
            n in prop_oneof![any::<u16>(), 1..=1024u16],
            block in prop_oneof![any::<u32>(), (1..=4096u32).prop_map(|pages| pages * 4096)],
            leaf in prop_oneof![any::<u32>(), (9..=16u32).prop_map(|bits| 1 << bits)],
        ) {
            let Ok(g) = Geometry::new(size, k, n, block, leaf) else { return Ok(()) };
            let wide = |x: u64| u128::from(x);
            prop_assert!(g.share_file_bytes() < 1 << 62);
            prop_assert_eq!(g.table_offset() % 4096, 0);
            if size == 0 {
                prop_assert_eq!(g.share_file_bytes(), 4096);
                return Ok(());
            }
            let tail = wide(g.tail_block_bytes().into());
            let share = wide(g.segments() - 1) * wide(block.into()) + tail;
            prop_assert_eq!(wide(g.share_bytes()), share);
            // All data blocks together hold the object, with less than 64 bytes and one more of
            // padding in each block.
            let room = share * wide(k.into());
            prop_assert!(room >= wide(size) && room < wide(size) + wide(k.into()) * 65);
            prop_assert!(g.tail_block_bytes() <= block && g.tail_block_bytes() % 64 == 0);
            prop_assert_eq!(g.leaf_range(g.leaves() - 1).end, g.share_bytes());
            prop_assert!(!g.leaf_range(g.leaves() - 1).is_empty());
            let (page, entry) = g.table_page_of(g.leaves() - 1);
            prop_assert_eq!(page + 1, g.table_pages());
            prop_assert!(entry < TABLE_PAGE_ENTRIES);
        }
    }
}
