//! The layout of a share: the offset table at its beginning, and the parts that it points to.
//!
//! ```text
//!  version 1, words of 4 bytes      version 2, words of 8 bytes but the first
//!  0x00  layout version = 1         0x00  layout version = 2
//!  0x04  block length, not used     0x04  block length, not used
//!  0x08  data length, not used      0x0c  data length, not used
//!  0x0c  offset of data             0x14  offset of data
//!  0x10  of plaintext hash tree     0x1c  of plaintext hash tree, never read
//!  0x14  of ciphertext hash tree    0x24  of ciphertext hash tree
//!  0x18  of block hash tree         0x2c  of block hash tree
//!  0x1c  of share hash chain        0x34  of share hash chain, which ends where the UEB begins
//!  0x20  of URI extension block     0x3c  of URI extension block: its length in 4 or 8 bytes,
//!  0x24                             0x44    then itself
//! ```
//!
//! Offsets are hostile: any of them may be anything. They may be in any order, and regions may
//! overlap. The one promise is that every range returned here lies within the share's D bytes. All
//! ranges count from `base`, so that they may be offsets in a share file (where share data begin at
//! byte 12) or in the share data alone.

use std::ops::Range;

use super::geometry::{Geometry, SHARES_MAX};
use super::tree::NODE_BYTES;

/// Bytes that hold either offset table.
pub const LAYOUT_BYTES_MAX: usize = 0x44;
const LAYOUT_1_BYTES: usize = 0x24;
/// Longest URI extension block: real ones have 320 to 430 bytes, and Tahoe refuses 2000.
pub const UEB_BYTES_MAX: u64 = 1999;
/// Bytes of one entry of the share hash chain: a node's number and its hash.
pub(super) const CHAIN_ENTRY_BYTES: u64 = 2 + NODE_BYTES;
/// Longest share hash chain: four times what writers make for the widest code, 9 entries.
pub const CHAIN_BYTES_MAX: u64 = 4 * 9 * CHAIN_ENTRY_BYTES;
const _: () = assert!(1 << (9 - 1) == SHARES_MAX);

/// Why an offset table cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The share ends before its table does.
    #[error("the share ends after {len} bytes, within its offset table")]
    Short {
        /// The length of the share data that was read.
        len: usize,
    },
    /// Not 1 or 2.
    #[error("layout version {version}; 1 and 2 are known")]
    Version {
        /// The version found.
        version: u32,
    },
    /// A region lies outside the share, in whole or in part.
    #[error("{what}, {len} bytes at offset {offset}, is not within the share's {data_bytes} bytes")]
    Outside {
        /// The region.
        what: &'static str,
        /// Its offset from the beginning of the share data.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// D.
        data_bytes: u64,
    },
    /// A region is longer than it may be.
    #[error("{what} of {len} bytes; it has at most {max}")]
    TooLong {
        /// The region.
        what: &'static str,
        /// Bytes.
        len: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// The UEB begins before the chain, or the bytes between are not a whole number of entries.
    #[error("a share hash chain from offset {start} to {end}: not a multiple of 34 bytes")]
    Chain {
        /// Its offset.
        start: u64,
        /// The offset of the UEB.
        end: u64,
    },
}

/// An offset table as it was read. It is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// 1 or 2.
    pub version: u32,
    /// Block length according to the table. For display only.
    pub stated_block_bytes: u64,
    /// Data length according to the table. For display only.
    pub stated_data_bytes: u64,
    /// Offset of the blocks.
    pub data: u64,
    /// Offset of the plaintext hash tree, which is never read.
    pub plaintext_tree: u64,
    /// Offset of the ciphertext hash tree.
    pub ciphertext_tree: u64,
    /// Offset of the block hash tree.
    pub block_tree: u64,
    /// Offset of the share hash chain.
    pub chain: u64,
    /// Offset of the UEB's length.
    pub ueb: u64,
}

impl Layout {
    /// Parses a table from the first [`LAYOUT_BYTES_MAX`] bytes of the share data, or all of them
    /// if there are fewer.
    pub fn parse(head: &[u8]) -> Result<Layout, LayoutError> {
        let short = LayoutError::Short { len: head.len() };
        let word = |at: usize| -> Result<u32, LayoutError> {
            let bytes = head.get(at..at + 4).ok_or(short)?;
            Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| short)?))
        };
        let version = word(0)?;
        let narrow = match version {
            1 => true,
            2 => false,
            _ => return Err(LayoutError::Version { version }),
        };
        let field = |index: usize| -> Result<u64, LayoutError> {
            if narrow {
                return word(4 + 4 * index).map(u64::from);
            }
            let (high, low) = (word(4 + 8 * index)?, word(8 + 8 * index)?);
            Ok(u64::from(high) << 32 | u64::from(low))
        };
        Ok(Layout {
            version,
            stated_block_bytes: field(0)?,
            stated_data_bytes: field(1)?,
            data: field(2)?,
            plaintext_tree: field(3)?,
            ciphertext_tree: field(4)?,
            block_tree: field(5)?,
            chain: field(6)?,
            ueb: field(7)?,
        })
    }

    /// Bytes of this version's table.
    pub fn table_bytes(&self) -> usize {
        if self.version == 1 {
            LAYOUT_1_BYTES
        } else {
            LAYOUT_BYTES_MAX
        }
    }

    /// The range of the UEB's length, in a share of `data_bytes` that begins at `base`.
    pub fn ueb_length_range(&self, base: u64, data_bytes: u64) -> Result<Range<u64>, LayoutError> {
        within(
            "the length of the UEB",
            base,
            self.ueb,
            self.ueb_length_bytes(),
            data_bytes,
        )
    }

    /// The range of the UEB itself. `length` are the bytes at [`Layout::ueb_length_range`].
    pub fn ueb_range(
        &self,
        length: &[u8],
        base: u64,
        data_bytes: u64,
    ) -> Result<Range<u64>, LayoutError> {
        let width = self.ueb_length_bytes();
        if length.len() as u64 != width {
            return Err(LayoutError::Short { len: length.len() });
        }
        let len = length
            .iter()
            .fold(0, |len: u64, &byte| len << 8 | u64::from(byte));
        if len > UEB_BYTES_MAX {
            return Err(LayoutError::TooLong {
                what: "a UEB",
                len,
                max: UEB_BYTES_MAX,
            });
        }
        let what = "the UEB";
        let outside = LayoutError::Outside {
            what,
            offset: self.ueb,
            len,
            data_bytes,
        };
        let start = self.ueb.checked_add(width).ok_or(outside)?;
        within(what, base, start, len, data_bytes)
    }

    /// The range of the share hash chain: at most [`CHAIN_BYTES_MAX`] and a whole number of
    /// entries, perhaps none.
    pub fn chain_range(&self, base: u64, data_bytes: u64) -> Result<Range<u64>, LayoutError> {
        let wrong = LayoutError::Chain {
            start: self.chain,
            end: self.ueb,
        };
        let len = self.ueb.checked_sub(self.chain).ok_or(wrong)?;
        if !len.is_multiple_of(CHAIN_ENTRY_BYTES) {
            return Err(wrong);
        }
        let what = "a share hash chain";
        if len > CHAIN_BYTES_MAX {
            return Err(LayoutError::TooLong {
                what,
                len,
                max: CHAIN_BYTES_MAX,
            });
        }
        within(what, base, self.chain, len, data_bytes)
    }

    /// The places of blocks and trees, for the file's geometry. A tree of a single leaf is never
    /// read, so its offset may be anything. A ciphertext hash tree outside the share is no error,
    /// since the copy in any other share serves as well.
    pub fn regions(
        &self,
        geometry: &Geometry,
        base: u64,
        data_bytes: u64,
    ) -> Result<Regions, LayoutError> {
        let data = within(
            "the data",
            base,
            self.data,
            geometry.share_data_bytes(),
            data_bytes,
        )?
        .start;
        let tree = geometry.tree();
        let tree_bytes = if tree.leaves() == 1 {
            0
        } else {
            tree.nodes() * NODE_BYTES
        };
        let place = |what, offset| {
            if tree_bytes == 0 {
                return Ok(base);
            }
            within(what, base, offset, tree_bytes, data_bytes).map(|range| range.start)
        };
        Ok(Regions {
            data,
            block_tree: place("the block hash tree", self.block_tree)?,
            ciphertext_tree: place("the ciphertext hash tree", self.ciphertext_tree).ok(),
            geometry: *geometry,
        })
    }

    fn ueb_length_bytes(&self) -> u64 {
        if self.version == 1 { 4 } else { 8 }
    }
}

/// `len` bytes at `offset` of a share, if they are there.
fn within(
    what: &'static str,
    base: u64,
    offset: u64,
    len: u64,
    data_bytes: u64,
) -> Result<Range<u64>, LayoutError> {
    let outside = LayoutError::Outside {
        what,
        offset,
        len,
        data_bytes,
    };
    let end = offset
        .checked_add(len)
        .filter(|&end| end <= data_bytes)
        .ok_or(outside)?;
    let end = end.checked_add(base).ok_or(outside)?;
    Ok(end - len..end)
}

/// The places of blocks and tree nodes of one share. All ranges returned lie within the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regions {
    data: u64,
    block_tree: u64,
    ciphertext_tree: Option<u64>,
    geometry: Geometry,
}

impl Regions {
    /// The range of `segment`'s block.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn block_range(&self, segment: u64) -> Range<u64> {
        let range = self.geometry.block_range(segment);
        self.data + range.start..self.data + range.end
    }

    /// The range of the 32 bytes of a node of the block hash tree.
    ///
    /// # Panics
    /// If there is no such node, or if the tree is a single leaf, which is stored nowhere that
    /// counts.
    pub fn block_node(&self, node: u64) -> Range<u64> {
        self.node(self.block_tree, node)
    }

    /// The range of the 32 bytes of a node of the ciphertext hash tree; `None` if this share's copy of
    /// it does not lie within the share.
    ///
    /// # Panics
    /// As [`Regions::block_node`].
    pub fn ciphertext_node(&self, node: u64) -> Option<Range<u64>> {
        self.ciphertext_tree.map(|tree| self.node(tree, node))
    }

    fn node(&self, tree: u64, node: u64) -> Range<u64> {
        let nodes = self.geometry.tree().nodes();
        assert!(node < nodes && nodes > 1, "node {node} of {nodes}");
        let start = tree + node * NODE_BYTES;
        start..start + NODE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(version: u32, fields: [u64; 8]) -> Vec<u8> {
        let mut bytes = version.to_be_bytes().to_vec();
        for field in fields {
            match version {
                1 => bytes.extend((field as u32).to_be_bytes()),
                _ => bytes.extend(field.to_be_bytes()),
            }
        }
        bytes
    }

    const FIELDS: [u64; 8] = [10, 20, 68, 88, 184, 280, 376, 410];

    #[test]
    fn both_versions() {
        for version in [1, 2] {
            let bytes = table(version, FIELDS);
            let layout = Layout::parse(&bytes).unwrap();
            assert_eq!(layout.table_bytes(), bytes.len());
            assert_eq!(
                (layout.stated_block_bytes, layout.stated_data_bytes),
                (10, 20)
            );
            assert_eq!(
                (layout.data, layout.plaintext_tree, layout.ciphertext_tree),
                (68, 88, 184)
            );
            assert_eq!(
                (layout.block_tree, layout.chain, layout.ueb),
                (280, 376, 410)
            );
            for len in 0..bytes.len() {
                assert_eq!(
                    Layout::parse(&bytes[..len]),
                    Err(LayoutError::Short { len })
                );
            }
            // D as it comes out: length of the UEB, 4 or 8 bytes, and the UEB.
            let length = match version {
                1 => vec![0, 0, 1, 64],
                _ => vec![0, 0, 0, 0, 0, 0, 1, 64],
            };
            let end = 410 + length.len() as u64 + 320;
            assert_eq!(
                layout.ueb_length_range(12, end).unwrap(),
                422..422 + length.len() as u64
            );
            assert_eq!(
                layout.ueb_range(&length, 12, end).unwrap(),
                end + 12 - 320..end + 12
            );
            assert!(layout.ueb_range(&length, 12, end - 1).is_err());
            assert_eq!(layout.chain_range(12, end).unwrap(), 388..422);
            let geometry = Geometry::new(1, 2, 20, 10, 100).unwrap();
            let regions = layout.regions(&geometry, 12, end).unwrap();
            assert_eq!(regions.block_range(1), 90..100);
            assert_eq!(regions.block_node(2), 12 + 280 + 64..12 + 280 + 96);
            assert_eq!(regions.ciphertext_node(0), Some(12 + 184..12 + 216));
        }
        let error = Layout::parse(&table(3, FIELDS)).unwrap_err();
        assert_eq!(error, LayoutError::Version { version: 3 });
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_read() {
        let layout = Layout::parse(&table(2, FIELDS)).unwrap();
        for length in [2000, u64::from(u32::MAX), u64::MAX] {
            let error = layout
                .ueb_range(&length.to_be_bytes(), 12, u64::MAX - 12)
                .unwrap_err();
            assert!(matches!(error, LayoutError::TooLong { .. }), "{error}");
        }
        let chain = |chain, ueb| {
            Layout {
                chain,
                ueb,
                ..layout
            }
            .chain_range(12, 1 << 40)
        };
        assert_eq!(chain(100, 100).unwrap(), 112..112);
        assert!(matches!(chain(100, 99), Err(LayoutError::Chain { .. })));
        assert!(matches!(chain(100, 133), Err(LayoutError::Chain { .. })));
        assert_eq!(chain(0, CHAIN_BYTES_MAX).unwrap(), 12..12 + CHAIN_BYTES_MAX);
        assert!(matches!(
            chain(0, CHAIN_BYTES_MAX + 34),
            Err(LayoutError::TooLong { .. })
        ));
        assert!(matches!(
            chain(u64::MAX - 34, u64::MAX),
            Err(LayoutError::Outside { .. })
        ));
    }

    #[test]
    fn a_tree_of_one_leaf_may_be_anywhere_and_a_ciphertext_tree_be_lost() {
        let lost = Layout {
            block_tree: u64::MAX,
            ciphertext_tree: u64::MAX,
            ..Layout::parse(&table(1, FIELDS)).unwrap()
        };
        let one = Geometry::new(1, 2, 10, 10, 100).unwrap();
        assert!(lost.regions(&one, 12, 100).is_ok());
        let two = Geometry::new(1, 2, 11, 10, 100).unwrap();
        assert!(matches!(
            lost.regions(&two, 12, 500),
            Err(LayoutError::Outside { .. })
        ));
        let found = Layout {
            block_tree: 280,
            ..lost
        };
        assert_eq!(
            found.regions(&two, 12, 500).unwrap().ciphertext_node(1),
            None
        );
    }

    proptest! {
        /// Any table, any length: refused, or every range returned lies within the share.
        #[test]
        fn all_ranges_lie_within(
            version in 1..=2u32,
            fields in prop::array::uniform8(prop_oneof![any::<u64>(), 0..5000u64]),
            length in prop_oneof![any::<u64>(), 0..3000u64],
            data_bytes in prop_oneof![0..1u64 << 62, 0..5000u64],
            k in 1..=4u16,
            size in prop_oneof![1..=u64::MAX, 1..5000u64],
        ) {
            let layout = Layout::parse(&table(version, fields)).unwrap();
            let share = 12..12 + data_bytes;
            let inside = |range: &Range<u64>| share.start <= range.start && range.end <= share.end;
            let length = match version {
                1 => (length as u32).to_be_bytes().to_vec(),
                _ => length.to_be_bytes().to_vec(),
            };
            for range in [
                layout.ueb_length_range(12, data_bytes),
                layout.ueb_range(&length, 12, data_bytes),
                layout.chain_range(12, data_bytes),
            ].into_iter().flatten() {
                prop_assert!(inside(&range) && range.end - range.start < 2000);
            }
            let Ok(geometry) = Geometry::new(k, 4, size, 12 * 100, u64::MAX) else { return Ok(()) };
            let Ok(regions) = layout.regions(&geometry, 12, data_bytes) else { return Ok(()) };
            let last = geometry.segments() - 1;
            prop_assert!(inside(&regions.block_range(0)) && inside(&regions.block_range(last)));
            if last > 0 {
                let node = geometry.tree().nodes() - 1;
                prop_assert!(inside(&regions.block_node(0)) && inside(&regions.block_node(node)));
                prop_assert!(regions.ciphertext_node(node).is_none_or(|range| inside(&range)));
            }
        }
    }
}
