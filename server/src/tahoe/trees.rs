//! What one core has proven of files' hash trees: of each the last path, so that the next segment needs few nodes more.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use decode_kernel::tahoe::ProvenNodes;
use lru::LruCache;

use crate::memory::limits::TAHOE_TREES_MAX;
use crate::units::ObjectId;

/// Which of a file's hash trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tree {
    /// The ciphertext hash tree.
    Ciphertext,
    /// The block hash tree of a copy.
    Blocks(usize),
}

/// The trees that were used last.
pub struct Trees(RefCell<LruCache<(ObjectId, Tree), ProvenNodes>>);

impl Default for Trees {
    fn default() -> Trees {
        const MOST: NonZeroUsize = NonZeroUsize::new(TAHOE_TREES_MAX).unwrap();
        Trees(RefCell::new(LruCache::new(MOST)))
    }
}

impl Trees {
    /// Takes out what is proven of a tree.
    pub fn take(&self, file: ObjectId, tree: Tree) -> Option<ProvenNodes> {
        self.0.borrow_mut().pop(&(file, tree))
    }

    /// Keeps what is proven of a tree.
    pub fn keep(&self, file: ObjectId, tree: Tree, proven: ProvenNodes) {
        self.0.borrow_mut().put((file, tree), proven);
    }
}
