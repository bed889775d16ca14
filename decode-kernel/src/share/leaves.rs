//! Leaf checksums, and the pages of the table that holds them.
//!
//! ```text
//!  a table page, little-endian
//!     0  u64  checksum of leaf 511*index
//!     8  u64  checksum of leaf 511*index + 1
//!        ...  511 entries; those past the share's last leaf are 0
//!  4088  u64  CRC-64/NVME over generation (16 bytes), share number (u16), index (u64), 0..4088
//!  4096
//! ```
//!
//! Generation, number and index are not stored in the page, but they are part of its checksum. So a
//! whole page in the wrong place (of another share, another put, or elsewhere in the file) does not
//! match.

use super::{Generation, PAGE_BYTES, page_checksum};

/// Leaf checksums in one page of the table.
pub const TABLE_PAGE_ENTRIES: usize = 511;

const ENTRIES_BYTES: usize = TABLE_PAGE_ENTRIES * 8;
const _: () = assert!(ENTRIES_BYTES + 8 == PAGE_BYTES);

/// The checksum algorithm of leaves. The header names it, so that others can be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LeafChecksum {
    /// CRC-64/NVME of the leaf's bytes.
    Crc64Nvme = 1,
}

impl LeafChecksum {
    /// The checksum of one leaf's bytes.
    pub fn compute(&self, leaf: &[u8]) -> u64 {
        match self {
            LeafChecksum::Crc64Nvme => crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, leaf),
        }
    }

    /// The algorithm with this number in a header, if it is known.
    pub(super) fn from_byte(byte: u8) -> Option<LeafChecksum> {
        (byte == LeafChecksum::Crc64Nvme as u8).then_some(LeafChecksum::Crc64Nvme)
    }
}

impl std::fmt::Display for LeafChecksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LeafChecksum::Crc64Nvme => f.write_str("crc64-nvme"),
        }
    }
}

/// Why bytes are not the expected table page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TablePageError {
    /// Not [`PAGE_BYTES`] bytes.
    #[error("table page {index} is {len} bytes long, not {PAGE_BYTES}")]
    Length {
        /// Which page.
        index: u64,
        /// Bytes given.
        len: usize,
    },
    /// It is damaged, or belongs in another place.
    #[error("checksum of table page {index} of share {number} does not match")]
    Checksum {
        /// Which page.
        index: u64,
        /// Which share.
        number: u16,
    },
}

/// One verified page of the table, borrowed from the bytes it was read into.
#[derive(Clone, Copy, Debug)]
pub struct TablePage<'a> {
    page: &'a [u8; PAGE_BYTES],
}

impl<'a> TablePage<'a> {
    /// Encodes page `index` of share `number`'s table, with `entries`.
    ///
    /// # Panics
    /// If there are more than [`TABLE_PAGE_ENTRIES`].
    pub fn encode(
        generation: &Generation,
        number: u16,
        index: u64,
        entries: &[u64],
    ) -> [u8; PAGE_BYTES] {
        assert!(
            entries.len() <= TABLE_PAGE_ENTRIES,
            "{} entries in a page",
            entries.len()
        );
        let mut page = [0; PAGE_BYTES];
        for (bytes, entry) in page.chunks_exact_mut(8).zip(entries) {
            bytes.copy_from_slice(&entry.to_le_bytes());
        }
        let sum = checksum(generation, number, index, &page[..ENTRIES_BYTES]);
        page[ENTRIES_BYTES..].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Verifies `page` as page `index` of share `number`'s table in `generation`.
    pub fn decode(
        generation: &Generation,
        number: u16,
        index: u64,
        page: &'a [u8],
    ) -> Result<TablePage<'a>, TablePageError> {
        let Ok(page) = <&[u8; PAGE_BYTES]>::try_from(page) else {
            return Err(TablePageError::Length {
                index,
                len: page.len(),
            });
        };
        let sum = checksum(generation, number, index, &page[..ENTRIES_BYTES]);
        if page[ENTRIES_BYTES..] != sum.to_le_bytes() {
            return Err(TablePageError::Checksum { index, number });
        }
        Ok(TablePage { page })
    }

    /// The checksum at `entry`, as [`Geometry::table_page_of`](super::Geometry::table_page_of)
    /// numbers them.
    ///
    /// # Panics
    /// If `entry` is not below [`TABLE_PAGE_ENTRIES`].
    pub fn entry(&self, entry: usize) -> u64 {
        assert!(entry < TABLE_PAGE_ENTRIES, "entry {entry} of a table page");
        let bytes = &self.page[entry * 8..entry * 8 + 8];
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }
}

fn checksum(generation: &Generation, number: u16, index: u64, entries: &[u8]) -> u64 {
    page_checksum(&[
        generation.as_bytes(),
        &number.to_le_bytes(),
        &index.to_le_bytes(),
        entries,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn generation(nanos: u64) -> Generation {
        Generation::new(nanos, [7; 8])
    }

    #[test]
    fn crc64_nvme_has_the_catalogued_check_value() {
        // The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
        assert_eq!(
            LeafChecksum::Crc64Nvme.compute(b"123456789"),
            0xae8b14860a799888
        );
    }

    #[test]
    fn a_page_in_the_wrong_place_is_refused() {
        let page = TablePage::encode(&generation(1), 3, 5, &[1, 2, 3]);
        assert!(TablePage::decode(&generation(1), 3, 5, &page).is_ok());
        for (nanos, number, index) in [(2, 3, 5), (1, 4, 5), (1, 3, 6)] {
            let error = TablePage::decode(&generation(nanos), number, index, &page).unwrap_err();
            assert_eq!(error, TablePageError::Checksum { index, number });
        }
        let error = TablePage::decode(&generation(1), 3, 5, &page[1..]).unwrap_err();
        assert_eq!(
            error,
            TablePageError::Length {
                index: 5,
                len: 4095
            }
        );
    }

    proptest! {
        #[test]
        fn entries_come_back_and_a_flipped_bit_is_found(
            entries in prop::collection::vec(any::<u64>(), 0..=TABLE_PAGE_ENTRIES),
            bit in 0..PAGE_BYTES * 8,
        ) {
            let mut page = TablePage::encode(&generation(9), 1, 2, &entries);
            let table = TablePage::decode(&generation(9), 1, 2, &page).unwrap();
            for i in 0..TABLE_PAGE_ENTRIES {
                prop_assert_eq!(table.entry(i), entries.get(i).copied().unwrap_or(0));
            }
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(TablePage::decode(&generation(9), 1, 2, &page).is_err());
        }
    }
}
