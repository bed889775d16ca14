//! The share hash chain: the hashes in a share that verify the root of its block hash tree.
//!
//! ```text
//!  entry: node number, 2 bytes; hash, 32 bytes      in no particular order
//! ```
//!
//! The leaves of the share hash tree are the roots of all shares' block hash trees. A share's chain
//! has its own leaf, and the sibling of each node on the way to the root, whose hash is in the UEB.
//! Other entries, such as the root's, are ignored. A chain is refused if it has two hashes for one
//! node, or a node that the tree does not have.

use super::hash::Hash;
use super::layout::CHAIN_ENTRY_BYTES;
use super::tree::Tree;

/// Why a chain verifies nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not a whole number of entries.
    #[error("a share hash chain of {len} bytes is not a multiple of {CHAIN_ENTRY_BYTES}")]
    Length {
        /// Bytes.
        len: usize,
    },
    /// The tree has no such node.
    #[error("the share hash chain has node {node}; the tree has {nodes}")]
    NoSuchNode {
        /// Its number.
        node: u16,
        /// The number of nodes.
        nodes: u64,
    },
    /// One node with two hashes.
    #[error("the share hash chain has two hashes for node {node}")]
    Twice {
        /// Its number.
        node: u16,
    },
    /// The chain lacks a node that is needed.
    #[error("the share hash chain lacks node {node}")]
    Missing {
        /// Its number.
        node: u64,
    },
    /// The leaf and its siblings do not lead to the root: the share is damaged, or belongs to
    /// another file or another number.
    #[error("the share hash chain does not prove share {number}")]
    Mismatch {
        /// The number under which the share was found.
        number: u16,
    },
}

/// The root of share `number`'s block hash tree, proven by its chain. `tree` is the shape of the
/// share hash tree ([`Geometry::share_tree`](super::Geometry::share_tree)), `root` its root as the
/// UEB has it; `number` is that under which the share was found. A share in the place of its
/// sibling brings along a proof of that one's root too, and fails with its first block.
///
/// # Panics
/// If the tree has no leaf `number`.
pub fn verify_chain(
    chain: &[u8],
    tree: Tree,
    number: u16,
    root: &Hash,
) -> Result<Hash, ChainError> {
    let (entries, rest) = chain.as_chunks::<{ CHAIN_ENTRY_BYTES as usize }>();
    if !rest.is_empty() {
        return Err(ChainError::Length { len: chain.len() });
    }
    let split = |entry: &[u8; CHAIN_ENTRY_BYTES as usize]| {
        let (node, hash) = entry.split_first_chunk().expect("34 bytes");
        (
            u16::from_be_bytes(*node),
            Hash::try_from(hash).expect("32 bytes"),
        )
    };
    let find = |node: u64| {
        let found = entries
            .iter()
            .map(split)
            .find(|&(number, _)| u64::from(number) == node);
        found.map(|(_, hash)| hash)
    };
    for (node, hash) in entries.iter().map(split) {
        if u64::from(node) >= tree.nodes() {
            return Err(ChainError::NoSuchNode {
                node,
                nodes: tree.nodes(),
            });
        }
        if find(node.into()) != Some(hash) {
            return Err(ChainError::Twice { node });
        }
    }
    let needed = |node| find(node).ok_or(ChainError::Missing { node });
    let leaf = needed(tree.leaf_node(number.into()))?;
    // Missing nodes are reported before any hash is computed.
    tree.siblings(number.into())
        .try_for_each(|node| needed(node).map(drop))?;
    let siblings = tree.siblings(number.into()).filter_map(find);
    match tree.root_of(number.into(), leaf, siblings) {
        Ok(reached) if reached == *root => Ok(leaf),
        _ => Err(ChainError::Mismatch { number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tahoe::hash::empty_leaf;
    use crate::tahoe::testing::build;
    use proptest::prelude::*;

    fn entry(node: u64, hash: &Hash) -> Vec<u8> {
        [&(node as u16).to_be_bytes()[..], hash].concat()
    }

    /// The tree over `n` shares' roots, and share `number`'s chain as writers make it.
    fn chain(n: u64, number: u64) -> (Tree, Vec<Hash>, Vec<Vec<u8>>) {
        let roots: Vec<Hash> = (0..n).map(|share| empty_leaf(share + 500)).collect();
        let nodes = build(&roots);
        let tree = Tree::for_leaves(n).unwrap();
        let own = tree.leaf_node(number);
        let entries = tree.siblings(number).chain([own]);
        let entries = entries
            .map(|node| entry(node, &nodes[node as usize]))
            .collect();
        (tree, nodes, entries)
    }

    #[test]
    fn every_share_of_every_width_is_proven_under_its_own_number_only() {
        for n in [1, 2, 3, 10, 255, 256] {
            for number in [0, n / 2, n - 1] {
                let (tree, nodes, entries) = chain(n, number);
                assert_eq!(entries.len() as u32, tree.height() + 1);
                let bytes = entries.concat();
                let own = nodes[tree.leaf_node(number) as usize];
                assert_eq!(
                    verify_chain(&bytes, tree, number as u16, &nodes[0]),
                    Ok(own)
                );
                for other in (0..n).filter(|&other| other != number) {
                    let found = verify_chain(&bytes, tree, other as u16, &nodes[0]);
                    // The chain also has the leaf of its sibling, and all nodes above are the same.
                    let sibling = nodes[tree.leaf_node(other) as usize];
                    assert!(found.is_err() || (other == number ^ 1 && found == Ok(sibling)));
                }
            }
        }
    }

    #[test]
    fn bad_chains_are_refused() {
        let (tree, nodes, entries) = chain(10, 3);
        let root = nodes[0];
        let verify = |entries: &[Vec<u8>]| verify_chain(&entries.concat(), tree, 3, &root);
        let more = |more: Vec<u8>| {
            let mut entries = entries.clone();
            entries.push(more);
            verify(&entries)
        };
        assert!(verify(&entries).is_ok());
        for missing in 0..entries.len() {
            let mut fewer = entries.clone();
            let node = fewer.remove(missing);
            let node = u64::from(u16::from_be_bytes([node[0], node[1]]));
            assert_eq!(verify(&fewer), Err(ChainError::Missing { node }));
        }
        assert_eq!(verify(&[]), Err(ChainError::Missing { node: 18 }));
        assert_eq!(
            more(vec![0; 33]),
            Err(ChainError::Length { len: 5 * 34 + 33 })
        );
        let no_such = ChainError::NoSuchNode {
            node: 31,
            nodes: 31,
        };
        assert_eq!(more(entry(31, &root)), Err(no_such));
        assert_eq!(more(entry(18, &root)), Err(ChainError::Twice { node: 18 }));
        assert_eq!(more(entry(18, &nodes[18])), verify(&entries));
        // The root in the chain is ignored: a wrong one does no harm, and a right one does not
        // help.
        assert_eq!(more(entry(0, &[1; 32])), verify(&entries));
        let own = entry(0, &[1; 32]);
        let other = [entries.concat(), own].concat();
        let error = verify_chain(&other, tree, 3, &[1; 32]).unwrap_err();
        assert_eq!(error, ChainError::Mismatch { number: 3 });
    }

    #[test]
    fn one_share_is_proven_by_its_leaf() {
        let tree = Tree::for_leaves(1).unwrap();
        let chain = entry(0, &[4; 32]);
        assert_eq!(verify_chain(&chain, tree, 0, &[4; 32]), Ok([4; 32]));
        let error = verify_chain(&chain, tree, 0, &[5; 32]).unwrap_err();
        assert_eq!(error, ChainError::Mismatch { number: 0 });
        assert_eq!(
            verify_chain(&[], tree, 0, &[4; 32]),
            Err(ChainError::Missing { node: 0 })
        );
    }

    proptest! {
        /// One flipped bit anywhere: an error, or (in a part that is not needed) the right leaf.
        #[test]
        fn a_flipped_bit_proves_nothing_wrong(
            n in 1..=20u64, number: prop::sample::Index, bit: prop::sample::Index,
            order in any::<bool>(),
        ) {
            let number = number.index(n as usize) as u64;
            let (tree, nodes, mut entries) = chain(n, number);
            if order {
                entries.reverse();
            }
            let mut bytes = entries.concat();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_chain(&bytes, tree, number as u16, &nodes[0]).is_err());
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), n in 1..=256u64) {
            let tree = Tree::for_leaves(n).unwrap();
            prop_assert!(verify_chain(&bytes, tree, (n - 1) as u16, &[3; 32]).is_err());
        }
    }
}
