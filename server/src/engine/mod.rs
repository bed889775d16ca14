//! What producing bytes takes: I/O, pool buffers, the decoder, leaf checksums, verified leaves, counters.
//!
//! One [`Engine`] per core. It knows objects and their shares, but neither connections nor HTTP. A piece goes through
//! this room in the order of its files: [`plan`] says which ranges of which shares to read, [`read`] reads them,
//! [`verify`] checks every leaf, [`rebuild`] makes what is missing.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use decode_kernel::code::Coder;

use crate::io::Io;
use crate::io::Pool;
use crate::memory::limits::REBUILD_PLANS_MAX;
use crate::objects::Object;
use crate::objects::checksums::ChecksumCache;
use crate::objects::verified::VerifiedLeaves;
use crate::stats::CoreStats;
use crate::units::ShareNumber;

pub mod error;
pub mod piece;
pub mod plan;
pub mod read;
pub mod rebuild;
pub mod verify;

pub use error::PieceError;
pub use piece::Piece;

/// One core's means of producing bytes.
pub struct Engine {
    /// The kernel.
    pub io: Io,
    /// Segment buffers.
    pub pool: Pool,
    /// The decoder, with its plans and workspace.
    pub coder: RefCell<Coder>,
    /// Leaf checksums.
    pub checksums: ChecksumCache,
    /// Leaves that need not be verified again.
    pub verified: VerifiedLeaves,
    /// Counters.
    pub stats: Arc<CoreStats>,
}

impl Engine {
    /// An engine with nothing known yet.
    pub fn new(io: Io, pool: Pool, verified: VerifiedLeaves, stats: Arc<CoreStats>) -> Engine {
        Engine {
            io,
            pool,
            coder: RefCell::new(Coder::new(REBUILD_PLANS_MAX)),
            checksums: ChecksumCache::default(),
            verified,
            stats,
        }
    }

    /// Gives a share of an object up, since it can't be read: from now on others take its place.
    pub fn give_up(&self, object: &Object, number: ShareNumber, error: &io::Error) {
        if object.mark_lost(number) {
            self.stats.failed_shares.add(1);
            tracing::warn!(
                key = %object.header().key, share = %number, path = %object.share_path(number),
                live = object.live_shares(), "share given up: {error}"
            );
        }
    }
}
