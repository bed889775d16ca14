//! Splices a piece: from the page cache to the socket by reference, no byte in user space. What goes into TLS records is
//! copied from the page cache instead, by the same rules.
//!
//! Only for pieces that need neither reading nor checking: every leaf was verified before
//! ([`VerifiedLeaves`](crate::objects::verified::VerifiedLeaves)), no file changed since, and all of it is in the page
//! cache. Blocks of lost shares that were rebuilt for another connection and kept ([`rebuilt`](super::rebuilt)) go
//! between, by copy. Everything else is [produced](super::produce), which leaves behind what is needed to splice it the
//! next time. It is plain system calls on the core's thread, the same for both backends.
//!
//! # What can happen in between
//! A page may be evicted after it was found in the page cache: then splicing it reads it, and the core waits
//! for the disk once. A file may be truncated: then splicing comes back short, the share is given up, and
//! the others take its place. What is queued in the socket are the page cache's own pages until the peer
//! has them, so a file that is *overwritten in place* at that moment changes what is sent, as it does for
//! everything that uses `sendfile`. Nothing of ours writes to a share in place; where others may,
//! `--verify always` keeps every piece from being spliced.

use std::cell::Ref;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::Instant;

use super::rebuilt::RebuiltBlocks;
use super::turn::Turn;
use crate::engine::Engine;
use crate::engine::plan::{self, Healthy, Read};
use crate::io::{Segmentation, SplicePipe, is_cached, read_cached, sent_or_zero};
use crate::memory::limits::{SPLICE_BYTES_AT_ONCE, SPLICE_BYTES_MIN};
use crate::objects::Object;
use crate::tls::session::{Content, WriteError};
use crate::units::{CopyNumber, FileOffset, Length, ShareNumber, ShareOffset, in_file};

/// Splices what the socket takes of the turn's head and body, up to where something is not at hand; `None` if the
/// body's beginning has to be produced. The count may be short: the socket is full then, or the next attempt meets what
/// is wrong.
///
/// # Errors
/// The connection's.
pub fn send(
    engine: &Engine,
    rebuilt: &RebuiltBlocks,
    turn: &Turn<'_>,
    object: &Object,
) -> io::Result<Option<usize>> {
    let pipe = engine.io.splice_pipe();
    if !engine.verified.is_kept() || turn.is_plain() && pipe.is_none() {
        return Ok(None);
    }
    if !object.layout().is_splice_worthwhile(turn.body.start) {
        return Ok(None);
    }
    let healthy = plan::healthy(object.layout(), turn.wanted());
    // From here to the pipe nothing of a cached share becomes a hole.
    let _held: Vec<_> = match object.is_remote() {
        true => {
            let reads = healthy.reads.iter();
            let reads = reads.map(|read| (read.share, &read.window));
            object.hold_cached(reads).collect()
        }
        false => Vec::new(),
    };
    let mut parts = parts(engine, rebuilt, object, &healthy);
    let known: u64 = parts.iter().map(Part::bytes).sum();
    let limit = match known {
        all if all == healthy.range.length() => {
            turn.admitted - turn.admitted % SPLICE_BYTES_AT_ONCE.min(turn.admitted)
        }
        few if few < SPLICE_BYTES_MIN => return Ok(None),
        part => part,
    };
    truncate(&mut parts, limit);
    match pipe.filter(|_| turn.is_plain()) {
        Some(pipe) => send_parts(engine, turn, pipe, object, &parts),
        None => send_copied(engine, turn, object, &parts),
    }
}

/// Sends the head and these parts in order, copied; `None` if a part isn't to be had.
fn send_copied(
    engine: &Engine,
    turn: &Turn<'_>,
    object: &Object,
    parts: &[Part<'_>],
) -> io::Result<Option<usize>> {
    let head = Some(Part::Head(turn.head)).filter(|_| !turn.head.is_empty());
    let mut copied = Copied {
        left: turn.head.len() + parts.iter().map(Part::bytes).sum::<u64>() as usize,
        parts: head.iter().chain(parts),
        part: None,
        missing: None,
    };
    match turn.send_content(&mut copied) {
        Ok(sent) => {
            let of_body = sent.saturating_sub(turn.head.len()) as u64;
            engine.stats.copied_bytes.add(of_body);
            Ok(Some(sent))
        }
        Err(WriteError::Content(error)) => {
            // What is known of this file is not enough: it is read again, and verified.
            tracing::debug!(%error, "a share can't be read from the page cache");
            if let Some(share) = copied
                .missing
                .and_then(|(share, copy)| object.share(share, copy))
            {
                share.invalidate();
            }
            Ok(None)
        }
        Err(WriteError::Connection(error)) => Err(error),
    }
}

/// Parts as content of TLS records.
struct Copied<'a, I> {
    left: usize,
    parts: I,
    /// The part at hand, and how much of it was filled in.
    part: Option<(&'a Part<'a>, usize)>,
    /// What can't be read.
    missing: Option<(ShareNumber, CopyNumber)>,
}

impl<'a, I: Iterator<Item = &'a Part<'a>>> Content for Copied<'a, I> {
    fn bytes(&self) -> usize {
        self.left
    }

    fn fill(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let (part, done) = match self.part.take() {
                Some(part) => part,
                None => (self.parts.next().ok_or(io::ErrorKind::UnexpectedEof)?, 0),
            };
            let now = (part.bytes() as usize - done).min(into.len());
            let (start, rest) = into.split_at_mut(now);
            match part {
                Part::Head(bytes) => start.copy_from_slice(&bytes[done..done + now]),
                Part::Kept(bytes) => start.copy_from_slice(&bytes[done..done + now]),
                Part::Filed {
                    share,
                    copy,
                    file,
                    offset,
                    ..
                } => read_cached(file, start, *offset + done as u64)
                    .inspect_err(|_| self.missing = Some((*share, *copy)))?,
            }
            self.left -= now;
            into = rest;
            if done + now < part.bytes() as usize {
                self.part = Some((part, done + now));
            }
        }
        Ok(())
    }
}

/// Bytes of a piece that are at hand.
enum Part<'a> {
    /// Of a response's head, before a piece that is copied.
    Head(&'a [u8]),
    /// In a share's file.
    Filed {
        share: ShareNumber,
        copy: CopyNumber,
        file: &'a File,
        offset: FileOffset,
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
            Part::Head(bytes) => bytes.len() as u64,
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, Part::Kept(_))
    }
}

/// What of a piece is at hand, from its start on.
fn parts<'a>(
    engine: &'a Engine,
    rebuilt: &'a RebuiltBlocks,
    object: &'a Object,
    healthy: &'a Healthy,
) -> Vec<Part<'a>> {
    let mut at_hand = AtHand {
        engine,
        rebuilt,
        object,
        reads: &healthy.reads,
        now: Instant::now(),
        until: vec![None; healthy.reads.len()],
    };
    let mut parts = Vec::with_capacity(healthy.runs.len());
    for (at, run) in &healthy.runs {
        let Some(part) = at_hand.part(*at, run) else {
            break;
        };
        let is_whole = part.bytes() == run.length();
        parts.push(part);
        if !is_whole {
            break;
        }
    }
    parts
}

/// Leaves out what is behind the first `limit` bytes.
fn truncate(parts: &mut Vec<Part<'_>>, limit: u64) {
    let mut left = limit;
    parts.retain_mut(|part| {
        let length = part.bytes().min(left);
        match part {
            Part::Filed { bytes, .. } => *bytes = length,
            Part::Kept(bytes) => {
                *bytes = Ref::map(Ref::clone(bytes), |bytes| &bytes[..length as usize]);
            }
            Part::Head(bytes) => *bytes = &bytes[..length as usize],
        }
        left -= length;
        length > 0
    });
}

/// Sends the head and these parts in order, until the socket takes no more or a part isn't to be had; `None` if the
/// first isn't.
fn send_parts(
    engine: &Engine,
    turn: &Turn<'_>,
    pipe: &SplicePipe,
    object: &Object,
    parts: &[Part<'_>],
) -> io::Result<Option<usize>> {
    let socket = turn.socket;
    let mut left: u64 = parts.iter().map(Part::bytes).sum();
    let segmentation = turn.segmentation(turn.head.len() + left as usize)?;
    let mut head = Some(turn.head).filter(|head| !head.is_empty());
    let mut sent = None;
    for group in parts.chunk_by(|one, next| one.is_kept() == next.is_kept()) {
        let bytes: u64 = group.iter().map(Part::bytes).sum();
        left -= bytes;
        let (offered, accepted) = if group[0].is_kept() {
            let before = head.take();
            let kept = group.iter().filter_map(|part| match part {
                Part::Kept(bytes) => Some(&bytes[..]),
                Part::Filed { .. } | Part::Head(_) => None,
            });
            let all = before.into_iter().chain(kept);
            let accepted = sent_or_zero(match segmentation {
                // What follows at once goes into the same packets.
                Segmentation::ByKernel if left > 0 => socket.send_more(all),
                _ => socket.send(all, segmentation),
            })?;
            let before = before.map_or(0, <[u8]>::len);
            engine
                .stats
                .rebuilt_sent_bytes
                .add(accepted.saturating_sub(before) as u64);
            (before as u64 + bytes, accepted)
        } else {
            if !fill_pipe(engine, pipe, object, group) {
                break;
            }
            let before = head.take().unwrap_or_default();
            // The first bytes of the body go into the same packet.
            let ahead = match before.is_empty() {
                true => 0,
                false => sent_or_zero(socket.send_more([before].into_iter()))?,
            };
            let spliced = match ahead == before.len() {
                true => sent_or_zero(pipe.splice_to(socket, segmentation))?,
                false => {
                    pipe.discard()?;
                    0
                }
            };
            engine.stats.spliced_bytes.add(spliced as u64);
            (before.len() as u64 + bytes, ahead + spliced)
        };
        sent = Some(sent.unwrap_or(0) + accepted);
        if (accepted as u64) < offered {
            break;
        }
    }
    Ok(sent)
}

/// Finds what of a piece is at hand.
struct AtHand<'a> {
    engine: &'a Engine,
    rebuilt: &'a RebuiltBlocks,
    object: &'a Object,
    reads: &'a [Read],
    now: Instant,
    /// Up to where each read could be left out, as far as that was asked.
    until: Vec<Option<ShareOffset>>,
}

impl<'a> AtHand<'a> {
    /// What is at hand of a run, which belongs to a read, from its start on.
    fn part(&mut self, at: usize, run: &Range<ShareOffset>) -> Option<Part<'a>> {
        let share = self.reads[at].share;
        let end = run.end.min(self.until(at));
        if end > run.start {
            let copy = self.copy(at)?;
            return Some(Part::Filed {
                share,
                copy,
                file: &self.object.share(share, copy)?.file,
                offset: run.start.in_file(),
                bytes: end - run.start,
            });
        }
        if self.object.usable_copy(share, run, false).is_some() {
            return None;
        }
        let kept = self.rebuilt.find(self.object, share, run, self.now)?;
        Some(Part::Kept(kept))
    }

    /// Up to where in share space a read need not be done: its leaves are known to be good, and in the page cache.
    fn until(&mut self, at: usize) -> ShareOffset {
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

    /// The copy that a read is of.
    fn copy(&self, at: usize) -> Option<CopyNumber> {
        let read = &self.reads[at];
        self.object.usable_copy(read.share, &read.window, false)
    }

    /// How many of its leaves, from the first on.
    fn leaves(&self, read: &Read) -> Option<u64> {
        let AtHand { engine, object, .. } = self;
        let copy = object.usable_copy(read.share, &read.window, false)?;
        let share = object.share(read.share, copy)?;
        // A file system that can't read without waiting may ask a server that is gone even for pages that it has.
        if !share.file.is_nowait() {
            return None;
        }
        let version = share.revalidate(self.now)?;
        let layout = object.layout();
        let share_end = ShareOffset(object.geometry().share_bytes());
        let leaves = layout.leaves(&read.window);
        let file = (object.id(), read.share, version);
        let covered = engine.verified.covered(file, leaves, self.now, |leaves| {
            let mut range = layout.leaf_range(&leaves);
            range.end = range.end.min(share_end);
            // Where the kernel can't tell, they may have left.
            is_cached(&share.file, &in_file(&range)).unwrap_or(false)
        });
        Some(covered)
    }
}

/// Fills the pipe with parts of files in order, until one of them isn't to be had. Returns whether any was.
fn fill_pipe(engine: &Engine, pipe: &SplicePipe, object: &Object, parts: &[Part<'_>]) -> bool {
    // Whatever came of the last piece: nothing of it may go to another client.
    if pipe.discard().is_err() {
        return false;
    }
    'parts: for part in parts {
        let &Part::Filed {
            share: number,
            copy,
            file,
            offset,
            bytes,
        } = part
        else {
            break;
        };
        let (mut start, end) = (offset, offset + bytes);
        while start < end {
            match pipe.splice_from(file, start, (end - start) as usize) {
                Ok(0) => {
                    let error = io::Error::other("the file ends early");
                    engine.give_up(object, number, copy, &error);
                    break 'parts;
                }
                Ok(count) => start += count as u64,
                // Full: the rest has its turn later.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 'parts,
                Err(error) => {
                    // What is known of this file is not enough: it is read again, and verified.
                    tracing::debug!(%error, share = %number, "a share can't be spliced");
                    if let Some(share) = object.share(number, copy) {
                        share.invalidate();
                    }
                    break 'parts;
                }
            }
        }
    }
    pipe.held_bytes() > 0
}
