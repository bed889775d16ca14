//! Reading files, on either backend.
//!
//! What the page cache has is copied at once. The rest is read through the ring (`uring`), on helper threads
//! (`epoll`), or, if it is a direct read where io_uring is refused, by `io_submit` (`aio`).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::backend::Backend;
use super::pool::{Pool, Window};
use super::sys;
use aio::Aio;
use target::Target;
use uring::Uring;

mod aio;
mod epoll;
mod target;
mod uring;

/// One core's way to read files.
pub(super) enum Reader {
    /// The ring of the core's runtime.
    Uring(Uring),
    /// Helper threads; direct reads by `io_submit`, if the kernel offers it.
    Epoll(Option<Aio>),
}

impl Reader {
    /// Prepares the current runtime. The second value says why the pool could not be registered with the ring.
    pub(super) fn new(backend: Backend, pool: &Pool) -> io::Result<(Reader, Option<String>)> {
        match backend {
            Backend::Uring => {
                let (uring, refusal) = Uring::new(pool)?;
                Ok((Reader::Uring(uring), refusal))
            }
            Backend::Epoll => {
                let aio = Aio::new().inspect_err(|error| {
                    tracing::info!(%error, "no io_setup: direct reads go to helper threads");
                });
                Ok((Reader::Epoll(aio.ok()), None))
            }
        }
    }

    /// Lets other tasks run, submits the reads that were started, and wakes the tasks that wait for a finished one.
    pub(super) async fn yield_now(&self) {
        match self {
            Reader::Uring(uring) => uring.yield_now().await,
            Reader::Epoll(aio) => {
                if let Some(aio) = aio {
                    aio.submit();
                    aio.reap();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Submits the reads that were started, if there are any.
    pub(super) async fn submit(&self) {
        match self {
            Reader::Uring(uring) => uring.submit().await,
            Reader::Epoll(Some(aio)) => aio.submit(),
            Reader::Epoll(None) => {}
        }
    }

    /// Starts filling `window` from `offset` of `file`.
    pub(super) fn read(
        &self,
        file: &Arc<File>,
        mut window: Window,
        offset: u64,
    ) -> PendingRead<'_> {
        // Cached bytes cost less this way than through the ring (CPU per GB of a healthy GET, 32 connections: 0.20 s
        // in place of 0.26). A short count means that the rest is on disk, or past the file's end.
        let filled = sys::read_cached_at(file.as_fd(), &mut window, offset).unwrap_or(0);
        if filled == window.len() {
            return PendingRead(State::Done(window));
        }
        let target = Target {
            window,
            filled,
            padded: false,
        };
        PendingRead(self.read_rest(Arc::clone(file), target, offset))
    }

    /// Starts filling `window` from `offset` of a file that is open for direct reads.
    pub(super) fn read_direct(
        &self,
        file: &Arc<File>,
        window: Window,
        offset: u64,
    ) -> PendingRead<'_> {
        let target = Target {
            window,
            filled: 0,
            padded: true,
        };
        let file = Arc::clone(file);
        PendingRead(match self {
            Reader::Epoll(Some(aio)) => match aio.read(file, target, offset) {
                Ok(read) => State::Aio(read, offset),
                Err((file, target)) => self.read_rest(file, target, offset),
            },
            _ => self.read_rest(file, target, offset),
        })
    }

    fn read_rest(&self, file: Arc<File>, target: Target, offset: u64) -> State<'_> {
        match self {
            Reader::Uring(uring) => State::Uring(uring, uring.read(file, target, offset), offset),
            Reader::Epoll(_) => State::Epoll(epoll::read(file, target, offset)),
        }
    }
}

/// A read that was started.
pub struct PendingRead<'a>(State<'a>);

/// The read in flight, and its offset in the file where it may have to be continued.
enum State<'a> {
    Done(Window),
    Uring(&'a Uring, uring::InFlight<uring::ReadData>, u64),
    Epoll(epoll::InFlight),
    Aio(aio::InFlight, u64),
}

impl PendingRead<'_> {
    /// Waits until the window is full, the file ended, or reading failed. Gives back the count and the window;
    /// `None` for the window if the runtime is shutting down.
    pub async fn finish(self) -> (io::Result<usize>, Option<Window>) {
        match self.0 {
            State::Done(window) => (Ok(window.len()), Some(window)),
            State::Epoll(read) => join(read).await,
            State::Aio(read, offset) => {
                let (result, mut target, file) = read.await;
                target.filled += result.unwrap_or(0);
                match target.is_done() {
                    true => (Ok(target.filled_bytes()), Some(target.window)),
                    // The read would have had to wait, or failed. A thread may wait, and meets any error again.
                    false => join(epoll::read(file, target, offset)).await,
                }
            }
            State::Uring(uring, mut operation, offset) => loop {
                let (result, (mut target, file, _)) = operation.await;
                // A short read is continued until a read brings nothing.
                match result {
                    Ok(0) => return (Ok(target.filled_bytes()), Some(target.window)),
                    Ok(count) => target.filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return (Err(error), Some(target.window)),
                }
                if target.is_done() {
                    return (Ok(target.filled_bytes()), Some(target.window));
                }
                operation = uring.read(file, target, offset);
            },
        }
    }
}

async fn join(read: epoll::InFlight) -> (io::Result<usize>, Option<Window>) {
    match read.await {
        Ok((result, window)) => (result, Some(window)),
        Err(error) => (Err(io::Error::other(error)), None),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::io::backend::{probe, run};
    use crate::io::page_cache::open_direct;
    use crate::memory::limits::DIRECT_ALIGN;

    fn window(pool: &Pool, bytes: usize) -> Window {
        let buffer = pool.try_take().unwrap();
        buffer.carve(std::iter::once(bytes)).0.remove(0)
    }

    /// A pipe as a file: reading it lasts until something is written.
    fn pipe() -> (Arc<File>, PipeWriter) {
        let (reading, writing) = io::pipe().unwrap();
        (Arc::new(File::from(OwnedFd::from(reading))), writing)
    }

    /// Runs a test on a ring, with a pool of one buffer and a read into it that lasts until something is written.
    /// Returns the pool and what the test returns, after the ring has ended.
    fn with_pending_read<T>(
        test: impl AsyncFnOnce(&Pool, &Reader, PendingRead<'_>, PipeWriter) -> T,
    ) -> Option<(Pool, T)> {
        if let Err(why) = probe(Backend::Uring, 1) {
            println!("skipped: {why}");
            return None;
        }
        let pool = Pool::new(1, 16 << 10);
        let given = run(Backend::Uring, async {
            let (reader, _) = Reader::new(Backend::Uring, &pool).unwrap();
            let (file, writing) = pipe();
            let read = reader.read(&file, window(&pool, 4096), 0);
            drop(file);
            test(&pool, &reader, read, writing).await
        });
        Some((pool, given.unwrap()))
    }

    #[test]
    fn an_abandoned_read_keeps_its_buffer_until_it_ends() {
        with_pending_read(async |pool, _, read, mut pipe| {
            drop(read);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(
                pool.free_buffers(),
                0,
                "the kernel may write to it any time"
            );
            pipe.write_all(&[7; 100]).unwrap();
            let (windows, _) = pool.take().await.carve(std::iter::once(4096));
            assert!(windows[0][..100] == [7; 100] && windows[0][100..] == [0; 3996]);
        });
    }

    #[test]
    fn a_ring_ends_after_its_reads() {
        let ended = with_pending_read(async |pool, _, read, pipe| {
            drop(read);
            assert_eq!(pool.free_buffers(), 0);
            pipe
        });
        if let Some((pool, mut pipe)) = ended {
            assert_eq!(pool.free_buffers(), 1);
            // The kernel has let go of the file, so the pipe has no reader any more.
            let error = pipe.write_all(&[7; 100]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_busy_core_submits_its_reads() {
        let ended = with_pending_read(async |_, reader, read, mut pipe| {
            pipe.write_all(&[7; 4096]).unwrap();
            // There is always a task that is ready to run: this one.
            let busy = async {
                for _ in 0..100_000 {
                    reader.yield_now().await;
                }
            };
            tokio::select! {
                (result, _) = read.finish() => Some(result.unwrap()),
                () = busy => None,
            }
        });
        if let Some((_, submitted)) = ended {
            assert_eq!(submitted, Some(4096));
        }
    }

    #[test]
    fn a_direct_read_that_would_wait_or_ends_early_goes_to_a_thread() {
        const BYTES: usize = 10 * DIRECT_ALIGN + 100;
        let pattern = |at: usize| (at * 7 / 3) as u8;
        let pool = Pool::for_direct_reads(3, 16 * DIRECT_ALIGN);
        let done = run(Backend::Epoll, async {
            let (reader, _) = Reader::new(Backend::Epoll, &pool).unwrap();
            // A pipe has no positions, which the thread finds out.
            let (file, _writing) = pipe();
            let read = reader.read_direct(&file, window(&pool, 4096), 0);
            let (result, window_back) = read.finish().await;
            let error = result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));
            assert!(window_back.is_some());

            let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let file = match open_direct(&file) {
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
            for (wanted, there) in [(BYTES, BYTES), (BYTES + 500, BYTES), (5000, 5000)] {
                let read = reader.read_direct(&file, window(&pool, wanted), 0);
                let (result, window) = read.finish().await;
                assert_eq!(result.unwrap(), there);
                assert!(window.unwrap()[..there] == bytes[..there]);
            }
        });
        done.unwrap();
        assert_eq!(pool.free_buffers(), 3);
    }
}
