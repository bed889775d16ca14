//! Reads through the ring of the core's runtime, for what is not in the page cache.
//!
//! tokio-uring does not wrap reads into registered memory of our own. They go through its `UnsubmittedOneshot`,
//! which keeps what the kernel uses until the completion, even if the future is dropped.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use io_uring::{cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::fixed::FixedBufRegistry;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::target::Target;
use crate::io::poller;
use crate::io::pool::{Extent, Pool};
use crate::io::threads::StoreFile;

/// Our state beside the ring of the current runtime.
pub(in crate::io) struct Uring {
    /// Whether the pool is registered, so that reads can name its buffers by index.
    registered: bool,
    flush: Rc<Flush>,
    /// Keeps the registered memory.
    _registry: FixedBufRegistry<Extent>,
}

/// An operation in flight. It completes with its result and what it held.
pub(super) type InFlight<D> = InFlightOneshot<D, Completion<D>>;

/// Turns a completion into the result (a count, or an error) and what the operation held.
pub(super) struct Completion<D>(PhantomData<D>);

impl<D: 'static> OneshotOutputTransform for Completion<D> {
    type Output = (io::Result<usize>, D);
    type StoredData = D;
    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Self::Output {
        let result = match entry.result() {
            count if count >= 0 => Ok(count as usize),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        (result, data)
    }
}

/// What a read holds until its completion.
pub(super) type ReadData = (Target, Arc<StoreFile>, InFlightGuard);

/// Counts a read as in flight until it is dropped.
pub(super) struct InFlightGuard(Rc<Flush>);

impl InFlightGuard {
    fn new(flush: &Rc<Flush>) -> InFlightGuard {
        flush.in_flight.set(flush.in_flight.get() + 1);
        InFlightGuard(Rc::clone(flush))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

fn submit<D: 'static>(data: D, entry: squeue::Entry) -> InFlight<D> {
    UnsubmittedOneshot::new(data, Completion(PhantomData), entry).submit()
}

impl Uring {
    /// Registers the pool with the ring of the current runtime. If that is refused the pool is used unregistered,
    /// and the second value says why.
    ///
    /// # Errors
    /// If the process may not have another descriptor.
    pub(super) fn new(pool: &Pool) -> io::Result<(Uring, Option<String>)> {
        let registry = FixedBufRegistry::new(pool.extents());
        let refusal = registry.register().err().map(|error| {
            let megabytes = (pool.buffers() * (pool.piece_capacity() + 4096)).div_ceil(1 << 20);
            match error.raw_os_error() {
                Some(libc::ENOMEM) => format!(
                    "{megabytes} MiB of pool buffers are over RLIMIT_MEMLOCK; raise it \
                     (`ulimit -l`, LimitMEMLOCK=) or lower --pool-buffers to have them registered"
                ),
                _ => format!("the kernel refused: {error}"),
            }
        });
        let uring = Uring {
            registered: refusal.is_none(),
            flush: Flush::new()?,
            _registry: registry,
        };
        Ok((uring, refusal))
    }

    /// Lets other tasks run, submits the reads that were started, and wakes the tasks that wait for a finished one.
    pub(super) async fn yield_now(&self) {
        self.flush.yield_now().await;
    }

    /// Submits the reads that were started.
    pub(super) async fn submit(&self) {
        if self.flush.has_unsubmitted.get() {
            self.flush.yield_now().await;
        }
    }

    /// Starts filling the rest of `target`, whose first byte is at `offset` of `file`.
    pub(super) fn read(
        &self,
        file: Arc<StoreFile>,
        mut target: Target,
        offset: u64,
    ) -> InFlight<ReadData> {
        let offset = offset + target.filled as u64;
        let rest = target.rest();
        let (address, length) = (rest.as_mut_ptr(), rest.len() as u32);
        let fd = types::Fd(file.as_raw_fd());
        // The address stays valid and exclusive: the window moves into the operation, which keeps it (and the
        // file) until the completion.
        let index = target.window.buffer_index().filter(|_| self.registered);
        let entry = match index {
            Some(index) => opcode::ReadFixed::new(fd, address, length, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(fd, address, length)
                .offset(offset)
                .build(),
        };
        self.flush.has_unsubmitted.set(true);
        submit((target, file, InFlightGuard::new(&self.flush)), entry)
    }
}

/// Makes a busy runtime enter the kernel.
///
/// tokio-uring submits operations and collects completions when no task is ready to run, or when the queue is full.
/// A task that yields is ready. While any connection has something to send, the reads of others would stay in the
/// queue with the disk idle, and finished reads would be noticed only once in many turns. So while reads are queued
/// or in flight, a task that gives way does not yield. It waits for an eventfd that is readable already. No task is
/// ready then, so the runtime submits, polls the kernel for events, and finds this one.
struct Flush {
    event: AsyncFd<OwnedFd>,
    /// Reads that have not completed, as far as the runtime knows.
    in_flight: Cell<usize>,
    /// Reads were started since the event was last signalled.
    has_unsubmitted: Cell<bool>,
    /// The event was signalled and not seen yet.
    is_signalled: Cell<bool>,
    /// Counts events that were seen.
    events: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Flush {
    fn new() -> io::Result<Rc<Flush>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flush = Rc::new(Flush {
            event: poller::watch_readable(event)?,
            in_flight: Cell::new(0),
            has_unsubmitted: Cell::new(false),
            is_signalled: Cell::new(false),
            events: Cell::new(0),
            waiting: RefCell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&flush).dispatch());
        Ok(flush)
    }

    async fn dispatch(self: Rc<Self>) {
        while let Ok(mut event) = self.event.readable().await {
            event.clear_ready();
            self.is_signalled.set(false);
            self.events.set(self.events.get() + 1);
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    async fn yield_now(&self) {
        if !self.is_signalled.get() {
            // Each write is an event of its own, although nothing reads the counter (eventfd(2), epoll(7)). At a
            // million writes a second the counter lasts for half a million years.
            let one = 1u64.to_ne_bytes();
            let is_needed = self.has_unsubmitted.get() || self.in_flight.get() > 0;
            if !is_needed || rustix::io::write(&self.event, &one).is_err() {
                return tokio::task::yield_now().await;
            }
            self.is_signalled.set(true);
            self.has_unsubmitted.set(false);
        }
        let events = self.events.get();
        poll_fn(|context| {
            if self.events.get() != events {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
