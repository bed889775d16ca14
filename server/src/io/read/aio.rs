//! Direct reads on the epoll backend, by `io_submit`(2): one system call starts several reads, and an eventfd reports
//! their ends, so that a core without io_uring needs no thread for each.
//!
//! This serves direct reads only, because `io_submit` itself would wait for the disk with others. The kernel is told
//! not to wait for anything else either (`RWF_NOWAIT`). A read that would have to wait, or that its file system does
//! not take, ends with an error and is left to a helper thread.
//!
//! A read that never ends, as on a network file system whose server is gone, keeps the process from ending: the kernel
//! waits for it, even if the context is closed first (`exit_aio`).
#![allow(unsafe_code)] // requests that name addresses

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::target::Target;
use crate::io::poller;
use crate::io::sys::{AioContext, Request};
use crate::memory::limits::AIO_READS_MAX;

/// A core's context for direct reads.
pub(in crate::io) struct Aio(Rc<Inner>);

struct Inner {
    context: AioContext,
    event: AsyncFd<OwnedFd>,
    /// Declared after the context, so that reads in flight live until it is closed.
    reads: RefCell<Slab<Read>>,
    /// Reads that were not submitted yet.
    queued: RefCell<Vec<usize>>,
    in_flight: Cell<usize>,
}

struct Read {
    target: Target,
    file: Arc<File>,
    offset: u64,
    result: Option<io::Result<usize>>,
    waker: Option<Waker>,
    /// No task waits for it any more.
    abandoned: bool,
}

impl Aio {
    /// Makes a context that the current runtime watches.
    ///
    /// # Errors
    /// See [`AioContext::new`].
    pub(super) fn new() -> io::Result<Aio> {
        let inner = Rc::new(Inner {
            context: AioContext::new(AIO_READS_MAX)?,
            event: poller::watch_readable(eventfd(
                0,
                EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
            )?)?,
            reads: RefCell::default(),
            queued: RefCell::default(),
            in_flight: Cell::new(0),
        });
        tokio::task::spawn_local(Rc::clone(&inner).dispatch());
        Ok(Aio(inner))
    }

    /// Queues a read that fills the rest of `target`, whose first byte is at `offset` of `file`. All queued reads are
    /// submitted when a task waits for the first of them. Gives file and target back if too many are in flight.
    pub(super) fn read(
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

    /// Submits the queued reads.
    pub(super) fn submit(&self) {
        self.0.submit();
    }

    /// Wakes the tasks whose reads have ended. A busy runtime polls for events only once in a while.
    pub(super) fn reap(&self) {
        if self.0.in_flight.get() > 0 {
            self.0.reap();
        }
    }
}

impl Inner {
    async fn dispatch(self: Rc<Self>) {
        while let Ok(mut event) = self.event.readable().await {
            // Each end of a read is an event of its own, although nothing reads the counter (eventfd(2), epoll(7)).
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
                let offset = *offset + target.filled as u64;
                let event = self.event.get_ref().as_fd();
                Request::read(slot, file.as_fd(), target.rest(), offset, event)
            };
            queued.iter().map(request).collect()
        };
        self.in_flight.set(self.in_flight.get() + requests.len());
        let mut rest = &mut requests[..];
        while !rest.is_empty() {
            // SAFETY: each request's buffer is the rest of a window that its entry in `reads` owns, and its file is
            // open as long; entries are removed when the read has ended, and dropped after the context is closed.
            let submitted = match unsafe { self.context.submit(rest) } {
                Ok(count) => count,
                Err(error) => {
                    // The kernel refused the first one.
                    self.end(rest[0].data(), Err(error));
                    1
                }
            };
            rest = &mut rest[submitted..];
        }
    }

    fn reap(&self) {
        while self.context.has_events() {
            let mut ended = 0;
            let result = self.context.take_events(|slot, result| {
                ended += 1;
                self.end(slot, result);
            });
            // Interrupted, or there was no event after all. The eventfd tells when to try again.
            if result.is_err() || ended == 0 {
                return;
            }
        }
    }

    fn end(&self, slot: usize, result: io::Result<usize>) {
        self.in_flight.set(self.in_flight.get() - 1);
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

/// A read in flight. If it is dropped it goes on, and its target is kept until it has ended.
pub(super) struct InFlight {
    aio: Rc<Inner>,
    /// `None` once its result was taken.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::io::backend::{Backend, run};
    use crate::io::pool::Pool;
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

    /// Runs a test with a context, or skips it where the kernel has none.
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
    fn reads_submitted_together_each_fill_their_own_target_and_a_refused_one_fails_alone() {
        with_aio(async |aio| {
            let pool = Pool::new(6, 8 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let write_only = Arc::new(File::options().write(true).open("/dev/null").unwrap());
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
            let refused = aio.read(write_only, target(&pool, 10), 0).ok().unwrap();
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
            assert_eq!((aio.0.in_flight.get(), aio.0.reads.borrow().len()), (0, 0));
            assert_eq!(pool.free_buffers(), 6);
        });
    }

    #[test]
    fn reads_in_flight_are_bounded_and_abandoned_ones_leave_nothing() {
        with_aio(async |aio| {
            let pool = Pool::new(AIO_READS_MAX as usize + 1, 2 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let read = || aio.read(Arc::clone(&file), target(&pool, 4096), 0).ok();
            let mut reads: Vec<_> = (0..AIO_READS_MAX).map(|_| read().unwrap()).collect();
            assert!(read().is_none());
            // Some are not submitted yet, some are in flight or ended by now, some are waited for.
            let late = reads.split_off(100);
            drop(late);
            assert_eq!(pool.free_buffers(), AIO_READS_MAX as usize + 1 - 100);
            aio.submit();
            drop(reads.split_off(50));
            for read in reads {
                assert_eq!(read.await.0.unwrap(), 4096);
            }
            while aio.0.in_flight.get() > 0 {
                aio.reap();
                tokio::task::yield_now().await;
            }
            assert_eq!(aio.0.reads.borrow().len(), 0);
            assert_eq!(pool.free_buffers(), AIO_READS_MAX as usize + 1);
        });
    }

    #[test]
    fn events_are_seen_without_a_system_call() {
        with_aio(async |aio| {
            let pool = Pool::new(1, 2 * DIRECT_ALIGN);
            let file = Arc::new(some_file());
            let context = &aio.0.context;
            assert!(!context.is_known || !context.has_events());
            let read = aio.read(file, target(&pool, 4096), 0).ok().unwrap();
            aio.submit();
            // The bytes were in the page cache, and no task has run that would take the event.
            assert!(context.has_events());
            aio.reap();
            assert!(!context.is_known || !context.has_events());
            assert_eq!(read.await.0.unwrap(), 4096);
        });
    }
}
