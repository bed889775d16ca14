//! The share format: the layout of one of an object's n share files. Pure: bytes to structs and back.
//!
//! An object of `size` bytes is cut in segments of k blocks; block j of every segment belongs to
//! share j, and parity blocks are computed above them. A share file is its blocks, in order,
//! between a header that tells everything about the object and a table of checksums, one per leaf:
//!
//! ```text
//!  offset
//!       0  +--------------------------------------+
//!          | header page              4096 bytes  |  header.rs draws it
//!    4096  +--------------------------------------+
//!          | block of segment 0     block_bytes   |  \
//!          +--------------------------------------+   |
//!          | block of segment 1     block_bytes   |   |  the share space: share_bytes,
//!          +--------------------------------------+   |  cut in leaves of leaf_bytes
//!          | ...                                  |   |  (the last may be shorter)
//!          +--------------------------------------+   |
//!          | block of the tail  tail_block_bytes  |  /
//!          +--------------------------------------+
//!          | zeros to the next multiple of 4096   |
//!   table  +--------------------------------------+
//!  _offset | table page 0             4096 bytes  |  leaves.rs draws it:
//!          | table page 1             4096 bytes  |  511 leaf checksums each
//!          | ...                                  |
//!          +--------------------------------------+
//!                                        share_file_bytes
//! ```
//!
//! The codes work byte by byte across the shares. So a range of the share space of any k shares gives the same range of
//! every other share, regardless of the borders of blocks and segments.
//!
//! The tail segment, T bytes (1..=k*block_bytes), is cut in k blocks of `tail_block_bytes`: T/k
//! rounded up to 64. Its block j holds bytes `[j*tail_block, (j+1)*tail_block)` of the tail padded
//! with zeros. An object of no bytes has no segment, no block and no table: its share is the header
//! page.
//!
//! All integers are little-endian unless noted. Files, directories and names on disk belong to the crate
//! `penstock-store`; only [`object_dir`] and [`share_file_name`] are defined here, because two readers must agree on
//! them.

mod geometry;
mod header;
mod leaves;
mod metadata;
mod names;

pub use geometry::{
    BLOCK_BYTES_MAX, BLOCKS_OFFSET, Geometry, GeometryError, LEAF_BYTES_MAX, LEAF_BYTES_MIN,
    OBJECT_BYTES_MAX, SHARES_MAX,
};
pub use header::{
    CONTENT_TYPE_BYTES_MAX, Digest, DigestAlgorithm, Header, HeaderError, check_content_type,
};
pub use leaves::{LeafChecksum, TABLE_PAGE_ENTRIES, TablePage, TablePageError};
pub use metadata::{FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX, FieldError, Fields, Metadata};
pub use names::{
    Generation, GenerationError, KEY_BYTES_MAX, Key, KeyError, object_dir, share_file_name,
};

/// Bytes of a header page and of a table page, and the alignment of blocks and table in the file.
pub const PAGE_BYTES: usize = 4096;

/// The checksum of header and table pages: CRC-64/NVME of the parts, in order.
fn page_checksum(parts: &[&[u8]]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// Lower-case hexadecimal, for names and displays.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
