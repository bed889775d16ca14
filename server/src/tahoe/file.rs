//! An open file: its shares, all copies of them, and what is known of their health.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::aes::Aes128Ctr;
use decode_kernel::code::Code;
use decode_kernel::tahoe::{Geometry, Hash, ProvenNodes, Regions, SegmentRecord, StorageIndex};
use lru::LruCache;

use crate::engine::read::is_hung;
use crate::io::StoreFile;
use crate::memory::limits::BAD_LEAVES_MAX;
use crate::objects::Layout;
use crate::objects::open_files::Held;
use crate::stores::{OpenHere, Store};
use crate::units::{ObjectId, ShareNumber};

/// A file with at least k shares, each proven to be the cap's.
pub struct File {
    /// Tells it apart from every other file this core has opened.
    pub id: ObjectId,
    /// What may be said of it in a log; the cap may not.
    pub storage_index: StorageIndex,
    /// Segments, blocks, trees.
    pub geometry: Geometry,
    /// The same for plans, with leaves of ours.
    pub layout: Layout,
    /// The code it is written in.
    pub code: Arc<Code>,
    /// Decrypts.
    pub cipher: Aes128Ctr,
    /// The root of the ciphertext hash tree.
    pub ciphertext_root: Hash,
    /// Sorted by share number; several copies of one share are all here.
    pub copies: Vec<Copy>,
    /// Copies and segments whose block was not what its hash says. Bounded: what falls out is found again.
    pub bad_blocks: RefCell<LruCache<(usize, u64), ()>>,
    /// Segments that no choice of copies makes right, so that nobody has them hashed again and again.
    /// Bounded in the same way.
    pub refused: RefCell<LruCache<u64, ()>>,
    /// When it was opened.
    pub opened: Instant,
    /// How often any store had come back when it was looked up.
    pub returns: u64,
    /// Tells it apart for its nodes.
    pub number: u64,
    /// Counts its files.
    pub _files: Held,
}

/// One share file.
pub struct Copy {
    /// The share's number.
    pub number: ShareNumber,
    /// Where it was found.
    pub path: PathBuf,
    /// Shared with reads under way.
    pub file: Arc<StoreFile>,
    /// Its node.
    pub store: Arc<Store>,
    /// Counts it as open there.
    pub _open: OpenHere,
    /// Where its blocks and trees are.
    pub regions: Regions,
    /// The root of its block hash tree, proven.
    pub root: Hash,
    /// Set once reading failed; then it is used no more.
    pub lost: Cell<bool>,
    /// Set once a block was bad; then others are tried before it.
    pub faulty: Cell<bool>,
}

impl Copy {
    /// Whether it is to be read: its node serves, and it was not given up. With `also_slow` the node may be slow.
    pub fn is_usable(&self, also_slow: bool) -> bool {
        !self.lost.get() && self.store.serves(also_slow)
    }
}

impl File {
    /// The copies to read a segment from, one of each share, in order of the shares' numbers: data shares
    /// first, those that had a bad block last; k at most, fewer if no more are good as far as is known.
    pub fn choose(&self, segment: u64) -> Vec<usize> {
        let k = usize::from(self.geometry.k());
        let mut chosen: Vec<usize> = Vec::with_capacity(k);
        let bad = self.bad_blocks.borrow();
        // Those in slow nodes last of all.
        for (slow, faulty) in [(false, false), (false, true), (true, false), (true, true)] {
            for (at, copy) in self.copies.iter().enumerate() {
                if chosen.len() == k {
                    break;
                }
                let usable = copy.is_usable(slow) && !bad.contains(&(at, segment));
                let again = || {
                    chosen
                        .iter()
                        .any(|&other| self.copies[other].number == copy.number)
                };
                if copy.faulty.get() == faulty && usable && !again() {
                    chosen.push(at);
                }
            }
        }
        chosen.sort_unstable();
        chosen
    }

    /// Which slot of a record has share `number`.
    pub fn slot(&self, record: &SegmentRecord, number: ShareNumber) -> Option<usize> {
        let mut copies = record.sources().iter();
        copies.position(|&at| self.copies[at].number == number)
    }

    /// A block is not what its hash says.
    pub fn mark_bad(&self, at: usize, segment: u64) {
        self.copies[at].faulty.set(true);
        let mut bad = self.bad_blocks.borrow_mut();
        if bad.put((at, segment), ()).is_none() {
            if bad.len() > BAD_LEAVES_MAX {
                bad.pop_lru();
            }
            let copy = &self.copies[at];
            tracing::warn!(
                storage_index = %self.storage_index, share = %copy.number,
                path = %copy.path.display(), segment, "bad block: its hash is not the proven one"
            );
        }
    }

    /// A copy can't be read. One whose node hangs is left alone as long as the node is.
    pub fn lose(&self, at: usize, error: &io::Error) {
        let copy = &self.copies[at];
        if !is_hung(error) && !copy.lost.replace(true) {
            tracing::warn!(
                storage_index = %self.storage_index, share = %copy.number,
                path = %copy.path.display(), "share given up: {error}"
            );
        }
    }

    /// Shares of which a copy is open and not given up.
    pub fn live_shares(&self) -> usize {
        // Sorted by number.
        let good = self.copies.iter().filter(|copy| copy.is_usable(true));
        let numbers: Vec<ShareNumber> = good.map(|copy| copy.number).collect();
        numbers.chunk_by(ShareNumber::eq).count()
    }

    /// Nodes that are suspended now and have copies that were not given up.
    pub fn nodes_away(&self) -> usize {
        let good = self.copies.iter().filter(|copy| !copy.lost.get());
        good.filter(|copy| !copy.is_usable(true)).count()
    }

    /// Whether any copy failed since it was opened: then opening it again may find it well.
    pub fn is_damaged(&self) -> bool {
        !self.bad_blocks.borrow().is_empty() || self.copies.iter().any(|copy| copy.lost.get())
    }

    /// What is proven of a copy's block hash tree before anything is read.
    pub fn block_tree(&self, at: usize) -> ProvenNodes {
        ProvenNodes::new(self.geometry.tree(), self.copies[at].root)
    }

    /// The same of the ciphertext hash tree.
    pub fn ciphertext_tree(&self) -> ProvenNodes {
        ProvenNodes::new(self.geometry.tree(), self.ciphertext_root)
    }
}
