//! The format of Tahoe-LAFS immutable files: from a read-cap and the bytes of share files to
//! verified ciphertext. Pure: bytes to structs, no I/O. The bytes that storage servers and
//! uploaders wrote are hostile until checked, and every length from a share is bounded before it is
//! used.
//!
//! A read-cap ([`Cap`]) holds the key, and by hashes it fixes everything else:
//!
//! ```text
//!  cap --- UEB hash ---> URI extension block (UEB), one per file, a copy in every share
//!                          |  segment size
//!                          |  share_root_hash ------> share hash tree; a share holds its path, the
//!                          |                          share hash chain. Leaf i: root of
//!                          |                            block hash tree of share i. Leaf s:
//!                          |                              block s of share i
//!                          |  crypttext_root_hash --> ciphertext hash tree, a copy in every share
//!                          |                            Leaf s: ciphertext of segment s
//! ```
//!
//! Block hashes only prove that the uploader made these blocks, not that they are one codeword; so
//! a segment is good when the hash of its ciphertext is. A share file is, with the module that
//! draws each part:
//!
//! ```text
//!        0  +---------------------------------+
//!           | container header      12 bytes  |  container.rs
//!       12  +---------------------------------+  \
//!           | offset table                    |   |  layout.rs
//!           | blocks                          |   |  ueb.rs, Geometry
//!           | plaintext hash tree, unused     |   |
//!           | ciphertext hash tree            |   |  tree.rs
//!           | block hash tree                 |   |  tree.rs
//!           | share hash chain                |   |  chain.rs
//!           | URI extension block             |   |  ueb.rs
//!     12+D  +---------------------------------+  /
//!           | leases           72 bytes each  |  container.rs
//!           +---------------------------------+
//! ```
//!
//! The code is [`rs8`](crate::code::CodeKind::Rs8); encryption is AES-128 in counter mode from
//! zero at the file's first byte, one keystream for the whole file. All integers are big-endian.
//! Mutable files and directories are other formats.

mod base32;
mod cap;
mod chain;
mod container;
mod geometry;
mod hash;
mod layout;
mod record;
mod tree;
mod ueb;

pub use base32::Base32Error;
pub use cap::{CAP_TEXT_MAX, Cap, CapError, ChkCap, StorageIndex};
pub use chain::{ChainError, verify_chain};
pub use container::{CONTAINER_HEADER_BYTES, Container, ContainerError, LEASE_BYTES};
pub use geometry::{Geometry, GeometryError, SEGMENT_BYTES_FLOOR, SHARES_MAX, SMALL_SEGMENTS_MAX};
pub use hash::{
    BLOCK_TAG, Hash, SEGMENT_TAG, block_hash, empty_leaf, pair, segment_hash, tagged, ueb_hash,
};
pub use layout::{CHAIN_BYTES_MAX, LAYOUT_BYTES_MAX, Layout, LayoutError, Regions, UEB_BYTES_MAX};
pub use record::{Changed, Run, Runs, SegmentRecord};
pub use tree::{NODE_BYTES, ProvenNodes, Tree, TreeError};
pub use ueb::{Ueb, UebEntry, UebError};

/// Parses an ASCII decimal without sign, as caps and UEBs write numbers. Leading zeros are allowed:
/// the format does not forbid them, and Tahoe reads them.
fn decimal(text: &[u8]) -> Result<u64, DecimalError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(DecimalError::NotDecimal);
    }
    text.iter().try_fold(0u64, |value, digit| {
        value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .ok_or(DecimalError::TooLarge)
    })
}

/// Why a text is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Empty, or with characters other than the digits 0 to 9.
    #[error("is not a decimal number")]
    NotDecimal,
    /// 2^64 or more.
    #[error("is larger than 2^64-1")]
    TooLarge,
}

/// Helpers for the tests of several modules.
#[cfg(test)]
mod testing {
    use super::{Hash, empty_leaf, pair};

    /// A hash from its hexadecimal.
    pub(super) fn hash(hex: &str) -> Hash {
        assert_eq!(hex.len(), 64);
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    /// The array of nodes of the tree over `leaves`, made from the definition.
    pub(super) fn build(leaves: &[Hash]) -> Vec<Hash> {
        let count = leaves.len().next_power_of_two();
        let mut nodes = vec![[0; 32]; 2 * count - 1];
        for leaf in 0..count {
            let hash = leaves.get(leaf).copied();
            nodes[count - 1 + leaf] = hash.unwrap_or_else(|| empty_leaf(leaf as u64));
        }
        for node in (0..count - 1).rev() {
            nodes[node] = pair(&nodes[2 * node + 1], &nodes[2 * node + 2]);
        }
        nodes
    }
}
