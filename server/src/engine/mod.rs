//! What producing bytes takes: I/O, pool buffers, the decoder, leaf checksums, verified leaves, counters.
//!
//! One [`Engine`] per core. It knows objects and their shares, but neither connections nor HTTP. A piece goes through
//! this room in the order of its files: [`plan`] says which ranges of which shares to read, [`read`] reads them,
//! [`verify`] checks every leaf, [`rebuild`] makes what is missing.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use decode_kernel::code::Coder;

use crate::io::Io;
use crate::io::{Pool, PoolBuffer};
use crate::memory::limits::{POOL_PATIENCE, REBUILD_PLANS_MAX};
use crate::objects::checksums::ChecksumCache;
use crate::objects::verified::VerifiedLeaves;
use crate::objects::{Object, Share};
use crate::stats::CoreStats;
use crate::units::{CopyNumber, ShareNumber};

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
    /// How long a store may take for one call.
    pub timeout: Duration,
}

impl Engine {
    /// An engine with nothing known yet.
    pub fn new(
        io: Io,
        pool: Pool,
        verified: VerifiedLeaves,
        stats: Arc<CoreStats>,
        timeout: Duration,
    ) -> Engine {
        Engine {
            io,
            pool,
            coder: RefCell::new(Coder::new(REBUILD_PLANS_MAX)),
            checksums: ChecksumCache::default(),
            verified,
            stats,
            timeout,
        }
    }

    /// Takes a pool buffer, waiting for one if none is free.
    ///
    /// # Errors
    /// [`PieceError::NoBuffers`] if reads that hang have all of them.
    pub async fn take_buffer(&self) -> Result<PoolBuffer, PieceError> {
        if let Some(buffer) = self.pool.try_take() {
            return Ok(buffer);
        }
        loop {
            if self.pool.is_exhausted() {
                return Err(PieceError::NoBuffers);
            }
            if let Ok(buffer) = tokio::time::timeout(POOL_PATIENCE, self.pool.take()).await {
                return Ok(buffer);
            }
        }
    }

    /// A range of a share could not be read. If it may be a bad sector, other shares take its place for that range, and
    /// otherwise for all of it.
    pub fn give_up_range(&self, object: &Object, read: &plan::Read, error: &io::Error) {
        let share = object.share(read.share, read.copy);
        // What is cached is elsewhere, too.
        let is_cached = share.is_some_and(|share| share.cached().is_some());
        let is_spot = error.raw_os_error() == Some(libc::EIO) && !is_cached;
        if !is_spot || !share.is_some_and(Share::note_spot) {
            return self.give_up_file(object, read.share, read.copy, error);
        }
        let mut news = false;
        for leaf in object.layout().leaves(&read.window) {
            news |= object.mark_bad(read.share, read.copy, leaf);
        }
        if news {
            tracing::warn!(
                key = %object.header().key, share = %read.share,
                path = %object.share_path(read.share, read.copy), offset = %read.window.start.in_file(),
                "a spot can't be read: {error}"
            );
        }
    }

    /// Gives a copy of a share of an object up, since its file can't be read. That of a remote share is the cache's.
    pub fn give_up_file(
        &self,
        object: &Object,
        number: ShareNumber,
        copy: CopyNumber,
        error: &io::Error,
    ) {
        if !read::is_hung(error)
            && let Some(cached) = object.share(number, copy).and_then(Share::cached)
        {
            cached.note_unreadable(error);
        }
        self.give_up(object, number, copy, error);
    }

    /// Gives a copy of a share of an object up, since it can't be read: from now on others take its place. One whose store hangs is
    /// left alone as long as the store is.
    pub fn give_up(
        &self,
        object: &Object,
        number: ShareNumber,
        copy: CopyNumber,
        error: &io::Error,
    ) {
        if !read::is_hung(error) && object.mark_lost(number, copy) {
            self.stats.failed_shares.add(1);
            tracing::warn!(
                key = %object.header().key, share = %number, path = %object.share_path(number, copy),
                live = object.live_shares(), "share given up: {error}"
            );
        }
    }
}
