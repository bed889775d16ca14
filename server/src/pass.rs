//! Passes a piece through: from the page cache to the socket by `sendfile`, no byte in user space.
//!
//! Only for pieces that need neither reading nor checking: every leaf was verified lately
//! ([`VerifiedLeaves`](crate::verified::VerifiedLeaves)), no file changed since, all of it is in the page
//! cache. Everything else goes the way of [`produce`](mod@crate::produce), which leaves behind what is needed to
//! pass it through the next time. It is plain system calls on the core's thread, the same for both backends.
//!
//! # What can happen in between
//! A page may be evicted after it was found in the page cache: then `sendfile` reads it, and the core waits
//! for the disk once. A file may be cut off: then `sendfile` comes back short, the share is given up, and
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

use crate::core::Core;
use crate::io::Socket;
use crate::io::file::{self, FromFile};
use crate::limits::PASS_BLOCK_BYTES_MIN;
use crate::object::Object;
use crate::plan::{self, Healthy, Layout, Read};
use crate::produce;

/// Sends what the socket takes of `head` and then of `wanted`, if all of that can be passed through;
/// `None` if it has to go another way. The count may be short: the socket is full then, or the next
/// attempt meets what is wrong.
///
/// # Errors
/// The connection's.
pub fn pass(
    core: &Core,
    socket: &Socket,
    head: &Bytes,
    object: &Rc<Object>,
    wanted: Range<u64>,
) -> io::Result<Option<usize>> {
    if !core.verified.is_kept() {
        return Ok(None);
    }
    if !is_worth_it(object.layout(), wanted.start) {
        return Ok(None);
    }
    let healthy = plan::healthy(object.layout(), wanted);
    let now = Instant::now();
    if !healthy
        .reads
        .iter()
        .all(|read| is_at_hand(core, object, read, now))
    {
        return Ok(None);
    }
    let mut sent = 0;
    if !head.is_empty() {
        // The first bytes of the body go into the same packet.
        match socket.send_ahead(head) {
            Ok(count) => sent = count,
            Err(error) if is_full(&error) => return Ok(Some(0)),
            Err(error) => return Err(error),
        }
        if sent < head.len() {
            return Ok(Some(sent));
        }
    }
    let passed = send_runs(core, socket, object, &healthy)?;
    core.stats.passed_bytes.add(passed as u64);
    Ok(Some(sent + passed))
}

/// Whether what lies at this position is in runs long enough: many short ones cost more calls than they save
/// copying.
pub fn is_worth_it(layout: &Layout, position: u64) -> bool {
    layout.block_len(position / layout.segment_bytes()) >= PASS_BLOCK_BYTES_MIN
}

/// Whether a read of a share could be left out: its leaves are known to be good, and in the page cache.
fn is_at_hand(core: &Core, object: &Object, read: &Read, now: Instant) -> bool {
    if !object.usable(read.share, &read.window) {
        return false;
    }
    let Some(share) = object.share(read.share) else {
        return false;
    };
    let Some(edition) = share.look() else {
        return false;
    };
    let leaf = object.layout().leaf_bytes;
    let share_bytes = object.geometry().share_bytes();
    let leaves = read.window.start / leaf..read.window.end.div_ceil(leaf);
    let name = (object.id(), read.share, edition);
    core.verified.covers(name, leaves, now, |leaves| {
        let (start, end) = (leaves.start * leaf, (leaves.end * leaf).min(share_bytes));
        core.io
            .is_cached(&share.file, BLOCKS_OFFSET + start..BLOCKS_OFFSET + end)
    })
}

/// Sends the runs in order until the socket takes no more.
fn send_runs(
    core: &Core,
    socket: &Socket,
    object: &Object,
    healthy: &Healthy,
) -> io::Result<usize> {
    let mut sent = 0;
    for (at, run) in &healthy.runs {
        let number = healthy.reads[*at].share;
        let Some(share) = object.share(number) else {
            break;
        };
        let length = (run.end - run.start) as usize;
        match file::send(socket, &share.file, BLOCKS_OFFSET + run.start, length) {
            Ok(FromFile::Sent(0)) => {
                let error = io::Error::other("the file ends early");
                produce::lose(core, object, number, error);
                break;
            }
            Ok(FromFile::Sent(count)) => {
                sent += count;
                if count < length {
                    break;
                }
            }
            Ok(FromFile::Full) => break,
            Ok(FromFile::Refused(error)) => {
                // What is known of this file is not enough: it is read again, and verified.
                tracing::debug!(%error, share = number, "a share could not be passed through");
                share.forget();
                break;
            }
            // What was sent counts; the next attempt meets the error again.
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
