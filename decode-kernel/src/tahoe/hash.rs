//! The hashes of the format. Each is SHA-256 applied twice, with a tag before the input, so that a
//! hash of one kind is never a hash of another kind.

pub use crate::sha256::Hash;
use crate::sha256::sha256d;

/// The prefix of a block in the leaf of a block hash tree: the tag as a netstring.
pub const BLOCK_TAG: &[u8] = b"29:allmydata_encoded_subshare_v1,";
/// The prefix of a segment's ciphertext in the leaf of the ciphertext hash tree.
pub const SEGMENT_TAG: &[u8] = b"30:allmydata_crypttext_segment_v1,";
pub(super) const STORAGE_INDEX_TAG: &[u8] = b"43:allmydata_immutable_key_to_storage_index_v1,";
const UEB_TAG: &[u8] = b"26:allmydata_uri_extension_v1,";
const EMPTY_LEAF_TAG: &[u8] = b"22:Merkle tree empty leaf,";
const NODE_TAG: &[u8] = b"25:Merkle tree internal node,";

/// The hash of `bytes` under a tag that is a netstring already, such as [`BLOCK_TAG`].
pub fn tagged(tag: &[u8], bytes: &[u8]) -> Hash {
    sha256d(&[tag, bytes])
}

/// The leaf of a block hash tree: the hash of one block as it is stored.
pub fn block_hash(block: &[u8]) -> Hash {
    tagged(BLOCK_TAG, block)
}

/// The leaf of the ciphertext hash tree: the hash of a segment's ciphertext without padding.
pub fn segment_hash(ciphertext: &[u8]) -> Hash {
    tagged(SEGMENT_TAG, ciphertext)
}

/// The hash of a URI extension block, as the cap has it.
pub fn ueb_hash(ueb: &[u8]) -> Hash {
    tagged(UEB_TAG, ueb)
}

/// An inner node of any tree, from its children.
pub fn pair(left: &Hash, right: &Hash) -> Hash {
    sha256d(&[NODE_TAG, b"32:", left, b",32:", right, b","])
}

/// The hash of leaf number `leaf` in any tree with fewer leaves in use.
pub fn empty_leaf(leaf: u64) -> Hash {
    tagged(EMPTY_LEAF_TAG, leaf.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tahoe::testing::hash;

    /// Hashes from an independent writer whose shares are the same as Tahoe's, byte for byte.
    #[test]
    fn known_answers() {
        assert_eq!(
            sha256d(&[]),
            hash("5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456")
        );
        assert_eq!(
            sha256d(&[b"a", b"", b"bc"]),
            hash("4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358")
        );
        for (tag, expected) in [
            (
                STORAGE_INDEX_TAG,
                "d2bc0abd2606c6776f324bbcd6aa7f6ff7b62a05e4f0a5879459b8ec0a222da2",
            ),
            (
                BLOCK_TAG,
                "afc2f17eac0f7b86422931df8f4c19bf74ef5868f102ec5ac30f45338a7fd1b1",
            ),
            (
                UEB_TAG,
                "570c10b31ba0ebe025a2cf16e9d185d4581b171a6bd82fbb6c76687f0c5772c0",
            ),
            (
                SEGMENT_TAG,
                "18469cc52f3994051f305eb4f81e3f514a9691e399daf1f4351b7241832c3dfb",
            ),
        ] {
            assert_eq!(tagged(tag, &[0; 16]), hash(expected));
        }
        assert_eq!(
            pair(&[0x11; 32], &[0x22; 32]),
            hash("4d727d908032c79af5d2b033c31b099462a10e248d430861c98443de0d6087aa")
        );
        for (leaf, expected) in [
            (
                0,
                "e0024730188e2de564a697cc2987407b24ae7eb6b880190c1a0337a5740e527a",
            ),
            (
                1,
                "3dd1cc8445dd34f8b3049c51deab3d04c15b5fd2c9b84eddab345966bd8fdde4",
            ),
            (
                3,
                "9ed59076b6bee6b75864630c3c20cff6934efe03a60a7fd28b69542fb13a68a3",
            ),
            (
                10,
                "ad6bdacbc961fbc124653306f5b8e757c4eddb06491b1edb48c68d124466fa15",
            ),
        ] {
            assert_eq!(empty_leaf(leaf), hash(expected));
        }
    }
}
