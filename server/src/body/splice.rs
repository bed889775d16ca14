//! Passes a piece through: from the page cache to the socket by reference, no byte in user space.
//!
//! Only for pieces that need neither reading nor checking: every leaf was verified lately
//! ([`VerifiedLeaves`](crate::objects::verified::VerifiedLeaves)), no file changed since, all of it is in the page
//! cache. Blocks of lost shares that are kept since they were rebuilt for another connection
//! ([`rebuilt`](crate::body::rebuilt)) go between, by copy. Everything else goes the way of [`produce`](mod@crate::body::produce), which leaves behind what is needed to
//! pass it through the next time. It is plain system calls on the core's thread, the same for both backends.
//!
//! # What can happen in between
//! A page may be evicted after it was found in the page cache: then gathering it reads it, and the core waits
//! for the disk once. A file may be cut off: then gathering comes back short, the share is given up, and
//! the others take its place. What is queued in the socket are the page cache's own pages until the peer
//! has them, so a file that is *overwritten in place* at that moment changes what is sent, as it does for
//! everything that uses `sendfile`. Nothing of ours writes to a share in place; where others may,
//! `--verify always` keeps every piece from going this way.

use std::cell::Ref;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use decode_kernel::share::BLOCKS_OFFSET;

use crate::body::produce;
use crate::connection::core::{Connection, Core};
use crate::engine::plan::{self, Healthy, Layout, Read};
use crate::io::splice::Gatherer;
use crate::io::{Cut, taken};
use crate::memory::limits::{PASS_BLOCK_BYTES_MIN, PASS_BYTES_AT_ONCE, PASS_BYTES_LEAST};
use crate::objects::object::Object;

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
    let mut parts = parts(core, object, &healthy);
    let known: u64 = parts.iter().map(Part::bytes).sum();
    let limit = match known {
        all if all == healthy.range.end - healthy.range.start => {
            admitted - admitted % PASS_BYTES_AT_ONCE.min(admitted)
        }
        few if few < PASS_BYTES_LEAST => return Ok(None),
        part => part,
    };
    cut_off(&mut parts, limit);
    let follow = limit < body.end - body.start;
    send(core, connection, gatherer, object, head, &parts, follow)
}

/// Whether what lies at this position is in runs long enough: many short ones cost more calls than they save
/// copying.
pub fn is_worth_it(layout: &Layout, position: u64) -> bool {
    layout.block_len(position / layout.segment_bytes()) >= PASS_BLOCK_BYTES_MIN
}

/// Bytes of a piece that are at hand.
enum Part<'a> {
    /// In a share's file.
    Filed {
        share: u16,
        file: &'a File,
        offset: u64,
        bytes: u64,
    },
    /// In a rebuilt block.
    Kept(Ref<'a, [u8]>),
}

impl Part<'_> {
    fn bytes(&self) -> u64 {
        match self {
            Part::Filed { bytes, .. } => *bytes,
            Part::Kept(bytes) => bytes.len() as u64,
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, Part::Kept(_))
    }
}

/// What of a piece is at hand, from its start on.
fn parts<'a>(core: &'a Core, object: &'a Object, healthy: &'a Healthy) -> Vec<Part<'a>> {
    let mut at_hand = AtHand::new(core, object, &healthy.reads, Instant::now());
    let mut parts = Vec::with_capacity(healthy.runs.len());
    for (at, run) in &healthy.runs {
        let Some(part) = at_hand.part(*at, run) else {
            break;
        };
        let is_whole = part.bytes() == run.end - run.start;
        parts.push(part);
        if !is_whole {
            break;
        }
    }
    parts
}

/// Leaves out what is behind the first `limit` bytes.
fn cut_off(parts: &mut Vec<Part<'_>>, limit: u64) {
    let mut left = limit;
    parts.retain_mut(|part| {
        let length = part.bytes().min(left);
        match part {
            Part::Filed { bytes, .. } => *bytes = length,
            Part::Kept(bytes) => {
                *bytes = Ref::map(Ref::clone(bytes), |bytes| &bytes[..length as usize]);
            }
        }
        left -= length;
        length > 0
    });
}

/// Sends `head` and these parts in order, until the socket takes no more or a part isn't to be had; `None` if the first
/// isn't. Whether more of the response is to `follow` decides how it is cut.
fn send(
    core: &Core,
    connection: &Connection,
    gatherer: &Gatherer,
    object: &Object,
    head: &Bytes,
    parts: &[Part<'_>],
    follow: bool,
) -> io::Result<Option<usize>> {
    let socket = &connection.socket;
    let cut = connection.cut(follow)?;
    let mut head = Some(head).filter(|head| !head.is_empty());
    let mut sent = None;
    let mut left: u64 = parts.iter().map(Part::bytes).sum();
    for group in parts.chunk_by(|one, next| one.is_kept() == next.is_kept()) {
        let bytes: u64 = group.iter().map(Part::bytes).sum();
        left -= bytes;
        let (offered, taken) = if group[0].is_kept() {
            let before = head.take();
            let kept = group.iter().filter_map(|part| match part {
                Part::Kept(bytes) => Some(&bytes[..]),
                Part::Filed { .. } => None,
            });
            let all = before.into_iter().map(|head| &head[..]).chain(kept);
            let taken = taken(match cut {
                // What follows at once goes into the same packets.
                Cut::Whole if left > 0 => socket.send_ahead(all),
                _ => socket.send(all, cut),
            })?;
            let before = before.map_or(0, Bytes::len);
            core.stats
                .rebuilt_sent_bytes
                .add(taken.saturating_sub(before) as u64);
            (before as u64 + bytes, taken)
        } else {
            if !gather(core, gatherer, object, group) {
                break;
            }
            let before = head.take().map_or(&[][..], |head| head);
            // The first bytes of the body go into the same packet.
            let ahead = match before.is_empty() {
                true => 0,
                false => taken(socket.send_ahead([before].into_iter()))?,
            };
            let passed = match ahead == before.len() {
                true => taken(gatherer.send(socket, cut))?,
                false => {
                    gatherer.clear()?;
                    0
                }
            };
            core.stats.spliced_bytes.add(passed as u64);
            (before.len() as u64 + bytes, ahead + passed)
        };
        sent = Some(sent.unwrap_or(0) + taken);
        if (taken as u64) < offered {
            break;
        }
    }
    Ok(sent)
}

/// Finds what of a piece is at hand.
struct AtHand<'a> {
    core: &'a Core,
    object: &'a Object,
    reads: &'a [Read],
    now: Instant,
    /// Up to where each read could be left out, as far as that was asked.
    until: Vec<Option<u64>>,
}

impl<'a> AtHand<'a> {
    fn new(core: &'a Core, object: &'a Object, reads: &'a [Read], now: Instant) -> AtHand<'a> {
        AtHand {
            core,
            object,
            reads,
            now,
            until: vec![None; reads.len()],
        }
    }

    /// What is at hand of a run, which belongs to a read, from its start on.
    fn part(&mut self, at: usize, run: &Range<u64>) -> Option<Part<'a>> {
        let share = self.reads[at].share;
        let end = run.end.min(self.until(at));
        if end > run.start {
            return Some(Part::Filed {
                share,
                file: &self.object.share(share)?.file,
                offset: BLOCKS_OFFSET + run.start,
                bytes: end - run.start,
            });
        }
        if self.object.usable(share, run) {
            return None;
        }
        let kept = self.core.rebuilt.find(self.object, share, run, self.now)?;
        Some(Part::Kept(kept))
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

/// Gathers parts of files in order, until one of them isn't to be had. Returns whether any was.
fn gather(core: &Core, gatherer: &Gatherer, object: &Object, parts: &[Part<'_>]) -> bool {
    // Whatever came of the last piece: nothing of it may go to another client.
    if gatherer.clear().is_err() {
        return false;
    }
    'parts: for part in parts {
        let &Part::Filed {
            share: number,
            file,
            offset,
            bytes,
        } = part
        else {
            break;
        };
        let (mut start, end) = (offset, offset + bytes);
        while start < end {
            match gatherer.add(file, start, (end - start) as usize) {
                Ok(0) => {
                    let error = io::Error::other("the file ends early");
                    produce::lose(core, object, number, error);
                    break 'parts;
                }
                Ok(count) => start += count as u64,
                // Full: the rest has its turn later.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 'parts,
                Err(error) => {
                    // What is known of this file is not enough: it is read again, and verified.
                    tracing::debug!(%error, share = number, "a share can't be passed through");
                    if let Some(share) = object.share(number) {
                        share.forget();
                    }
                    break 'parts;
                }
            }
        }
    }
    gatherer.held() > 0
}
