//! Asynchronous reads (io_submit(2), linux/aio_abi.h).
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use super::check::check;

/// `IOCB_CMD_PREAD`.
const PREAD: u16 = 0;
/// `IOCB_FLAG_RESFD`: the eventfd is signalled when the read ends.
const FLAG_RESFD: u32 = 1;
/// `AIO_RING_MAGIC` (fs/aio.c): a context's memory starts with the fields of [`RingHead`].
const RING_MAGIC: u32 = 0xa10a_10a1;
/// Events taken from the kernel by one call.
const EVENTS_MAX: usize = 32;

/// One read (`struct iocb`).
#[repr(C)]
#[derive(Default)]
pub(in crate::io) struct Request {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

const _: () = assert!(size_of::<Request>() == 64);

impl Request {
    /// A read from `offset` of `file` into `buffer`. It does not wait for anything but the disk, and signals `event`
    /// when it ends.
    pub(in crate::io) fn read(
        data: usize,
        file: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
        event: BorrowedFd<'_>,
    ) -> Request {
        Request {
            data: data as u64,
            rw_flags: libc::RWF_NOWAIT,
            opcode: PREAD,
            file: file.as_raw_fd() as u32,
            buffer: buffer.as_mut_ptr() as u64,
            bytes: buffer.len() as u64,
            offset: offset as i64,
            flags: FLAG_RESFD,
            event: event.as_raw_fd() as u32,
            ..Request::default()
        }
    }

    /// The number that comes back with the request's event.
    pub(in crate::io) fn data(&self) -> usize {
        self.data as usize
    }
}

/// `struct io_event`.
#[repr(C)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// The start of the memory that `aio_context_t` points to and the kernel maps for the process (`struct aio_ring`).
#[repr(C)]
struct RingHead {
    id: u32,
    events: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
}

/// A context for asynchronous reads (`aio_context_t`).
pub(in crate::io) struct AioContext {
    context: usize,
    /// Whether its memory has the layout of [`RingHead`], so that events are seen without a system call.
    pub(in crate::io) is_known: bool,
}

impl AioContext {
    /// Makes a context for this many reads in flight.
    ///
    /// # Errors
    /// `ENOSYS` if the kernel has no such contexts, `EAGAIN` if all processes together have used up
    /// `fs.aio-max-nr`.
    pub(in crate::io) fn new(reads: u32) -> io::Result<AioContext> {
        let mut context = 0usize;
        // SAFETY: it writes a context's address to `context`, which is zero, as it must be.
        check(unsafe { libc::syscall(libc::SYS_io_setup, reads, &mut context) })?;
        let mut kernel = AioContext {
            context,
            is_known: false,
        };
        kernel.is_known = kernel.ring().magic == RING_MAGIC;
        Ok(kernel)
    }

    fn ring(&self) -> &RingHead {
        // SAFETY: a context is the address of at least one page that the kernel maps until `io_destroy`, readable and
        // aligned. The kernel changes only `head` and `tail`, which are atomic.
        unsafe { &*(self.context as *const RingHead) }
    }

    /// Whether there may be events. `true` where only a system call can tell.
    pub(in crate::io) fn has_events(&self) -> bool {
        let ring = self.ring();
        !self.is_known || ring.head.load(Ordering::Relaxed) != ring.tail.load(Ordering::Acquire)
    }

    /// Submits as many of `requests` as the kernel takes, in order, at least one.
    ///
    /// # Errors
    /// The first request's.
    ///
    /// # Safety
    /// The memory of each request's buffer must stay writable and exclusive until its event was taken or the context
    /// was closed.
    pub(in crate::io) unsafe fn submit(&self, requests: &mut [Request]) -> io::Result<usize> {
        let mut pointers: Vec<*mut Request> = requests.iter_mut().map(std::ptr::from_mut).collect();
        // SAFETY: as many pointers, each to a request, which the kernel copies; the caller vouches for the buffers.
        let count = check(unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                pointers.len(),
                pointers.as_mut_ptr(),
            )
        })?;
        match count {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count as usize),
        }
    }

    /// Takes the events that are there, without waiting: each request's `data` and its result.
    pub(in crate::io) fn take_events(
        &self,
        mut take: impl FnMut(usize, io::Result<usize>),
    ) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `events` has room for as many events, and the time lives through the call.
        let count = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0usize,
                EVENTS_MAX,
                events.as_mut_ptr(),
                &now,
            )
        })?;
        for event in &events[..count as usize] {
            // SAFETY: the kernel wrote the first `count` of them.
            let event = unsafe { event.assume_init_ref() };
            let result = match event.result {
                error @ ..0 => Err(io::Error::from_raw_os_error(-error as i32)),
                count => Ok(count as usize),
            };
            take(event.data as usize, result);
        }
        Ok(())
    }
}

impl Drop for AioContext {
    fn drop(&mut self) {
        // SAFETY: the context is not used after this. The call waits for the reads in flight.
        let closed = unsafe { libc::syscall(libc::SYS_io_destroy, self.context, null_mut::<u8>()) };
        debug_assert_eq!(closed, 0);
    }
}
