//! Zero-copy sends (`IORING_OP_SENDMSG_ZC`), on a small ring of their own.
//!
//! Such a send completes twice: at once with its result, because it never waits for room, and later with a
//! notification, when the peer has the bytes and the kernel needs them no more. The message stays here until then, so
//! that nothing writes to its windows, and the connection goes on meanwhile. tokio-uring's own sends wait for both
//! completions, and for room, so they are not used.
//!
//! Where the kernel sends messages from registered buffers (Linux 6.15) the pool is registered with this ring too.
//! Elsewhere, and where RLIMIT_MEMLOCK is too low for that, a message's pages are pinned when it is sent.
//!
//! The socket's account is the same as for copied bytes. They count in its send queue, against SO_SNDBUF
//! (`sk_wmem_queued`), so a connection's claim covers them. Nothing is charged to `net.core.optmem_max`, as
//! notifications of `MSG_ZEROCOPY` are.
#![allow(unsafe_code)] // entries that name addresses, registered memory

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::{Domain, Type};
use tokio_uring::buf::IoBuf;

use super::message::Message;
use super::poller::{Interest, Poller, Registration};
use super::pool::Pool;
use super::socket::Socket;
use crate::memory::limits::ZERO_COPY_RING_ENTRIES;

// linux/io_uring.h
/// The bytes lie in the registered buffer that the entry names (for messages since Linux 6.15).
const RECVSEND_FIXED_BUF: u16 = 1 << 2;
/// The notification tells whether the kernel copied after all (Linux 6.2).
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
/// The offset of `buf_index`, a u16, in `struct io_uring_sqe`.
const SQE_BUF_INDEX: usize = 40;
const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 2);
/// This completion is a notification.
const CQE_F_NOTIF: u32 = 1 << 3;
/// In a notification's result: some bytes were copied.
const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A ring for zero-copy sends, and the messages that the kernel still sends from. `T` is a tag that the caller gets back
/// with the notification.
pub struct ZeroCopyRing<T> {
    /// `None` after an error that leaves its state in doubt.
    ring: RefCell<Option<IoUring>>,
    pinned: RefCell<Slab<Pinned<T>>>,
    completed: RefCell<Vec<CompletedSend<T>>>,
    /// Whether the pool is registered, so that sends can name its buffers by index.
    registered: bool,
    registration: Registration,
}

struct Pinned<T> {
    message: Message,
    tag: T,
    sent_bytes: usize,
}

/// A send whose bytes the kernel needs no more.
pub struct CompletedSend<T> {
    /// The tag that was given with it.
    pub tag: T,
    /// Bytes that the socket took.
    pub bytes: usize,
    /// Whether the kernel copied some of them after all.
    pub copied: bool,
}

impl<T> ZeroCopyRing<T> {
    /// Makes a ring for messages from `pool`. Its notifications arrive through `poller`.
    pub(super) fn new(pool: &Pool, poller: &Rc<Poller>) -> io::Result<ZeroCopyRing<T>> {
        let mut ring = new_ring(pool.buffers())?;
        let registered = register(&ring, pool)
            .and_then(|()| match pool.extents().next() {
                Some(extent) => try_send(&mut ring, extent.stable_ptr(), Some(0)),
                None => Ok(()),
            })
            .inspect_err(|error| tracing::debug!(%error, "zero-copy sends pin their own pages"))
            .is_ok();
        if !registered {
            try_send(&mut ring, [0].as_ptr(), None)?;
        }
        // SAFETY: the ring and its descriptor live through the call. The kernel forgets the registration when
        // the ring is closed.
        let registration = poller.register(unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) })?;
        Ok(ZeroCopyRing {
            ring: RefCell::new(Some(ring)),
            pinned: RefCell::default(),
            completed: RefCell::default(),
            registered,
            registration,
        })
    }

    /// Sends a message without waiting for room, as [`Socket::send`] does. Its windows are kept until the kernel is done
    /// with them. [`ZeroCopyRing::take_completed`] has the `tag` then.
    ///
    /// # Errors
    /// The connection's; `WouldBlock` if the socket takes nothing; the ring's, after which it may be unusable.
    ///
    /// # Panics
    /// If the message has a head. Only windows stay at their address.
    pub fn send(&self, socket: &Socket, message: Message, tag: T) -> io::Result<usize> {
        assert!(message.head().is_empty(), "zero-copy sends have no head");
        let mut borrowed = self.ring.borrow_mut();
        let Some(ring) = borrowed.as_mut() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let slot = self.pinned.borrow_mut().insert(Pinned {
            message,
            tag,
            sent_bytes: 0,
        });
        let submitted = {
            let message = &self.pinned.borrow()[slot].message;
            let buffer = message.buffer_index().filter(|_| self.registered);
            let parts: Vec<libc::iovec> = message
                .io_slices(0..message.bytes())
                .iter()
                .map(|part| iovec(part.as_ptr(), part.len()))
                .collect();
            // SAFETY: the parts lie in windows in `pinned`, which keep their address and are not written to until
            // the notification, or for good (`leak_pinned`).
            unsafe { submit(ring, socket.as_fd(), &parts, buffer, slot as u64) }
        };
        match submitted.and_then(|()| self.result(ring)) {
            Ok(result) => outcome(result),
            Err(error) => {
                // It is not known whether the kernel still sends. Closing the descriptor keeps this ring from
                // taking more entries.
                *borrowed = None;
                self.leak_pinned();
                Err(error)
            }
        }
    }

    /// The result of the send that was just submitted. It is there already, because nothing waits for room.
    fn result(&self, ring: &mut IoUring) -> io::Result<i32> {
        loop {
            if let Some(result) = self.collect(ring) {
                return Ok(result);
            }
            uninterrupted(|| ring.submit_and_wait(1))?;
        }
    }

    /// Takes all completions: notifications, and the result of a send that was just submitted.
    fn collect(&self, ring: &mut IoUring) -> Option<i32> {
        let mut pinned = self.pinned.borrow_mut();
        let mut result = None;
        for completion in ring.completion() {
            let slot = completion.user_data() as usize;
            if completion.flags() & CQE_F_NOTIF == 0 {
                let sent = completion.result();
                result = Some(sent);
                if cqueue::more(completion.flags()) {
                    pinned[slot].sent_bytes = sent.max(0) as usize;
                } else {
                    // It failed at once, so no notification comes.
                    pinned.remove(slot);
                }
            } else if let Some(pin) = pinned.try_remove(slot) {
                self.completed.borrow_mut().push(CompletedSend {
                    tag: pin.tag,
                    bytes: pin.sent_bytes,
                    // The kernel reports a copy for a send of nothing too.
                    copied: completion.result() as u32 & NOTIF_USAGE_ZC_COPIED != 0
                        && pin.sent_bytes > 0,
                });
            }
        }
        result
    }

    /// Leaks the windows whose notifications will never come. Another use of their buffers would change what is sent.
    fn leak_pinned(&self) {
        for pin in self.pinned.borrow_mut().drain() {
            std::mem::forget(pin.message);
        }
    }

    /// Whether the ring still takes sends.
    pub fn is_usable(&self) -> bool {
        self.ring.borrow().is_some()
    }

    /// The number of sends whose buffers are pinned.
    pub fn pinned_sends(&self) -> usize {
        self.pinned.borrow().len()
    }

    /// Runs `look` on the tags of pinned sends.
    pub fn with_tags<R>(&self, look: impl FnOnce(&mut dyn Iterator<Item = &T>) -> R) -> R {
        let pinned = self.pinned.borrow();
        look(&mut pinned.iter().map(|(_, pin)| &pin.tag))
    }

    /// Waits until [`ZeroCopyRing::take_completed`] may have something.
    pub async fn wait_for_completion(&self) {
        let Some(fd) = self.ring.borrow().as_ref().map(IoUring::as_raw_fd) else {
            return pending().await;
        };
        // SAFETY: a wait for reading does not use the descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if self.registration.ready(fd, Interest::Read).await.is_err() {
            return pending().await;
        }
        // Before the caller looks, so that a later notification is an event.
        self.registration.clear_readable();
    }

    /// Takes the sends that completed since the last call. Their buffers are free already.
    pub fn take_completed(&self) -> Vec<CompletedSend<T>> {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            self.collect(ring);
        }
        self.completed.take()
    }
}

impl<T> Drop for ZeroCopyRing<T> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            // Entering the kernel posts the pending notifications, which are all if the sockets were reset.
            let _ = ring.submit();
            self.collect(ring);
        }
        self.leak_pinned();
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
/// The bytes of the parts must not change until the notification, or until the result if none follows.
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
    // SAFETY: `header` and `parts` live until the kernel has taken the entry, and it has copied them by then
    // (IORING_FEAT_SUBMIT_STABLE). If it does not take the entry, the caller closes the ring. The caller vouches for
    // the bytes of the parts.
    unsafe { ring.submission().push(&entry) }
        .map_err(|_| io::Error::other("the submission queue is full"))?;
    match uninterrupted(|| ring.submit())? {
        0 => Err(io::Error::other("the kernel did not take an entry")),
        _ => Ok(()),
    }
}

fn new_ring(sends: usize) -> io::Result<IoUring> {
    // Two completions per send. The kernel keeps more in a list of its own.
    let completions = (2 * sends as u32).max(2 * ZERO_COPY_RING_ENTRIES);
    IoUring::builder()
        .setup_single_issuer()
        // Notifications are posted when the thread enters the kernel anyway, and do not interrupt it.
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

/// Asks the kernel to send the byte at this address through a socket that is not connected. Its error tells whether it
/// knows the operation and its flags.
fn try_send(ring: &mut IoUring, byte: *const u8, buffer: Option<u16>) -> io::Result<()> {
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
        // Not connected: the send got as far as the socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ENOTCONN)) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Tells whether the kernel allows zero-copy sends.
///
/// # Errors
/// Why it does not.
pub fn probe_zero_copy() -> Result<(), String> {
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
    try_send(&mut ring, [0].as_ptr(), None).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use bytes::Bytes;

    use super::*;
    use crate::io::backend::{Backend, run};
    use crate::io::message::Chunk;

    const LENGTH: usize = 200_000;
    const POOL: usize = 8;

    /// Runs a test with a pool, a socket with a large send buffer, and its peer, which takes in
    /// only some of what is sent while it doesn't read.
    fn with_pair(test: impl AsyncFn(&Pool, ZeroCopyRing<u8>, Socket, TcpStream)) {
        if let Err(why) = probe_zero_copy() {
            println!("skipped: {why}");
            return;
        }
        run(Backend::Epoll, async {
            let pool = Pool::new(POOL, 256 << 10);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            peer.set_recv_buffer_size(8 << 10).unwrap();
            peer.connect(&listener.local_addr().unwrap().into())
                .unwrap();
            let (socket, _) = listener.accept().unwrap();
            let socket = socket2::Socket::from(socket);
            socket.set_nonblocking(true).unwrap();
            socket.set_send_buffer_size(1 << 20).unwrap();
            let ring = ZeroCopyRing::new(&pool, &Poller::new().unwrap()).unwrap();
            test(&pool, ring, Socket::from(socket), peer.into()).await;
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
        let chunks = windows.into_iter().map(Chunk::Window).collect();
        (Message::new(Bytes::new(), chunks, slices), bytes)
    }

    fn read(peer: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        peer.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_buffer_comes_back_when_the_peer_has_it() {
        with_pair(async |pool, mut ring, socket, mut peer| {
            // With registered buffers, where the kernel has that, and without.
            for _ in 0..2 {
                for seed in 1..4 {
                    let (message, bytes) = message(pool, seed).await;
                    let taken = ring.send(&socket, message, seed).unwrap();
                    assert!(taken > 0);
                    // A network that copies may be done with it at once.
                    let mut returned = ring.take_completed().pop();
                    let pinned = usize::from(returned.is_none());
                    assert_eq!(
                        (pool.free_buffers(), ring.pinned_sends()),
                        (POOL - pinned, pinned)
                    );
                    assert!(read(&mut peer, taken) == bytes[..taken]);
                    let returned = loop {
                        if let Some(returned) = returned {
                            break returned;
                        }
                        ring.wait_for_completion().await;
                        returned = ring.take_completed().pop();
                    };
                    assert_eq!((returned.tag, returned.bytes), (seed, taken));
                    assert!(returned.copied, "loopback copies");
                    assert_eq!((pool.free_buffers(), ring.pinned_sends()), (POOL, 0));
                }
                ring.registered = false;
            }
        });
    }

    #[test]
    fn a_send_that_fails_keeps_nothing() {
        with_pair(async |pool, ring, socket, peer| {
            // Until the socket is full.
            let mut sent = 0;
            let error = loop {
                let (message, _) = message(pool, 0).await;
                match ring.send(&socket, message, 0) {
                    Ok(_) => sent += 1,
                    Err(error) => break error,
                }
                socket.set_send_buffer(4096).unwrap();
            };
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(
                (pool.free_buffers(), ring.pinned_sends()),
                (POOL - sent, sent)
            );
            drop(peer);
            socket.reset();
            while ring.pinned_sends() > 0 {
                ring.wait_for_completion().await;
                ring.take_completed();
            }
            let (message, _) = message(pool, 0).await;
            let error = ring.send(&socket, message, 0).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!((pool.free_buffers(), ring.pinned_sends()), (POOL, 0));
        });
    }

    #[test]
    fn a_buffer_without_a_notification_is_never_used_again() {
        with_pair(async |pool, ring, socket, mut peer| {
            let (message, bytes) = message(pool, 9).await;
            let taken = ring.send(&socket, message, 0).unwrap();
            drop(ring);
            assert_eq!(pool.free_buffers(), POOL - 1);
            assert!(read(&mut peer, taken) == bytes[..taken]);
            assert_eq!(pool.free_buffers(), POOL - 1);
        });
    }
}
