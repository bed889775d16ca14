//! Direct reads on the epoll backend: several of them start with one system call and report by an eventfd
//! (`io_submit`(2), linux/aio_abi.h), so that a core whose host refuses io_uring needs no thread for each.
//!
//! Only for direct reads: others would wait for the disk within `io_submit`. They are asked not to wait for anything
//! else there either (`RWF_NOWAIT`); one that would have to, or that its file system does not take, ends with an error
//! and is left to a helper thread.
//!
//! A read that never ends, as on a network file system whose server is gone, keeps the process from ending: the kernel
//! waits for it, whether the context is closed before or not (`exit_aio`).
#![allow(unsafe_code)] // requests that name addresses, events into memory of ours; see each SAFETY remark

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::target::Target;
use crate::io::poller;
use crate::memory::limits::AIO_READS_MAX;

/// `IOCB_CMD_PREAD`.
const PREAD: u16 = 0;
/// `IOCB_FLAG_RESFD`: the eventfd is signalled when the read has ended.
const FLAG_RESFD: u32 = 1;
/// `AIO_RING_MAGIC` (fs/aio.c): the head of a context's memory has the fields of [`RingHead`].
const RING_MAGIC: u32 = 0xa10a_10a1;
/// Events taken at once.
const EVENTS_MAX: usize = 32;

/// `struct iocb`.
#[repr(C)]
#[derive(Default)]
struct Request {
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

/// `struct io_event`.
#[repr(C)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// The start of what `aio_context_t` points to, as the kernel maps it for the process (`struct aio_ring`).
#[repr(C)]
struct RingHead {
    id: u32,
    events: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
}

/// What reads past the page cache without helper threads; `None` where the kernel has no such thing for us.
pub(in crate::io) fn direct_reads() -> Option<Aio> {
    Aio::new()
        .inspect_err(|error| {
            tracing::info!(%error, "no io_setup: what is read ahead is read on helper threads");
        })
        .ok()
}

/// A core's context for direct reads.
pub(in crate::io) struct Aio(Rc<Inner>);

struct Inner {
    context: Kernel,
    event: AsyncFd<OwnedFd>,
    /// Declared after the context: what is under way lives until that is closed.
    reads: RefCell<Slab<Read>>,
    /// Those that the kernel has not been given yet.
    queued: RefCell<Vec<usize>>,
    under_way: Cell<usize>,
}

struct Read {
    target: Target,
    file: Arc<File>,
    offset: u64,
    result: Option<io::Result<usize>>,
    waker: Option<Waker>,
    /// Nobody waits for it any more.
    abandoned: bool,
}

impl Aio {
    /// A context that the current runtime watches.
    ///
    /// # Errors
    /// Where the kernel has none (`ENOSYS`), or all processes together have as many as may be (`EAGAIN`,
    /// `fs.aio-max-nr`).
    pub(in crate::io) fn new() -> io::Result<Aio> {
        let inner = Rc::new(Inner {
            context: Kernel::new(AIO_READS_MAX)?,
            event: poller::watch(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?,
            reads: RefCell::default(),
            queued: RefCell::default(),
            under_way: Cell::new(0),
        });
        tokio::task::spawn_local(Rc::clone(&inner).dispatch());
        Ok(Aio(inner))
    }

    /// Queues filling the rest of `target`, whose start is `offset` of `file`. The kernel is given it, and all that is
    /// queued with it, when the first of them is waited for. Gives the target back if too many are under way.
    pub(in crate::io) fn read(
        &self,
        file: Arc<File>,
        target: Target,
        offset: u64,
    ) -> Result<InFlight, (Arc<File>, Target)> {
        let mut reads = self.0.reads.borrow_mut();
        if reads.len() >= AIO_READS_MAX as usize {
            return Err((file, target));
        }
        let slot = reads.insert(Read {
            target,
            file,
            offset,
            result: None,
            waker: None,
            abandoned: false,
        });
        self.0.queued.borrow_mut().push(slot);
        Ok(InFlight {
            aio: Rc::clone(&self.0),
            slot: Some(slot),
        })
    }

    /// Gives the kernel what is queued.
    pub(in crate::io) fn submit(&self) {
        self.0.submit();
    }

    /// Wakes those whose reads have ended. A busy runtime asks for events once in a while only.
    pub(in crate::io) fn reap(&self) {
        if self.0.under_way.get() > 0 {
            self.0.reap();
        }
    }
}

impl Inner {
    async fn dispatch(self: Rc<Self>) {
        while let Ok(mut event) = self.event.readable().await {
            // Each end of a read is an event of its own, though nobody reads the counter (eventfd(2), epoll(7)).
            event.clear_ready();
            self.reap();
        }
    }

    fn submit(&self) {
        let queued = self.queued.take();
        if queued.is_empty() {
            return;
        }
        let mut requests: Vec<Request> = {
            let mut reads = self.reads.borrow_mut();
            let request = |&slot: &usize| {
                let Read {
                    target,
                    file,
                    offset,
                    ..
                } = &mut reads[slot];
                let rest = target.rest();
                Request {
                    data: slot as u64,
                    rw_flags: libc::RWF_NOWAIT,
                    opcode: PREAD,
                    file: file.as_raw_fd() as u32,
                    buffer: rest.as_mut_ptr() as u64,
                    bytes: rest.len() as u64,
                    offset: (*offset + target.filled as u64) as i64,
                    flags: FLAG_RESFD,
                    event: self.event.get_ref().as_raw_fd() as u32,
                    ..Request::default()
                }
            };
            queued.iter().map(request).collect()
        };
        self.under_way.set(self.under_way.get() + requests.len());
        let mut rest = &mut requests[..];
        while !rest.is_empty() {
            // SAFETY: each request's buffer is the rest of a window that its entry in `reads` owns, and its file is
            // open as long; entries are removed when the read has ended, and dropped after the context is closed.
            let given = match unsafe { self.context.submit(rest) } {
                Ok(count) => count,
                Err(error) => {
                    // It is the first that was refused.
                    self.end(rest[0].data as usize, Err(error));
                    1
                }
            };
            rest = &mut rest[given..];
        }
    }

    fn reap(&self) {
        while self.context.has_events() {
            let mut ended = 0;
            let result = self.context.take_events(|slot, result| {
                ended += 1;
                self.end(slot, result);
            });
            // Interrupted, or somebody else's by an error of the kernel's: the eventfd says when to look again.
            if result.is_err() || ended == 0 {
                return;
            }
        }
    }

    fn end(&self, slot: usize, result: io::Result<usize>) {
        self.under_way.set(self.under_way.get() - 1);
        let mut reads = self.reads.borrow_mut();
        let read = &mut reads[slot];
        if read.abandoned {
            reads.remove(slot);
            return;
        }
        read.result = Some(result);
        let waker = read.waker.take();
        drop(reads);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A read under way. Dropped, it goes on, and what it reads into is kept until it has ended.
pub(in crate::io) struct InFlight {
    aio: Rc<Inner>,
    /// Until it has been waited for.
    slot: Option<usize>,
}

impl Future for InFlight {
    type Output = (io::Result<usize>, Target, Arc<File>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.aio.submit();
        let slot = self.slot.expect("not polled after it was ready");
        let mut reads = self.aio.reads.borrow_mut();
        let read = &mut reads[slot];
        let Some(result) = read.result.take() else {
            read.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        let read = reads.remove(slot);
        drop(reads);
        self.slot = None;
        Poll::Ready((result, read.target, read.file))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(slot) = self.slot else {
            return;
        };
        let mut reads = self.aio.reads.borrow_mut();
        let mut queued = self.aio.queued.borrow_mut();
        if let Some(at) = queued.iter().position(|&waiting| waiting == slot) {
            queued.swap_remove(at);
            reads.remove(slot);
        } else if reads[slot].result.is_some() {
            reads.remove(slot);
        } else {
            reads[slot].abandoned = true;
        }
    }
}

/// `aio_context_t`.
struct Kernel {
    context: usize,
    /// Whether its memory is as this file knows it.
    is_known: bool,
}

fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Kernel {
    fn new(reads: u32) -> io::Result<Kernel> {
        let mut context = 0usize;
        // SAFETY: it writes a context's address to `context`, which is zero, as it must be.
        check(unsafe { libc::syscall(libc::SYS_io_setup, reads, &mut context) })?;
        let mut kernel = Kernel {
            context,
            is_known: false,
        };
        kernel.is_known = kernel.ring().magic == RING_MAGIC;
        Ok(kernel)
    }

    fn ring(&self) -> &RingHead {
        // SAFETY: a context is the address of at least one page that the kernel maps until `io_destroy`, readable and
        // aligned. It changes `head` and `tail` only, which are atomic.
        unsafe { &*(self.context as *const RingHead) }
    }

    /// Whether there may be events. Where it can't be seen, the kernel is asked.
    fn has_events(&self) -> bool {
        let ring = self.ring();
        !self.is_known || ring.head.load(Ordering::Relaxed) != ring.tail.load(Ordering::Acquire)
    }

    /// Gives the kernel as many of `requests` as it takes, in order, at least one.
    ///
    /// # Errors
    /// The first one's.
    ///
    /// # Safety
    /// What each request's buffer points to must stay writable, and be nobody else's, until its event was taken, or
    /// the context is closed.
    unsafe fn submit(&self, requests: &mut [Request]) -> io::Result<usize> {
        let mut pointers: Vec<*mut Request> = requests.iter_mut().map(std::ptr::from_mut).collect();
        // SAFETY: as many pointers, each to a request, which the kernel copies; the buffers are the caller's matter.
        let given = check(unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                pointers.len(),
                pointers.as_mut_ptr(),
            )
        })?;
        match given {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            given => Ok(given),
        }
    }

    /// Takes events that are there, without waiting: what a request said as `data`, and its result.
    fn take_events(&self, mut take: impl FnMut(usize, io::Result<usize>)) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: there is room for so many events, and the time lives through the call.
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
        for event in &events[..count] {
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

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: nobody uses the context after this. The call waits for what is under way.
        let closed = unsafe { libc::syscall(libc::SYS_io_destroy, self.context, null_mut::<u8>()) };
        debug_assert_eq!(closed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::io::pool::Pool;
    use crate::io::{Backend, Io, page_cache, run};
    use crate::memory::limits::DIRECT_ALIGN;

    const BYTES: usize = 10 * DIRECT_ALIGN + 100;

    fn pattern(at: usize) -> u8 {
        (at * 7 / 3) as u8
    }

    /// A file whose bytes follow [`pattern`].
    fn some_file() -> File {
        let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    /// Runs a test with a context; not where there is none.
    fn with_aio(test: impl AsyncFnOnce(&Aio)) {
        run(Backend::Epoll, async {
            match Aio::new() {
                Ok(aio) => test(&aio).await,
                Err(error) => println!("skipped: io_setup: {error}"),
            }
        })
        .unwrap();
    }

    fn target(pool: &Pool, bytes: usize) -> Target {
        let buffer = pool.try_take().unwrap();
        Target {
            window: buffer.carve(std::iter::once(bytes)).0.remove(0),
            filled: 0,
            padded: false,
        }
    }

    #[test]
    fn reads_that_start_together_each_bring_their_own_and_one_that_is_refused_fails_alone() {
        with_aio(async |aio| {
            let pool = Pool::new(6, 8 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let deaf = Arc::new(File::options().write(true).open("/dev/null").unwrap());
            let places = [
                (0, 4096),
                (4096, 8192),
                (0, 10),
                (300, 5000),
                (BYTES - 50, 100),
            ];
            let mut reads: Vec<_> = places
                .iter()
                .map(|&(offset, bytes)| {
                    let read = aio.read(Arc::clone(&file), target(&pool, bytes), offset as u64);
                    read.ok().unwrap()
                })
                .collect();
            let refused = aio.read(deaf, target(&pool, 10), 0).ok().unwrap();
            reads.insert(2, refused);
            assert_eq!(aio.0.queued.borrow().len(), reads.len());
            let mut results = Vec::new();
            for read in reads {
                results.push(read.await);
                assert!(aio.0.queued.borrow().is_empty());
            }
            let (error, ..) = results.remove(2);
            assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EBADF));
            for ((offset, bytes), (result, target, _)) in places.into_iter().zip(results) {
                let count = bytes.min(BYTES - offset);
                assert_eq!(result.unwrap(), count);
                let right = |(at, &byte): (usize, &u8)| byte == pattern(offset + at);
                assert!(target.window[..count].iter().enumerate().all(right));
            }
            assert_eq!((aio.0.under_way.get(), aio.0.reads.borrow().len()), (0, 0));
            assert_eq!(pool.free(), 6);
        });
    }

    #[test]
    fn no_more_are_taken_than_may_be_under_way_and_who_goes_leaves_nothing() {
        with_aio(async |aio| {
            let pool = Pool::new(AIO_READS_MAX as usize + 1, 2 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let read = || aio.read(Arc::clone(&file), target(&pool, 4096), 0).ok();
            let mut reads: Vec<_> = (0..AIO_READS_MAX).map(|_| read().unwrap()).collect();
            assert!(read().is_none());
            // Not submitted yet; under way, or ended by now; and waited for.
            let late = reads.split_off(100);
            drop(late);
            assert_eq!(pool.free(), AIO_READS_MAX as usize + 1 - 100);
            aio.submit();
            drop(reads.split_off(50));
            for read in reads {
                assert_eq!(read.await.0.unwrap(), 4096);
            }
            while aio.0.under_way.get() > 0 {
                aio.reap();
                tokio::task::yield_now().await;
            }
            assert_eq!(aio.0.reads.borrow().len(), 0);
            assert_eq!(pool.free(), AIO_READS_MAX as usize + 1);
        });
    }

    #[test]
    fn events_are_seen_without_asking_the_kernel_where_it_shows_them() {
        with_aio(async |aio| {
            let pool = Pool::new(1, 2 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let kernel = &aio.0.context;
            assert!(!kernel.is_known || !kernel.has_events());
            let read = aio.read(file, target(&pool, 4096), 0).ok().unwrap();
            aio.submit();
            // It was in the page cache, and nobody has run meanwhile who would take the event.
            assert!(kernel.has_events());
            aio.reap();
            assert!(!kernel.is_known || !kernel.has_events());
            assert_eq!(read.await.0.unwrap(), 4096);
        });
    }

    #[test]
    fn what_would_wait_or_ends_early_is_left_to_a_thread() {
        let pool = Pool::for_direct_reads(3, 16 * DIRECT_ALIGN);
        let done = run(Backend::Epoll, async {
            let (io, _) = Io::new(Backend::Epoll, &pool).unwrap();
            let window = |bytes| {
                let buffer = pool.try_take().unwrap();
                buffer.carve(std::iter::once(bytes)).0.remove(0)
            };
            // A pipe has no positions, which the thread finds out.
            let (pipe, _writer) = io::pipe().unwrap();
            let pipe = Arc::new(File::from(OwnedFd::from(pipe)));
            let (result, window_back) = io.start_direct_read(&pipe, window(4096), 0).finish().await;
            let error = result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));
            assert!(window_back.is_some());

            let file = some_file();
            let file = match page_cache::open_direct(&file) {
                Ok(direct) => {
                    file.sync_all().unwrap();
                    direct
                }
                Err(error) => {
                    println!("skipped: O_DIRECT: {error}");
                    file
                }
            };
            let file = Arc::new(file);
            for (bytes, there) in [(BYTES, BYTES), (BYTES + 500, BYTES), (5000, 5000)] {
                let read = io.start_direct_read(&file, window(bytes), 0);
                let (result, window) = read.finish().await;
                assert_eq!(result.unwrap(), there);
                let right = |(at, &byte): (usize, &u8)| byte == pattern(at);
                assert!(window.unwrap()[..there].iter().enumerate().all(right));
            }
        });
        done.unwrap();
        assert_eq!(pool.free(), 3);
    }
}
