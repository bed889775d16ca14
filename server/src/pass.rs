//! Passes a piece through: from the page cache to the socket by reference, no byte in user space.
//!
//! Only for pieces that need neither reading nor checking: every leaf was verified lately
//! ([`VerifiedLeaves`](crate::verified::VerifiedLeaves)), no file changed since, all of it is in the page
//! cache. Everything else goes the way of [`produce`](mod@crate::produce), which leaves behind what is needed to
//! pass it through the next time. It is plain system calls on the core's thread, the same for both backends.
//!
//! # What can happen in between
//! A page may be evicted after it was found in the page cache: then gathering it reads it, and the core waits
//! for the disk once. A file may be cut off: then gathering comes back short, the share is given up, and
//! the others take its place. What is queued in the socket are the page cache's own pages until the peer
//! has them, so a file that is *overwritten in place* at that moment changes what is sent, as it does for
//! everything that uses `sendfile`. Nothing of ours writes to a share in place; where others may,
//! `--verify always` keeps every piece from going this way.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use decode_kernel::share::BLOCKS_OFFSET;

use crate::core::{Connection, Core};
use crate::io::file::Gatherer;
use crate::io::taken;
use crate::limits::{PASS_BLOCK_BYTES_MIN, PASS_BYTES_AT_ONCE, PASS_BYTES_LEAST};
use crate::object::Object;
use crate::plan::{self, Healthy, Layout, Read};
use crate::produce;

/// Sends what the socket takes of `head` and then of the first `admitted` bytes of `body`, if that can be passed
/// through, or its beginning, up to where it can't; `None` if it has to go another way. The count may be
/// short: the socket is full then, or the next attempt meets what is wrong.
///
/// # Errors
/// The connection's.
pub fn pass(
    core: &Core,
    connection: &Connection,
    head: &Bytes,
    object: &Rc<Object>,
    body: Range<u64>,
    admitted: u64,
) -> io::Result<Option<usize>> {
    let Some(gatherer) = core.io.gatherer().filter(|_| core.verified.is_kept()) else {
        return Ok(None);
    };
    if !is_worth_it(object.layout(), body.start) {
        return Ok(None);
    }
    let healthy = plan::healthy(object.layout(), body.start..body.start + admitted);
    let now = Instant::now();
    let mut at_hand = AtHand::new(core, object, &healthy.reads, now);
    let mut known = 0;
    for (at, run) in &healthy.runs {
        let end = run.end.min(at_hand.until(*at));
        known += end.saturating_sub(run.start);
        if end < run.end {
            break;
        }
    }
    let limit = match known {
        all if all == healthy.range.end - healthy.range.start => {
            admitted - admitted % PASS_BYTES_AT_ONCE.min(admitted)
        }
        few if few < PASS_BYTES_LEAST => return Ok(None),
        part => part,
    };
    if !gather(core, gatherer, object, &healthy, limit) {
        return Ok(None);
    }
    let socket = &connection.socket;
    let follow = body.start + (gatherer.held() as u64) < body.end;
    let cut = connection.cut(follow)?;
    let mut sent = 0;
    if !head.is_empty() {
        // The first bytes of the body go into the same packet.
        sent = taken(socket.send_ahead(head))?;
    }
    let passed = match sent == head.len() {
        true => taken(gatherer.send(socket, cut))?,
        false => {
            gatherer.clear()?;
            0
        }
    };
    core.stats.passed_bytes.add(passed as u64);
    Ok(Some(sent + passed))
}

/// Whether what lies at this position is in runs long enough: many short ones cost more calls than they save
/// copying.
pub fn is_worth_it(layout: &Layout, position: u64) -> bool {
    layout.block_len(position / layout.segment_bytes()) >= PASS_BLOCK_BYTES_MIN
}

/// What of some reads of shares could be left out.
struct AtHand<'a> {
    core: &'a Core,
    object: &'a Object,
    reads: &'a [Read],
    now: Instant,
    /// Where, as far as that was asked.
    until: Vec<Option<u64>>,
}

impl AtHand<'_> {
    fn new<'a>(core: &'a Core, object: &'a Object, reads: &'a [Read], now: Instant) -> AtHand<'a> {
        AtHand {
            core,
            object,
            reads,
            now,
            until: vec![None; reads.len()],
        }
    }

    /// Up to where in share space a read need not be done: its leaves are known to be good, and in the page cache.
    fn until(&mut self, at: usize) -> u64 {
        if let Some(until) = self.until[at] {
            return until;
        }
        let window = &self.reads[at].window;
        let leaves = self.leaves(&self.reads[at]).unwrap_or(0);
        let leaf = self.object.layout().leaf_bytes;
        let until = window.end.min(window.start + leaves * leaf);
        self.until[at] = Some(until);
        until
    }

    /// How many of its leaves, from the first on.
    fn leaves(&self, read: &Read) -> Option<u64> {
        let AtHand { core, object, .. } = self;
        if !object.usable(read.share, &read.window) {
            return None;
        }
        let share = object.share(read.share)?;
        let edition = share.look(self.now)?;
        let leaf = object.layout().leaf_bytes;
        let share_bytes = object.geometry().share_bytes();
        let leaves = read.window.start / leaf..read.window.end.div_ceil(leaf);
        let name = (object.id(), read.share, edition);
        let covered = core.verified.covered(name, leaves, self.now, |leaves| {
            let (start, end) = (leaves.start * leaf, (leaves.end * leaf).min(share_bytes));
            core.io
                .is_cached(&share.file, BLOCKS_OFFSET + start..BLOCKS_OFFSET + end)
        });
        Some(covered)
    }
}

/// Gathers the first `limit` bytes of the runs in order, until one of them isn't to be had. Returns whether any was.
fn gather(
    core: &Core,
    gatherer: &Gatherer,
    object: &Object,
    healthy: &Healthy,
    limit: u64,
) -> bool {
    // Whatever came of the last piece: nothing of it may go to another client.
    if gatherer.clear().is_err() {
        return false;
    }
    'runs: for (at, run) in &healthy.runs {
        let number = healthy.reads[*at].share;
        let Some(share) = object.share(number) else {
            break;
        };
        let left = limit - gatherer.held() as u64;
        let (mut start, end) = (run.start, run.end.min(run.start + left));
        while start < end {
            let length = (end - start) as usize;
            match gatherer.add(&share.file, BLOCKS_OFFSET + start, length) {
                Ok(0) => {
                    let error = io::Error::other("the file ends early");
                    produce::lose(core, object, number, error);
                    break 'runs;
                }
                Ok(count) => start += count as u64,
                // Full: the rest has its turn later.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 'runs,
                Err(error) => {
                    // What is known of this file is not enough: it is read again, and verified.
                    tracing::debug!(%error, share = number, "a share can't be passed through");
                    share.forget();
                    break 'runs;
                }
            }
        }
    }
    gatherer.held() > 0
}
