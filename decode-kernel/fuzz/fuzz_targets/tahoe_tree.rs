//! Leaves of a tree in any order, with any nodes changed: a leaf passes if and only if neither it
//! nor a node it needs was changed.
#![no_main]

use decode_kernel::tahoe::{Hash, ProvenNodes, Tree, pair};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<(u8, u8)>)| {
    let (height, reads) = input;
    let leaves = 1u64 << (height % 7);
    let tree = Tree::for_leaves(leaves).expect("few");
    let mut nodes: Vec<Hash> = (0..tree.nodes()).map(|node| [node as u8; 32]).collect();
    for node in (0..leaves as usize - 1).rev() {
        nodes[node] = pair(&nodes[2 * node + 1], &nodes[2 * node + 2]);
    }
    let mut proven = ProvenNodes::new(tree, nodes[0]);
    for (leaf, change) in reads {
        let leaf = u64::from(leaf) % leaves;
        let mut changed = false;
        let mut stored = |node: u64| {
            let mut hash = nodes[node as usize];
            if change != 0 && node % 16 == u64::from(change) % 16 {
                hash[usize::from(change) % 32] ^= change;
                changed = true;
            }
            hash
        };
        let siblings: Vec<Hash> = proven.needed(leaf).map(&mut stored).collect();
        let hash = stored(tree.leaf_node(leaf));
        assert_eq!(proven.check(leaf, hash, &siblings).is_err(), changed);
    }
});
