//! The loop on the io-uring crate, as a program written for this work alone. Reads and sends are submitted together,
//! once a turn; task work runs when the loop asks for completions.
// The crate's queue cannot know how long a buffer lives.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, ensure};
use io_uring::{IoUring, opcode, squeue, types};

use super::work::{Connection, Job, POOL, RING_ENTRIES, Way};

/// The state of a connection's pending operation.
#[derive(Clone, Copy, Default)]
struct Under {
    buffer: usize,
    sent: usize,
    reading: bool,
}

/// Whether this kernel allows a ring.
pub(super) fn available() -> io::Result<()> {
    IoUring::new(8).map(drop)
}

/// Streams to all connections. Returns only an error.
pub(super) fn run(way: Way, job: &Job, mut connections: Vec<Connection>) -> anyhow::Result<()> {
    // The pool is made before the ring and so dropped after it, so that no operation writes into freed memory.
    let mut pool: Vec<Box<[u8]>> = (0..POOL).map(|_| vec![0; job.piece].into()).collect();
    let pointers: Vec<*mut u8> = pool.iter_mut().map(|buffer| buffer.as_mut_ptr()).collect();
    let length = u32::try_from(job.piece).context("pieces of over 4 GiB")?;
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_single_issuer();
    if way == Way::Raw {
        builder.setup_defer_taskrun();
    }
    let mut ring: IoUring = builder.build(RING_ENTRIES)?;
    let file = types::Fd(job.file.as_raw_fd());
    let mut free: Vec<usize> = (0..POOL).collect();
    let mut under = vec![Under::default(); connections.len()];
    let mut line: VecDeque<usize> = (0..connections.len()).collect();
    let read = |number: usize, buffer: usize, position: u64| {
        opcode::Read::new(file, pointers[buffer], length)
            .offset(position)
            .build()
            .user_data(number as u64)
    };
    let send = |number: usize, fd: types::Fd, under: Under| {
        // The pointer is inside the buffer, since less was sent than it holds.
        let rest = pointers[under.buffer].wrapping_add(under.sent);
        opcode::Send::new(fd, rest, length - under.sent as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(number as u64)
    };
    let mut done = Vec::with_capacity(2 * POOL);
    loop {
        while !free.is_empty() {
            let (Some(number), Some(buffer)) = (line.pop_front(), free.pop()) else {
                break;
            };
            under[number] = Under {
                buffer,
                sent: 0,
                reading: true,
            };
            push(
                &mut ring,
                &read(number, buffer, connections[number].position),
            )?;
        }
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let completions = ring.completion();
        done.extend(completions.map(|entry| (entry.user_data() as usize, entry.result())));
        for (number, result) in done.drain(..) {
            if result < 0 {
                return Err(io::Error::from_raw_os_error(-result).into());
            }
            let (count, now) = (result as usize, &mut under[number]);
            if now.reading {
                ensure!(count == job.piece, "a short read");
                now.reading = false;
            } else {
                now.sent += count;
            }
            let connection = &mut connections[number];
            if now.sent < job.piece {
                let fd = types::Fd(connection.socket.as_raw_fd());
                push(&mut ring, &send(number, fd, *now))?;
            } else {
                connection.position = (connection.position + job.piece as u64) % job.size;
                free.push(now.buffer);
                line.push_back(number);
            }
        }
    }
}

/// Queues an operation on a buffer of the pool.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> anyhow::Result<()> {
    // SAFETY: the entry's buffer belongs to the pool of `run`, which outlives its ring, and to one
    // operation at a time: its number is taken from `free` before and goes back after the completion.
    // The descriptor is of a file or connection that `run` keeps open as long.
    let pushed = unsafe { ring.submission().push(entry) };
    // There is one operation per buffer, so the queue has room for all.
    pushed.context("the submission queue is full")
}

const _: () = assert!(POOL <= RING_ENTRIES as usize);
