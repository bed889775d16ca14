//! The io_uring backend: what is not in the page cache is read through the core's ring.
//!
//! tokio-uring is the runtime; a read into our own registered memory, which it does not wrap, goes through
//! its `UnsubmittedOneshot`, which keeps what the kernel uses until the completion, even if the future is
//! dropped.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::Target;
use crate::io::poller;
use crate::io::pool::{Extent, Pool};
use crate::memory::limits::{RING_COMPLETIONS, RING_ENTRIES};

/// How often a ring is tried again that RLIMIT_MEMLOCK did not allow, and after which pause.
const RING_ATTEMPTS: usize = 10;
const RING_PAUSE: Duration = Duration::from_millis(20);

/// One core's ring, as far as it needs state of ours.
pub(in crate::io) struct Uring {
    /// Whether the pool is registered, so that reads can name its buffers by index.
    registered: bool,
    flush: Rc<Flush>,
    /// Keeps the registration's memory.
    _registry: tokio_uring::buf::fixed::FixedBufRegistry<Extent>,
}

/// An operation under way whose completion is its result and what it held.
pub(in crate::io) type InFlight<D> = InFlightOneshot<D, Finish<D>>;

/// Turns a completion into the result (a count, or an error) and what the operation held.
pub(in crate::io) struct Finish<D>(std::marker::PhantomData<D>);

impl<D: 'static> OneshotOutputTransform for Finish<D> {
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

/// What a read holds: where it goes, the file it reads, and its part of those under way.
pub(in crate::io) type ReadData = (Target, Arc<File>, UnderWay);

/// One of the reads under way, which it is until the kernel is done with it.
pub(in crate::io) struct UnderWay(Rc<Flush>);

impl UnderWay {
    fn new(flush: &Rc<Flush>) -> UnderWay {
        flush.under_way.set(flush.under_way.get() + 1);
        UnderWay(Rc::clone(flush))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

fn submit<D: 'static>(data: D, entry: squeue::Entry) -> InFlight<D> {
    UnsubmittedOneshot::new(data, Finish(std::marker::PhantomData), entry).submit()
}

impl Uring {
    /// Registers the pool with the ring of the current runtime. When that is refused the pool is used
    /// unregistered; the reason is the second value.
    ///
    /// # Errors
    /// If the process may not have another descriptor.
    pub(in crate::io) fn new(pool: &Pool) -> io::Result<(Uring, Option<String>)> {
        let registry = tokio_uring::buf::fixed::FixedBufRegistry::new(pool.extents());
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

    /// Lets the other tasks have their turn, the kernel what was started, and those that waited what has ended.
    pub(in crate::io) async fn turn(&self) {
        self.flush.turn().await;
    }

    /// Has the kernel get what was started.
    pub(in crate::io) async fn submit(&self) {
        if self.flush.is_due.get() {
            self.flush.turn().await;
        }
    }

    /// Starts filling the rest of `target`, whose start is `offset` of `file`.
    pub(in crate::io) fn read(
        &self,
        file: Arc<File>,
        mut target: Target,
        offset: u64,
    ) -> InFlight<ReadData> {
        let offset = offset + target.filled as u64;
        let rest = target.rest();
        let (address, length) = (rest.as_mut_ptr(), rest.len() as u32);
        let fd = types::Fd(file.as_raw_fd());
        // The address stays valid and nobody else's: the window moves into the operation, which
        // keeps it (and the file) until the completion.
        let index = target.window.buffer_index().filter(|_| self.registered);
        let entry = match index {
            Some(index) => opcode::ReadFixed::new(fd, address, length, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(fd, address, length)
                .offset(offset)
                .build(),
        };
        self.flush.is_due.set(true);
        submit((target, file, UnderWay::new(&self.flush)), entry)
    }
}

/// Sees to it that a busy core submits its reads, and hears of those that have ended.
///
/// tokio-uring submits what was started when no task is ready to run, or when the queue is full; and a task that
/// yields is ready. While one connection or another has something to send, reads that others wait for would stay in
/// the queue, with the disk idle; and of reads that ended, after which others can start, it would hear only once in
/// many turns. So a task that gives way while there are some of either does not yield: it waits for a
/// descriptor that is readable at once, which leaves no task ready. The runtime submits, asks the kernel for events,
/// and finds this one.
pub(in crate::io) struct Flush {
    event: AsyncFd<OwnedFd>,
    /// Reads that have not ended, as far as the runtime knows.
    under_way: Cell<usize>,
    /// Something was started since the event was caused last.
    is_due: Cell<bool>,
    /// The event is on its way.
    is_caused: Cell<bool>,
    /// Counts events.
    events: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Flush {
    fn new() -> io::Result<Rc<Flush>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flush = Rc::new(Flush {
            event: poller::watch(event)?,
            under_way: Cell::new(0),
            is_due: Cell::new(false),
            is_caused: Cell::new(false),
            events: Cell::new(0),
            waiting: RefCell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&flush).dispatch());
        Ok(flush)
    }

    async fn dispatch(self: Rc<Self>) {
        while let Ok(mut event) = self.event.readable().await {
            event.clear_ready();
            self.is_caused.set(false);
            self.events.set(self.events.get() + 1);
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    async fn turn(&self) {
        if !self.is_caused.get() {
            // Each write is an event of its own, though nobody reads it (eventfd(2), epoll(7)). The counter's end is
            // far away: at a million turns a second it lasts for half a million years.
            let one = 1u64.to_ne_bytes();
            let is_due = self.is_due.get() || self.under_way.get() > 0;
            if !is_due || rustix::io::write(&self.event, &one).is_err() {
                return tokio::task::yield_now().await;
            }
            self.is_caused.set(true);
            self.is_due.set(false);
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

/// Runs a core's work on a ring of its own, until it is done.
pub(in crate::io) fn run<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = set_up(|ring| {
        let mut builder = tokio_uring::builder();
        tokio_uring::Runtime::new(builder.entries(RING_ENTRIES).uring_builder(ring))
    })
    .map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::ENOMEM) => "; raise RLIMIT_MEMLOCK (`ulimit -l`) or use --io epoll",
            _ => "",
        };
        io::Error::new(error.kind(), format!("io_uring_setup: {error}{advice}"))
    })?;
    Ok(runtime.block_on(work))
}

/// Makes a ring, with the flags that its kernel knows: COOP_TASKRUN (Linux 5.19) and SINGLE_ISSUER (6.0), with which
/// completions wait for the next system call in place of interrupting the core. DEFER_TASKRUN would keep them
/// until a call that tokio-uring never makes, as it waits by epoll.
fn set_up<T>(make: impl Fn(&io_uring::Builder) -> io::Result<T>) -> io::Result<T> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(RING_COMPLETIONS).setup_clamp();
    let mut cooperative = ring.clone();
    cooperative.setup_coop_taskrun();
    let mut alone = cooperative.clone();
    alone.setup_single_issuer();
    for ring in [alone, cooperative] {
        match patiently(|| make(&ring)) {
            // A flag that this kernel doesn't know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    patiently(|| make(&ring))
}

/// Tries again for a short time when RLIMIT_MEMLOCK seems to be used up: the kernel counts the rings of
/// all processes of a user, and gives a ring's memory back only some time after it was closed.
fn patiently<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RING_ATTEMPTS {
        match make() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(RING_PAUSE);
            }
            result => return result,
        }
    }
    make()
}

/// Why io_uring can't be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The system call is refused.
    #[error("io_uring_setup: {error}; {advice}")]
    Refused {
        /// The kernel's word.
        error: String,
        /// What an operator can do.
        advice: &'static str,
    },
    /// The kernel is too old for an operation that we need.
    #[error("this kernel's io_uring has no {0}; Linux 5.19 or newer is needed")]
    Lacks(&'static str),
}

/// Tries to set up as many rings as there will be cores and asks it for the operations that we use.
pub fn probe(cores: usize) -> Result<(), ProbeError> {
    let refused = |error: io::Error| {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .is_ok_and(|value| value.trim() != "0");
        let advice = match error.raw_os_error() {
            Some(libc::EPERM) if disabled => "set it free with `sysctl kernel.io_uring_disabled=0`",
            Some(libc::EPERM) => {
                "a seccomp filter refuses it: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile"
            }
            Some(libc::ENOSYS) => "the kernel was built without it or is older than 5.1",
            Some(libc::ENOMEM) => "raise RLIMIT_MEMLOCK (`ulimit -l`)",
            _ => "see io_uring_setup(2)",
        };
        ProbeError::Refused {
            error: error.to_string(),
            advice,
        }
    };
    // As large and as many as the real ones: their memory counts against RLIMIT_MEMLOCK, of which containers
    // often have 64 KiB.
    let rings: Vec<io_uring::IoUring> = (0..cores.max(1))
        .map(|_| set_up(|ring| ring.build(RING_ENTRIES)))
        .collect::<Result<_, _>>()
        .map_err(refused)?;
    let mut probe = io_uring::Probe::new();
    rings[0]
        .submitter()
        .register_probe(&mut probe)
        .map_err(refused)?;
    for (code, name) in [
        (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED"),
        (opcode::Read::CODE, "IORING_OP_READ"),
    ] {
        if !probe.is_supported(code) {
            return Err(ProbeError::Lacks(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};

    use super::*;
    use crate::io::{Backend, Io, Reading};

    /// Runs a test with a pool of one buffer and a read into it that lasts until something is written: its file
    /// is a pipe. Gives the pool and what the test gives, after the ring has ended.
    fn with_read_under_way<T>(
        test: impl AsyncFnOnce(&Pool, Reading<'_>, PipeWriter) -> T,
    ) -> Option<(Pool, T)> {
        if let Err(why) = probe(1) {
            println!("skipped: {why}");
            return None;
        }
        let pool = Pool::new(1, 16 << 10);
        let given = run(async {
            let (io, _) = Io::new(Backend::Uring, &pool).unwrap();
            let (reading, writing) = io::pipe().unwrap();
            let file = Arc::new(File::from(OwnedFd::from(reading)));
            let (mut windows, _) = pool.take().await.carve(std::iter::once(4096));
            let read = io.start_read(&file, windows.remove(0), 0);
            test(&pool, read, writing).await
        });
        Some((pool, given.unwrap()))
    }

    #[test]
    fn a_read_that_nobody_waits_for_keeps_its_buffer_until_it_ends() {
        with_read_under_way(async |pool, read, mut pipe| {
            drop(read);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(pool.free(), 0, "the kernel may write to it any time");
            pipe.write_all(&[7; 100]).unwrap();
            let (windows, _) = pool.take().await.carve(std::iter::once(4096));
            assert!(windows[0][..100] == [7; 100] && windows[0][100..] == [0; 3996]);
        });
    }

    #[test]
    fn a_ring_ends_after_what_is_under_way_in_it() {
        let ended = with_read_under_way(async |pool, read, pipe| {
            drop(read);
            assert_eq!(pool.free(), 0);
            pipe
        });
        if let Some((pool, mut pipe)) = ended {
            assert_eq!(pool.free(), 1);
            // The kernel has let go of the file, so there is nobody to read any more.
            let error = pipe.write_all(&[7; 100]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_busy_core_submits_its_reads() {
        if let Err(why) = probe(1) {
            println!("skipped: {why}");
            return;
        }
        let pool = Pool::new(1, 16 << 10);
        let submitted = run(async {
            let (io, _) = Io::new(Backend::Uring, &pool).unwrap();
            let (reading, mut writing) = io::pipe().unwrap();
            writing.write_all(&[7; 4096]).unwrap();
            let file = Arc::new(File::from(OwnedFd::from(reading)));
            let (mut windows, _) = pool.take().await.carve(std::iter::once(4096));
            let read = io.start_read(&file, windows.remove(0), 0);
            // There is always a task that is ready to run: this one.
            let busy = async {
                for _ in 0..100_000 {
                    io.turn().await;
                }
            };
            tokio::select! {
                (result, _) = read.finish() => Some(result.unwrap()),
                () = busy => None,
            }
        });
        assert_eq!(submitted.unwrap(), Some(4096));
    }

    #[test]
    fn an_older_kernel_gets_fewer_flags() {
        for known in 0..3 {
            let asked = std::cell::Cell::new(0);
            let made = set_up(|_| {
                asked.set(asked.get() + 1);
                match asked.get() < 3 - known {
                    true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                    false => Ok(()),
                }
            });
            assert!(made.is_ok());
            assert_eq!(asked.get(), 3 - known);
        }
        // What is no question of flags is not asked again.
        let asked = std::cell::Cell::new(0);
        let refused = set_up(|_| {
            asked.set(asked.get() + 1);
            io::Result::<()>::Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(asked.get(), 1);
    }
}
