//! Reading files, on either backend.
//!
//! What the page cache has is copied at once. The rest is read through the ring (`uring`), or on threads of the file's
//! store (`thread`): where io_uring is refused, and files of file systems that can't read without waiting, which would
//! keep the ring's own threads. No read is waited for longer than the caller likes. One that is given up goes on in the
//! kernel, and keeps its window until it ends.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep, sleep_until};

use super::backend::Backend;
use super::pool::{Filled, Pool, Window};
use super::sys;
use super::threads::StoreFile;
use crate::memory::limits::STORE_LAST_LOOK;
use target::Target;
use uring::Uring;

mod target;
mod thread;
mod uring;

/// One core's way to read files.
pub(super) enum Reader {
    /// The ring of the core's runtime, and threads.
    Uring(Uring),
    /// Threads alone.
    Epoll,
}

impl Reader {
    /// Prepares the current runtime. The second value says why the pool could not be registered with the ring.
    pub(super) fn new(backend: Backend, pool: &Pool) -> io::Result<(Reader, Option<String>)> {
        match backend {
            Backend::Uring => {
                let (uring, refusal) = Uring::new(pool)?;
                Ok((Reader::Uring(uring), refusal))
            }
            Backend::Epoll => Ok((Reader::Epoll, None)),
        }
    }

    /// Lets other tasks run, submits the reads that were started, and wakes the tasks that wait for a finished one.
    pub(super) async fn yield_now(&self) {
        match self {
            Reader::Uring(uring) => uring.yield_now().await,
            Reader::Epoll => tokio::task::yield_now().await,
        }
    }

    /// Submits the reads that were started, if there are any.
    pub(super) async fn submit(&self) {
        if let Reader::Uring(uring) = self {
            uring.submit().await;
        }
    }

    /// Starts filling `window` from `offset` of `file`.
    pub(super) fn read(
        &self,
        file: &Arc<StoreFile>,
        mut window: Window,
        offset: u64,
    ) -> PendingRead<'_> {
        // Cached bytes cost less this way than through the ring (CPU per GB of a healthy GET, 32 connections: 0.20 s
        // in place of 0.26). A short count means that the rest is on disk, or past the file's end.
        let filled = match file.is_nowait() {
            true => sys::read_cached_at(file.as_fd(), &mut window, offset).unwrap_or(0),
            false => 0,
        };
        if filled == window.len() {
            return PendingRead {
                state: State::Ended(Ok(filled), Some(window)),
                started: None,
                waited: None,
            };
        }
        let target = Target {
            window,
            filled,
            padded: false,
        };
        self.read_rest(Arc::clone(file), target, offset)
    }

    /// Starts filling `window` from `offset` of a file that is open for direct reads.
    pub(super) fn read_direct(
        &self,
        file: &Arc<StoreFile>,
        window: Window,
        offset: u64,
    ) -> PendingRead<'_> {
        let target = Target {
            window,
            filled: 0,
            padded: true,
        };
        self.read_rest(Arc::clone(file), target, offset)
    }

    fn read_rest(&self, file: Arc<StoreFile>, target: Target, offset: u64) -> PendingRead<'_> {
        let buffer = target.window.filled();
        let state = match self {
            Reader::Uring(uring) if file.is_nowait() => {
                let operation = uring.read(file, target, offset);
                State::Uring(uring, operation, offset, buffer)
            }
            _ => match thread::read(file, target, offset) {
                Ok(read) => State::Thread(read, buffer),
                Err((refused, window)) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, refused);
                    State::Ended(Err(error), Some(window))
                }
            },
        };
        PendingRead {
            state,
            started: Some(Instant::now()),
            waited: None,
        }
    }
}

/// A read that was started. [`join`] waits for it, [`PendingRead::end`] tells what came of it.
pub struct PendingRead<'a> {
    state: State<'a>,
    /// `None` if there was nothing to wait for.
    started: Option<Instant>,
    /// How long it took, once it has ended.
    waited: Option<Duration>,
}

/// The read in flight, and its offset in the file where it may have to be continued.
enum State<'a> {
    Ended(io::Result<usize>, Option<Window>),
    Uring(&'a Uring, uring::InFlight<uring::ReadData>, u64, Filled),
    Thread(thread::InFlight, Filled),
}

/// What came of a read.
pub enum ReadEnd {
    /// It ended: how many bytes it brought, or why it failed.
    Ended {
        /// The count is less than the window's length only if the file ended.
        result: io::Result<usize>,
        /// The window.
        window: Window,
        /// How long it took; `None` if the bytes were in the page cache.
        waited: Option<Duration>,
    },
    /// It was given up.
    GivenUp(GivenUp),
    /// The runtime is going down.
    Interrupted,
}

/// Ends when a read does.
type Rest = Pin<Box<dyn Future<Output = ()>>>;

/// A read that was given up and goes on in the kernel, or never began.
pub struct GivenUp {
    rest: Option<(Rest, Filled)>,
}

impl GivenUp {
    /// Keeps `guard` until the read has ended, if it is under way. Its buffer is replaced from the pool's reserve.
    pub fn keep(self, guard: impl Sized + 'static) {
        if let Some((rest, buffer)) = self.rest {
            buffer.note_hung();
            tokio::task::spawn_local(async move {
                rest.await;
                drop(guard);
            });
        }
    }
}

impl<'a> AsMut<PendingRead<'a>> for PendingRead<'a> {
    fn as_mut(&mut self) -> &mut PendingRead<'a> {
        self
    }
}

/// Waits until all of these reads have ended, but for none longer than `within`.
pub async fn join<'a, R: AsMut<PendingRead<'a>>>(reads: &mut [R], within: Duration) {
    let waiting = |read: &mut R| {
        let read = read.as_mut();
        read.started.filter(|_| !read.has_ended())
    };
    let Some(started) = reads.iter_mut().filter_map(waiting).max() else {
        return;
    };
    let alarm = pin!(sleep_until((started + within).into()));
    if !ended_before(reads, alarm).await {
        // This core may have been busy when they ended.
        ended_before(reads, pin!(sleep(STORE_LAST_LOOK))).await;
    }
}

/// Whether all of them ended before the alarm.
async fn ended_before<'a, R: AsMut<PendingRead<'a>>>(
    reads: &mut [R],
    mut alarm: Pin<&mut Sleep>,
) -> bool {
    poll_fn(|context| {
        let mut all = true;
        for read in reads.iter_mut() {
            all &= read.as_mut().poll(context).is_ready();
        }
        match all {
            true => Poll::Ready(true),
            false => alarm.as_mut().poll(context).map(|()| false),
        }
    })
    .await
}

impl PendingRead<'_> {
    /// Whether it has ended, as far as was seen.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(..))
    }

    /// What came of it. A read that has not ended is given up.
    pub fn end(self) -> ReadEnd {
        match self.state {
            State::Ended(result, Some(window)) => ReadEnd::Ended {
                result,
                window,
                waited: self.waited,
            },
            State::Ended(_, None) => ReadEnd::Interrupted,
            State::Uring(_, operation, _, buffer) => {
                let rest = Box::pin(async move { drop(operation.await) });
                ReadEnd::GivenUp(GivenUp {
                    rest: Some((rest, buffer)),
                })
            }
            State::Thread(read, buffer) => {
                let rest = read.give_up().map(|answer| -> (Rest, _) {
                    (Box::pin(async move { drop(answer.await) }), buffer)
                });
                ReadEnd::GivenUp(GivenUp { rest })
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (result, window) = loop {
            match &mut self.state {
                State::Ended(..) => return Poll::Ready(()),
                State::Thread(read, _) => match read.poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok((result, window))) => break (result, Some(window)),
                    Poll::Ready(Err(gone)) => break (Err(io::Error::other(gone)), None),
                },
                State::Uring(uring, operation, offset, _) => {
                    let Poll::Ready((result, (mut target, file, _))) =
                        Pin::new(&mut *operation).poll(context)
                    else {
                        return Poll::Pending;
                    };
                    // A short read is continued until a read brings nothing.
                    match result {
                        Ok(0) => break (Ok(target.filled_bytes()), Some(target.window)),
                        Ok(count) => target.filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => break (Err(error), Some(target.window)),
                    }
                    if target.is_done() {
                        break (Ok(target.filled_bytes()), Some(target.window));
                    }
                    *operation = uring.read(file, target, *offset);
                }
            }
        };
        self.waited = self.started.map(|started| started.elapsed());
        self.state = State::Ended(result, window);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{PipeWriter, Write};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::io::backend::{probe, run};
    use crate::io::threads::{StoreThreads, open_direct};
    use crate::memory::limits::{DIRECT_ALIGN, STORE_READ_THREADS_MAX};

    fn window(pool: &Pool, bytes: usize) -> Window {
        let buffer = pool.try_take().unwrap();
        buffer.carve(std::iter::once(bytes)).0.remove(0)
    }

    /// A pipe as a file: reading it lasts until something is written.
    fn pipe() -> (Arc<StoreFile>, PipeWriter) {
        let (reading, writing) = io::pipe().unwrap();
        (store_file(File::from(OwnedFd::from(reading))), writing)
    }

    fn store_file(file: File) -> Arc<StoreFile> {
        Arc::new(StoreFile::new(file, &StoreThreads::new(0, 1)))
    }

    /// Waits for a read as long as it takes.
    async fn finish(read: PendingRead<'_>) -> (io::Result<usize>, Window) {
        let mut read = [read];
        join(&mut read, Duration::from_secs(60)).await;
        let [read] = read;
        match read.end() {
            ReadEnd::Ended { result, window, .. } => (result, window),
            _ => panic!("it did not end"),
        }
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
        let pool = Pool::with_reserve(1, 1, 16 << 10, |_| true);
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
            // The kernel has let go of the file, so the pipe has no reader any more once a thread has closed it.
            let error = loop {
                if let Err(error) = pipe.write_all(&[7; 100]) {
                    break error;
                }
            };
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
                (result, _) = finish(read) => Some(result.unwrap()),
                () = busy => None,
            }
        });
        if let Some((_, submitted)) = ended {
            assert_eq!(submitted, Some(4096));
        }
    }

    /// Gives a read up after a moment, and keeps the guard until it has ended.
    async fn give_up(read: PendingRead<'_>, guard: &Arc<()>) {
        let mut reads = [read];
        join(&mut reads, Duration::from_millis(1)).await;
        let [read] = reads;
        match read.end() {
            ReadEnd::GivenUp(read) => read.keep(Arc::clone(guard)),
            _ => panic!("there is nothing to read"),
        }
    }

    #[test]
    fn a_buffer_of_the_reserve_takes_the_place_of_one_that_hangs() {
        with_pending_read(async |pool, _, read, mut pipe| {
            let guard = Arc::new(());
            give_up(read, &guard).await;
            assert_eq!((pool.free_buffers(), pool.hung_buffers()), (1, 1));
            assert_eq!(Arc::strong_count(&guard), 2);
            pipe.write_all(&[7; 4096]).unwrap();
            while Arc::strong_count(&guard) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!((pool.free_buffers(), pool.hung_buffers()), (1, 0));
        });
    }

    #[test]
    fn a_read_that_no_thread_has_begun_gives_its_buffer_back() {
        let pool = Pool::with_reserve(1, 1, 16 << 10, |_| true);
        let done = run(Backend::Epoll, async {
            let (reader, _) = Reader::new(Backend::Epoll, &pool).unwrap();
            let threads = StoreThreads::new(0, 1);
            let (release, hang) = std::sync::mpsc::channel::<()>();
            let hang = Arc::new(std::sync::Mutex::new(hang));
            for _ in 0..STORE_READ_THREADS_MAX {
                let hang = Arc::clone(&hang);
                let job = move || hang.lock().unwrap().recv().unwrap_or_default();
                threads.reads.submit(job).unwrap();
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; 4096]).unwrap();
            let file = Arc::new(StoreFile::new(file, &threads));
            let read = || reader.read_direct(&file, window(&pool, 4096), 0);
            let guard = Arc::new(());
            give_up(read(), &guard).await;
            assert_eq!((pool.free_buffers(), pool.hung_buffers()), (1, 0));
            assert_eq!(Arc::strong_count(&guard), 1);
            drop(release);
            assert_eq!(finish(read()).await.0.unwrap(), 4096);
        });
        done.unwrap();
    }

    #[test]
    fn threads_read_to_the_end_of_a_file() {
        const BYTES: usize = 10 * DIRECT_ALIGN + 100;
        let pattern = |at: usize| (at * 7 / 3) as u8;
        let pool = Pool::for_direct_reads(3, 16 * DIRECT_ALIGN);
        let done = run(Backend::Epoll, async {
            let (reader, _) = Reader::new(Backend::Epoll, &pool).unwrap();
            // A pipe has no positions, which the thread finds out.
            let (file, _writing) = pipe();
            let read = reader.read_direct(&file, window(&pool, 4096), 0);
            let error = finish(read).await.0.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));

            let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.sync_all().unwrap();
            let file = store_file(file);
            let file = match open_direct(&file) {
                Ok(direct) => Arc::new(direct),
                Err(error) => {
                    println!("skipped: O_DIRECT: {error}");
                    file
                }
            };
            for (wanted, there) in [(BYTES, BYTES), (BYTES + 500, BYTES), (5000, 5000)] {
                let read = reader.read_direct(&file, window(&pool, wanted), 0);
                let (result, window) = finish(read).await;
                assert_eq!(result.unwrap(), there);
                assert!(window[..there] == bytes[..there]);
            }
        });
        done.unwrap();
        assert_eq!(pool.free_buffers(), 3);
    }
}
