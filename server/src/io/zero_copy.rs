//! Zero-copy sends (`IORING_OP_SENDMSG_ZC`), on a small ring of their own beside the runtime's.
//!
//! Such a send completes twice: at once with its result, since nothing here waits for room, and with a
//! notification when the kernel needs the bytes no more, which is when the peer has them. Until then the
//! windows stay here, so that nobody writes to them, and the connection goes on meanwhile. tokio-uring's own
//! sends wait for both completions, and for room, which is why they aren't used.
//!
//! Where the kernel takes messages from registered buffers (Linux 6.15) the pool is registered with this ring
//! too; else, and where RLIMIT_MEMLOCK is too low for that, a message's pages are pinned as it is sent.
//!
//! To the socket's account it is as if the bytes were copied: they count in its send queue, against SO_SNDBUF
//! (`sk_wmem_queued`), so that what a connection claimed covers them; nothing is charged to
//! `net.core.optmem_max`, as notifications of `MSG_ZEROCOPY` are.
#![allow(unsafe_code)] // entries that name addresses, registering memory; see each SAFETY remark

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::{Domain, Type};
use tokio_uring::buf::IoBuf;

use super::message::Message;
use super::poller::{Interest, Registration};
use super::pool::Pool;
use super::socket::Socket;
use crate::memory::limits::ZERO_COPY_RING_ENTRIES;

// linux/io_uring.h
/// The bytes lie in a registered buffer, whose index the entry has; messages may since Linux 6.15.
const RECVSEND_FIXED_BUF: u16 = 1 << 2;
/// The notification says whether the kernel copied after all (Linux 6.2).
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
/// Where `struct io_uring_sqe` has `buf_index`, a u16.
const SQE_BUF_INDEX: usize = 40;
const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 2);
/// This completion is the notification.
const CQE_F_NOTIF: u32 = 1 << 3;
/// In a notification's result: some bytes were copied.
const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// What the kernel sends from, and the ring that tells when it is done. `T` is what its user wants to know
/// of a send then.
pub struct Pins<T> {
    /// `None` after an error that leaves it in doubt.
    ring: RefCell<Option<IoUring>>,
    pinned: RefCell<Slab<Pinned<T>>>,
    returned: RefCell<Vec<Returned<T>>>,
    /// Whether the pool is registered, so that sends can name its buffers by index.
    registered: bool,
    registration: Registration,
}

struct Pinned<T> {
    message: Message,
    tag: T,
    taken: usize,
}

/// A send of which the kernel needs nothing more.
pub struct Returned<T> {
    /// What was given with it.
    pub tag: T,
    /// Bytes that the socket took.
    pub bytes: usize,
    /// Whether the kernel copied them, or some of them, after all.
    pub copied: bool,
}

impl<T> Pins<T> {
    /// A ring for messages from `pool`. `watch` is given its descriptor.
    pub(super) fn new(
        pool: &Pool,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<Registration>,
    ) -> io::Result<Pins<T>> {
        let mut ring = new_ring(pool.buffers())?;
        let registered = register(&ring, pool)
            .and_then(|()| match pool.extents().next() {
                Some(extent) => attempt(&mut ring, extent.stable_ptr(), Some(0)),
                None => Ok(()),
            })
            .inspect_err(|error| tracing::debug!(%error, "zero-copy sends pin their own pages"))
            .is_ok();
        if !registered {
            attempt(&mut ring, [0].as_ptr(), None)?;
        }
        // SAFETY: the ring and its descriptor live through the call. The kernel forgets the registration when
        // the ring is closed.
        let registration = watch(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) })?;
        Ok(Pins {
            ring: RefCell::new(Some(ring)),
            pinned: RefCell::default(),
            returned: RefCell::default(),
            registered,
            registration,
        })
    }

    /// Offers a message without waiting for room, as [`Socket::send`] does. Its windows are kept until the
    /// kernel is done with them, and then [`Pins::returned`] has the `tag`.
    ///
    /// # Panics
    /// If the message has a head: only windows stay where they are.
    pub fn send(&self, socket: &Socket, message: Message, tag: T) -> io::Result<usize> {
        assert!(message.head().is_empty(), "only windows are sent from");
        let mut borrowed = self.ring.borrow_mut();
        let Some(ring) = borrowed.as_mut() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let slot = self.pinned.borrow_mut().insert(Pinned {
            message,
            tag,
            taken: 0,
        });
        let submitted = {
            let message = &self.pinned.borrow()[slot].message;
            let buffer = message.buffer_index().filter(|_| self.registered);
            let parts: Vec<libc::iovec> = message
                .parts(0..message.bytes())
                .iter()
                .map(|part| iovec(part.as_ptr(), part.len()))
                .collect();
            // SAFETY: what the parts point to belongs to the windows in `pinned`, which stay unchanged and where
            // they are until the notification, or for good (`give_up`).
            unsafe { submit(ring, socket.as_fd(), &parts, buffer, slot as u64) }
        };
        match submitted.and_then(|()| self.result(ring)) {
            Ok(result) => outcome(result),
            Err(error) => {
                // Whether the kernel still has something to do is not known: with its descriptor closed this
                // ring takes no more entries.
                *borrowed = None;
                self.give_up();
                Err(error)
            }
        }
    }

    /// The result of the send just submitted, which is there already: nothing waits for room.
    fn result(&self, ring: &mut IoUring) -> io::Result<i32> {
        loop {
            if let Some(result) = self.collect(ring) {
                return Ok(result);
            }
            uninterrupted(|| ring.submit_and_wait(1))?;
        }
    }

    /// Takes all completions: sends that ended, and the result of one that was just submitted.
    fn collect(&self, ring: &mut IoUring) -> Option<i32> {
        let mut pinned = self.pinned.borrow_mut();
        let mut result = None;
        for completion in ring.completion() {
            let slot = completion.user_data() as usize;
            if completion.flags() & CQE_F_NOTIF == 0 {
                let taken = completion.result();
                result = Some(taken);
                if cqueue::more(completion.flags()) {
                    pinned[slot].taken = taken.max(0) as usize;
                } else {
                    // It failed at once: no notification comes.
                    pinned.remove(slot);
                }
            } else if let Some(pin) = pinned.try_remove(slot) {
                self.returned.borrow_mut().push(Returned {
                    tag: pin.tag,
                    bytes: pin.taken,
                    // Of a send that took nothing the kernel says so too.
                    copied: completion.result() as u32 & NOTIF_USAGE_ZC_COPIED != 0
                        && pin.taken > 0,
                });
            }
        }
        result
    }

    /// Windows whose notification will never come stay as they are for good: another use of their buffer would
    /// change what is sent.
    fn give_up(&self) {
        for pin in self.pinned.borrow_mut().drain() {
            std::mem::forget(pin.message);
        }
    }

    /// Whether sends are still possible.
    pub fn is_usable(&self) -> bool {
        self.ring.borrow().is_some()
    }

    /// Sends whose buffers are pinned.
    pub fn pinned(&self) -> usize {
        self.pinned.borrow().len()
    }

    /// What was given with each of them.
    pub fn with_tags<R>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &T>) -> R) -> R {
        let pinned = self.pinned.borrow();
        look(&mut pinned.iter().map(|(_, pin)| &pin.tag))
    }

    /// Waits until there may be something in [`Pins::returned`].
    pub async fn wait(&self) {
        let Some(fd) = self.ring.borrow().as_ref().map(IoUring::as_raw_fd) else {
            return pending().await;
        };
        // SAFETY: a wait for reading does not use the descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if self.registration.ready(fd, Interest::Read).await.is_err() {
            return pending().await;
        }
        // Before anybody looks, so that what comes meanwhile is an event.
        self.registration.drained();
    }

    /// The sends that ended since the last call. Their buffers are free already.
    pub fn returned(&self) -> Vec<Returned<T>> {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            self.collect(ring);
        }
        self.returned.take()
    }
}

impl<T> Drop for Pins<T> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            // Entering the kernel posts what it has for us: all, if the sockets were aborted.
            let _ = ring.submit();
            self.collect(ring);
        }
        self.give_up();
    }
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Submits a send of `parts`, which lie in the registered buffer of this index, if any.
///
/// # Safety
/// What the parts point to must be left alone until the notification, or the result if none follows.
unsafe fn submit(
    ring: &mut IoUring,
    socket: BorrowedFd<'_>,
    parts: &[libc::iovec],
    buffer: Option<u16>,
    user_data: u64,
) -> io::Result<()> {
    let socket = types::Fd(socket.as_raw_fd());
    // SAFETY: an all-zero msghdr is valid: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts.as_ptr().cast_mut();
    header.msg_iovlen = parts.len() as _;
    let flags = match buffer {
        Some(_) => SEND_ZC_REPORT_USAGE | RECVSEND_FIXED_BUF,
        None => SEND_ZC_REPORT_USAGE,
    };
    let mut entry = opcode::SendMsgZc::new(socket, &header)
        .flags(FLAGS as u32)
        .ioprio(flags)
        .build()
        .user_data(user_data);
    if let Some(index) = buffer {
        let at: *mut u8 = (&raw mut entry).cast();
        // SAFETY: an entry is the kernel's structure (repr(C)), 64 bytes of plain numbers, in which this one
        // has its fixed place; io-uring 0.6 has no setter for it.
        unsafe { at.add(SQE_BUF_INDEX).cast::<u16>().write(index) };
    }
    // SAFETY: `header` and `parts` live until the kernel has taken the entry, and it has copied them then
    // (IORING_FEAT_SUBMIT_STABLE); if it does not take the entry, the caller closes the ring. For what the
    // parts point to the caller vouches.
    unsafe { ring.submission().push(&entry) }
        .map_err(|_| io::Error::other("the submission queue is full"))?;
    match uninterrupted(|| ring.submit())? {
        0 => Err(io::Error::other("the kernel did not take an entry")),
        _ => Ok(()),
    }
}

fn new_ring(sends: usize) -> io::Result<IoUring> {
    // Two completions of each send; beyond that the kernel keeps them in a list of its own.
    let completions = (2 * sends as u32).max(2 * ZERO_COPY_RING_ENTRIES);
    IoUring::builder()
        .setup_single_issuer()
        // Notifications are posted when the thread enters the kernel anyway, not by interrupting it.
        .setup_coop_taskrun()
        .setup_cqsize(completions.next_power_of_two())
        .setup_clamp()
        .build(ZERO_COPY_RING_ENTRIES)
}

/// Registers the pool's buffers under their indices.
fn register(ring: &IoUring, pool: &Pool) -> io::Result<()> {
    let buffers: Vec<libc::iovec> = pool
        .extents()
        .map(|extent| iovec(extent.stable_ptr(), extent.bytes_total()))
        .collect();
    // SAFETY: the memory is the pool's. The kernel holds its pages, and reads them only for sends from
    // windows, which keep the pool.
    unsafe { ring.submitter().register_buffers(&buffers) }
}

fn iovec(start: *const u8, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: start.cast_mut().cast(),
        iov_len: length,
    }
}

/// Asks the kernel to send the byte at this address through a socket that is not connected: what it says tells
/// whether it knows the operation and its flags.
fn attempt(ring: &mut IoUring, byte: *const u8, buffer: Option<u16>) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // SAFETY: the socket has no peer to whom the byte could be sent; the kernel itself checks the address.
    unsafe { submit(ring, socket.as_fd(), &[iovec(byte, 1)], buffer, 0) }?;
    let mut result = None;
    let mut more = true;
    while more {
        uninterrupted(|| ring.submit_and_wait(1))?;
        for completion in ring.completion() {
            more = cqueue::more(completion.flags());
            if completion.flags() & CQE_F_NOTIF == 0 {
                result = Some(completion.result());
            }
        }
    }
    match result.map_or(Ok(0), outcome) {
        // Not connected: it got as far as the socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ENOTCONN)) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Why there are no zero-copy sends here, if so.
pub fn probe() -> Result<(), String> {
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOMEM) => format!("io_uring: {error}; raise RLIMIT_MEMLOCK (`ulimit -l`)"),
        _ => format!("io_uring: {error}; Linux 6.2 or newer is needed"),
    };
    let mut ring = new_ring(1).map_err(refused)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(refused)?;
    if !probe.is_supported(opcode::SendMsgZc::CODE) {
        return Err("this kernel has no IORING_OP_SENDMSG_ZC; Linux 6.2 or newer is needed".into());
    }
    attempt(&mut ring, [0].as_ptr(), None).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use bytes::Bytes;

    use super::super::{Backend, Io, run};
    use super::*;
    use crate::io::message::Chunk;

    const LENGTH: usize = 200_000;
    const POOL: usize = 8;

    /// Runs a test with a pool, a socket with a large send buffer, and its peer, which takes in
    /// only some of what is sent while it doesn't read.
    fn with_pair(test: impl AsyncFn(&Pool, Pins<u8>, Socket, TcpStream)) {
        if let Err(why) = probe() {
            println!("skipped: {why}");
            return;
        }
        run(Backend::Epoll, async {
            let pool = Pool::new(POOL, 256 << 10);
            let (io, _) = Io::new(Backend::Epoll, &pool).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            peer.set_recv_buffer_size(8 << 10).unwrap();
            peer.connect(&listener.local_addr().unwrap().into())
                .unwrap();
            let (socket, _) = listener.accept().unwrap();
            let socket = socket2::Socket::from(socket);
            socket.set_nonblocking(true).unwrap();
            socket.set_send_buffer_size(1 << 20).unwrap();
            let pins = io.zero_copy(&pool).unwrap();
            test(&pool, pins, Socket::from(socket), peer.into()).await;
        })
        .unwrap();
    }

    /// A message in two parts, and its bytes.
    async fn message(pool: &Pool, seed: u8) -> (Message, Vec<u8>) {
        let (mut windows, _) = pool
            .take()
            .await
            .carve([LENGTH / 2, LENGTH / 2].into_iter());
        for (i, byte) in windows.iter_mut().flat_map(|w| w.iter_mut()).enumerate() {
            *byte = (i % 251) as u8 ^ seed;
        }
        let bytes = [&windows[1][..], &windows[0][1..]].concat();
        let slices = vec![(1, 0..LENGTH / 2), (0, 1..LENGTH / 2)];
        let chunks = windows.into_iter().map(Chunk::Own).collect();
        (Message::new(Bytes::new(), chunks, slices), bytes)
    }

    fn read(peer: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        peer.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_buffer_comes_back_when_the_peer_has_it() {
        with_pair(async |pool, mut pins, socket, mut peer| {
            // In both ways, where this machine has both.
            for _ in 0..2 {
                for seed in 1..4 {
                    let (message, bytes) = message(pool, seed).await;
                    let taken = pins.send(&socket, message, seed).unwrap();
                    assert!(taken > LENGTH / 2, "{taken}");
                    assert!(pins.returned().is_empty());
                    assert_eq!((pool.free(), pins.pinned()), (POOL - 1, 1));
                    assert!(read(&mut peer, taken) == bytes[..taken]);
                    let returned = loop {
                        pins.wait().await;
                        if let Some(returned) = pins.returned().pop() {
                            break returned;
                        }
                    };
                    assert_eq!((returned.tag, returned.bytes), (seed, taken));
                    assert!(returned.copied, "loopback copies");
                    assert_eq!((pool.free(), pins.pinned()), (POOL, 0));
                }
                pins.registered = false;
            }
        });
    }

    #[test]
    fn a_send_that_fails_keeps_nothing() {
        with_pair(async |pool, pins, socket, peer| {
            // Until nothing more is taken.
            let mut sent = 0;
            let error = loop {
                let (message, _) = message(pool, 0).await;
                match pins.send(&socket, message, 0) {
                    Ok(_) => sent += 1,
                    Err(error) => break error,
                }
                socket.set_send_buffer(4096).unwrap();
            };
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!((pool.free(), pins.pinned()), (POOL - sent, sent));
            drop(peer);
            socket.abort();
            while pins.pinned() > 0 {
                pins.wait().await;
                pins.returned();
            }
            let (message, _) = message(pool, 0).await;
            let error = pins.send(&socket, message, 0).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!((pool.free(), pins.pinned()), (POOL, 0));
        });
    }

    #[test]
    fn what_is_never_heard_of_is_never_used_again() {
        with_pair(async |pool, pins, socket, mut peer| {
            let (message, bytes) = message(pool, 9).await;
            let taken = pins.send(&socket, message, 0).unwrap();
            drop(pins);
            assert_eq!(pool.free(), POOL - 1);
            assert!(read(&mut peer, taken) == bytes[..taken]);
            assert_eq!(pool.free(), POOL - 1);
        });
    }
}
