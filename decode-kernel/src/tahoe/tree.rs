//! Hash trees: checks one leaf with a trusted root and a few nodes stored in a share.
//!
//! A tree of P leaves, a power of two, is an array of 2P-1 nodes:
//!
//! ```text
//!  node                      0                     the root
//!                      1           2               children of i: 2i+1, 2i+2
//!  leaf j is        3     4     5     6            an odd node is a left child
//!  node P-1+j      j=0   j=1   j=2   j=3
//! ```
//!
//! A leaf is checked by computing the hashes above it, each with the stored sibling, up to the root. If the root is
//! right, the siblings are right too. [`ProvenNodes`] remembers the last proven pair of each level, and a check stops
//! at the first proven node. So leaves read in order need one stored node each on average, and memory grows with the
//! tree's height only.

use super::hash::{self, Hash, pair};

/// Bytes of a node in a share.
pub const NODE_BYTES: u64 = 32;
/// Highest tree: the offsets of its 2^57-1 nodes stay below 2^62.
const HEIGHT_MAX: u32 = 56;

/// The shape of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// P is 2 to this.
    height: u32,
}

impl Tree {
    /// The tree for `count` leaves: P is the least power of two that is at least `count`. `None` for no leaves, and for
    /// so many leaves that the nodes' offsets do not fit 64 bits.
    pub fn for_leaves(count: u64) -> Option<Tree> {
        (1..=1 << HEIGHT_MAX).contains(&count).then(|| Tree {
            height: count.next_power_of_two().ilog2(),
        })
    }

    /// P.
    pub fn leaves(&self) -> u64 {
        1 << self.height
    }

    /// Nodes in all: 2P-1.
    pub fn nodes(&self) -> u64 {
        2 * self.leaves() - 1
    }

    /// Levels below the root, which is also the number of siblings on a leaf's way up.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The node of `leaf`.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn leaf_node(&self, leaf: u64) -> u64 {
        assert!(leaf < self.leaves(), "leaf {leaf} of {}", self.leaves());
        self.leaves() - 1 + leaf
    }

    /// The siblings of the nodes on the way from `leaf` to the root, from below.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn siblings(&self, leaf: u64) -> Siblings {
        Siblings {
            node: self.leaf_node(leaf),
            left: self.height,
        }
    }

    /// The root that `hash` at `leaf` and its `siblings`, as [`Tree::siblings`] numbers them, make.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn root_of(
        &self,
        leaf: u64,
        hash: Hash,
        siblings: impl IntoIterator<Item = Hash>,
    ) -> Result<Hash, TreeError> {
        let (mut node, mut hash, mut given) = (self.leaf_node(leaf), hash, 0);
        for sibling in siblings {
            if node == 0 {
                return Err(TreeError::Siblings {
                    needed: self.height as usize,
                });
            }
            hash = parent_of(node, &hash, &sibling);
            node = (node - 1) / 2;
            given += 1;
        }
        if given != self.height {
            return Err(TreeError::Siblings {
                needed: self.height as usize,
            });
        }
        Ok(hash)
    }
}

/// The hash of the parent of `node`.
fn parent_of(node: u64, hash: &Hash, sibling: &Hash) -> Hash {
    if is_left(node) {
        pair(hash, sibling)
    } else {
        pair(sibling, hash)
    }
}

fn is_left(node: u64) -> bool {
    node % 2 == 1
}

/// The other child of `node`'s parent. `node` is not the root.
fn sibling_of(node: u64) -> u64 {
    if is_left(node) { node + 1 } else { node - 1 }
}

/// Numbers of nodes, from below; made by [`Tree::siblings`] and [`ProvenNodes::needed`].
#[derive(Debug, Clone)]
pub struct Siblings {
    node: u64,
    left: u32,
}

impl Iterator for Siblings {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let sibling = sibling_of(self.node);
        self.node = (self.node - 1) / 2;
        Some(sibling)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Siblings {}

/// Why a leaf could not be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The leaf, or one of the siblings, does not match the root.
    #[error("the hashes of leaf {leaf} do not lead to the trusted root")]
    Mismatch {
        /// Which leaf.
        leaf: u64,
    },
    /// The number of siblings is not the number needed.
    #[error("{needed} sibling hashes are needed")]
    Siblings {
        /// The number needed.
        needed: usize,
    },
}

/// The proven nodes of one tree: its root, and the last pair of children on each level.
#[derive(Debug, Clone)]
pub struct ProvenNodes {
    tree: Tree,
    root: Hash,
    /// For each level below the root, from the leaves up.
    levels: Box<[Option<Pair>]>,
}

/// The two children of one node.
#[derive(Debug, Clone, Copy)]
struct Pair {
    left_node: u64,
    hashes: [Hash; 2],
}

impl Pair {
    /// The hash of `node`, if it is one of the two.
    fn get(&self, node: u64) -> Option<&Hash> {
        self.hashes
            .get(usize::try_from(node.checked_sub(self.left_node)?).ok()?)
    }
}

impl ProvenNodes {
    /// Starts with the root alone, which is trusted.
    pub fn new(tree: Tree, root: Hash) -> ProvenNodes {
        ProvenNodes {
            tree,
            root,
            levels: vec![None; tree.height as usize].into(),
        }
    }

    /// Heap bytes of a `ProvenNodes` for `tree`.
    pub fn bytes(tree: Tree) -> usize {
        tree.height as usize * size_of::<Option<Pair>>()
    }

    /// The stored nodes that [`ProvenNodes::check`] needs to check `leaf`, from below.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn needed(&self, leaf: u64) -> Siblings {
        let mut siblings = self.tree.siblings(leaf);
        siblings.left = self.known_level(leaf) as u32;
        siblings
    }

    /// Checks that `hash` is the hash of `leaf`, with the stored hashes of the nodes in [`ProvenNodes::needed`]. An
    /// error changes nothing.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn check(&mut self, leaf: u64, hash: Hash, siblings: &[Hash]) -> Result<(), TreeError> {
        let known = self.known_level(leaf);
        if siblings.len() != known {
            return Err(TreeError::Siblings { needed: known });
        }
        // The pairs on the way up, each with its left node.
        let mut pairs = [None; HEIGHT_MAX as usize];
        let (mut node, mut reached) = (self.tree.leaf_node(leaf), hash);
        for (pair, sibling) in pairs.iter_mut().zip(siblings) {
            let (left_node, hashes) = if is_left(node) {
                (node, [reached, *sibling])
            } else {
                (node - 1, [*sibling, reached])
            };
            reached = hash::pair(&hashes[0], &hashes[1]);
            node = (node - 1) / 2;
            *pair = Some(Pair { left_node, hashes });
        }
        let trusted = match self.levels.get(known) {
            Some(pair) => pair.as_ref().and_then(|pair| pair.get(node)),
            None => Some(&self.root),
        };
        if trusted != Some(&reached) {
            return Err(TreeError::Mismatch { leaf });
        }
        self.levels[..known].copy_from_slice(&pairs[..known]);
        Ok(())
    }

    /// The number of levels from `leaf` up to its first proven ancestor; 0 if it is proven itself.
    fn known_level(&self, leaf: u64) -> usize {
        let mut node = self.tree.leaf_node(leaf);
        for (level, pair) in self.levels.iter().enumerate() {
            if pair.as_ref().is_some_and(|pair| pair.get(node).is_some()) {
                return level;
            }
            node = (node - 1) / 2;
        }
        self.levels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tahoe::empty_leaf;
    use crate::tahoe::testing::{build, hash};
    use proptest::prelude::*;

    #[test]
    fn known_answer() {
        let leaves: Vec<Hash> = (0..3).map(|byte| [byte; 32]).collect();
        let nodes = build(&leaves);
        for (node, expected) in [
            (
                0,
                "92e70a7a143b15a087efc129900fc3b807f3f1daec75836a76607745d8ee0510",
            ),
            (
                1,
                "6f306e3df9d2676a858a1b3dd8f00f5cea15e33c273598f0f370c169d4d2d81c",
            ),
            (
                2,
                "04675acc839e262ec9eff3b46598697a76362df98f6199110a5faf33f3a5f046",
            ),
            (
                6,
                "9ed59076b6bee6b75864630c3c20cff6934efe03a60a7fd28b69542fb13a68a3",
            ),
        ] {
            assert_eq!(nodes[node], hash(expected), "node {node}");
        }
    }

    #[test]
    fn shapes() {
        for (count, leaves) in [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1 << 56, 1 << 56)] {
            assert_eq!(Tree::for_leaves(count).unwrap().leaves(), leaves);
        }
        assert_eq!(Tree::for_leaves(0), None);
        assert_eq!(Tree::for_leaves((1 << 56) + 1), None);
        assert_eq!(Tree::for_leaves(u64::MAX), None);
        let tree = Tree::for_leaves(7).unwrap();
        assert_eq!(
            (tree.nodes(), tree.leaf_node(0), tree.leaf_node(7)),
            (15, 7, 14)
        );
        assert_eq!(tree.siblings(0).collect::<Vec<_>>(), [8, 4, 2]);
        assert_eq!(tree.siblings(5).collect::<Vec<_>>(), [11, 6, 1]);
        assert_eq!(Tree::for_leaves(1).unwrap().siblings(0).count(), 0);
    }

    #[test]
    fn a_tree_of_one_leaf_is_its_root() {
        let mut proven = ProvenNodes::new(Tree::for_leaves(1).unwrap(), [5; 32]);
        assert_eq!(proven.needed(0).len(), 0);
        assert_eq!(proven.check(0, [5; 32], &[]), Ok(()));
        assert_eq!(
            proven.check(0, [6; 32], &[]),
            Err(TreeError::Mismatch { leaf: 0 })
        );
        assert_eq!(
            proven.check(0, [5; 32], &[[5; 32]]),
            Err(TreeError::Siblings { needed: 0 })
        );
    }

    #[test]
    fn reading_in_order_needs_one_stored_node_a_leaf() {
        let leaves: Vec<Hash> = (0..1000).map(empty_leaf).collect();
        let nodes = build(&leaves);
        let mut proven = ProvenNodes::new(Tree::for_leaves(1000).unwrap(), nodes[0]);
        let mut read = 0;
        for (leaf, &hash) in leaves.iter().enumerate() {
            let siblings: Vec<Hash> = proven
                .needed(leaf as u64)
                .map(|node| nodes[node as usize])
                .collect();
            read += siblings.len();
            proven.check(leaf as u64, hash, &siblings).unwrap();
        }
        assert!(read <= 1010, "{read}");
    }

    proptest! {
        /// Leaves in any order, some of them wrong, with some siblings wrong. Right leaves are accepted and wrong ones
        /// never, whatever was proven before.
        #[test]
        fn only_right_leaves_are_accepted(
            count in 1..40u64,
            reads in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..60),
        ) {
            let leaves: Vec<Hash> = (0..count).map(|leaf| empty_leaf(leaf + 1000)).collect();
            let nodes = build(&leaves);
            let tree = Tree::for_leaves(count).unwrap();
            prop_assert_eq!(nodes.len() as u64, tree.nodes());
            let mut proven = ProvenNodes::new(tree, nodes[0]);
            for (leaf, fault, bit) in reads {
                let leaf = leaf.index(tree.leaves() as usize) as u64;
                let stored = |node: u64| nodes[node as usize];
                let mut hash = stored(tree.leaf_node(leaf));
                let root = tree.root_of(leaf, hash, tree.siblings(leaf).map(stored));
                prop_assert_eq!(root, Ok(nodes[0]));
                let mut siblings: Vec<Hash> = proven.needed(leaf).map(stored).collect();
                let mut wrong = false;
                if fault == 0 {
                    hash[usize::from(bit / 8)] ^= 1 << (bit % 8);
                    wrong = true;
                } else if fault == 1 && !siblings.is_empty() {
                    let at = usize::from(bit) % siblings.len();
                    siblings[at][usize::from(bit / 8)] ^= 1 << (bit % 8);
                    wrong = true;
                }
                prop_assert_eq!(proven.check(leaf, hash, &siblings).is_err(), wrong);
                siblings.push([0; 32]);
                let refused = matches!(
                    proven.check(leaf, hash, &siblings),
                    Err(TreeError::Siblings { .. })
                );
                prop_assert!(refused);
            }
        }
    }
}
