//! Helper threads of a store, for calls that may block: opening, listing, reading, closing.
//!
//! A store that hangs keeps its own few threads and nothing else. A job never waits for a place: either it is queued or
//! it is refused. Threads start when there is work for them. One that hangs is kept, since nothing can end it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::sys;
use crate::memory::limits::{STORE_QUEUE_MAX, STORE_READ_THREADS_MAX};

/// The stack of each thread. A limit on address space (RLIMIT_DATA) counts all of it, used or not.
const STACK_BYTES: usize = 256 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// So many wait that this one would come too late.
    #[error("too much waits for the store")]
    Busy,
    /// There is no thread, and none can be started.
    #[error("no thread can be started for the store")]
    NoThread,
}

/// A group of threads with one queue.
pub struct Threads(Arc<Inner>);

struct Inner {
    name: String,
    threads_max: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that are there.
    threads: usize,
    /// Those of them that wait for a job.
    idle: usize,
    /// Jobs that were done.
    done: u64,
    /// Nobody gives jobs any more.
    closed: bool,
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.queue();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A job that panics is a mistake of this program, told by the panic. Who asked sees that no answer comes.
                let _ = catch_unwind(AssertUnwindSafe(job));
                queue = self.queue();
                queue.done += 1;
            }
            if queue.closed {
                queue.threads -= 1;
                return;
            }
            queue.idle += 1;
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl Threads {
    /// None yet, `threads_max` at most.
    pub fn new(name: String, threads_max: usize) -> Threads {
        Threads(Arc::new(Inner {
            name,
            threads_max,
            queue: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Queues a job.
    ///
    /// # Errors
    /// If it can't be done soon, or at all. The job is dropped then.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refused> {
        self.push(Box::new(job), STORE_QUEUE_MAX)
    }

    fn push(&self, job: Job, jobs_max: usize) -> Result<(), Refused> {
        let mut queue = self.0.queue();
        if queue.jobs.len() >= jobs_max {
            return Err(Refused::Busy);
        }
        if queue.idle <= queue.jobs.len() && queue.threads < self.0.threads_max {
            let inner = Arc::clone(&self.0);
            let started = std::thread::Builder::new()
                .name(self.0.name.clone())
                .stack_size(STACK_BYTES)
                .spawn(move || inner.run());
            match started {
                Ok(_) => queue.threads += 1,
                // Those that are there do it.
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    tracing::warn!(threads = self.0.name, %error, "no thread can be started");
                    return Err(Refused::NoThread);
                }
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Queues a job whose result is wanted here. It is not done if nobody wants the result any more when its turn comes.
    ///
    /// # Errors
    /// As [`Threads::submit`].
    pub fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.submit(move || {
            if !reply.is_closed() {
                // Who asked may have gone meanwhile.
                let _ = reply.send(job());
            }
        })?;
        Ok(answer)
    }

    /// Closes a file, which may block (close(2)). These jobs have no limit of their own: they are as few as files were
    /// open.
    fn close(&self, file: File) {
        // Without any thread the file was not opened by one either.
        let _ = self.push(Box::new(move || drop(file)), usize::MAX);
    }

    /// Jobs that were done so far: while it grows, nothing hangs.
    pub fn done(&self) -> u64 {
        self.0.queue().done
    }

    /// Threads that are there.
    pub fn count(&self) -> usize {
        self.0.queue().threads
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.changed.notify_all();
    }
}

/// The helper threads of one store.
pub struct StoreThreads {
    /// They look things up: open, list, stat, and close.
    pub looks: Threads,
    /// They read files that a core can't read itself.
    pub reads: Threads,
    /// Whether the store is known to wait for nothing but a disk.
    is_local: AtomicBool,
}

impl StoreThreads {
    /// None yet, and `looks_max` at most that look things up. Thread names tell the store's number.
    pub fn new(store: usize, looks_max: usize) -> Arc<StoreThreads> {
        Arc::new(StoreThreads {
            looks: Threads::new(format!("look-{store}"), looks_max),
            reads: Threads::new(format!("read-{store}"), STORE_READ_THREADS_MAX),
            is_local: AtomicBool::new(false),
        })
    }

    /// Notes whether the store's file system is known to be local, even if it can't read without waiting.
    pub fn set_local(&self, is_local: bool) {
        self.is_local.store(is_local, Ordering::Relaxed);
    }

    /// Closes a file on a thread, since that may block.
    pub fn close(&self, file: File) {
        self.looks.close(file);
    }
}

/// An open file of a store. The store's threads close it when it is dropped, and read it where the kernel can't read it
/// without waiting.
pub struct StoreFile {
    /// Taken when it is dropped.
    file: Option<File>,
    threads: Arc<StoreThreads>,
    nowait: bool,
}

impl StoreFile {
    /// Takes care of a file. Asks the kernel whether it can be read without waiting, which costs no reading.
    pub fn new(file: File, threads: &Arc<StoreThreads>) -> StoreFile {
        // An empty read finds out nothing, so it is one byte. Any answer but "not supported" is one of a file system
        // that can tell.
        let asked = sys::read_cached_at(file.as_fd(), &mut [0], 0);
        let refused = asked.is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP));
        let nowait = !refused || threads.is_local.load(Ordering::Relaxed);
        StoreFile {
            file: Some(file),
            threads: Arc::clone(threads),
            nowait,
        }
    }

    /// Whether the kernel reads it, opens it again and splices from it without waiting for anything but a disk: not so
    /// on network file systems and those of user space, where a core might wait for a server that is gone.
    pub fn is_nowait(&self) -> bool {
        self.nowait
    }

    /// The threads of its store.
    pub(super) fn threads(&self) -> &Arc<StoreThreads> {
        &self.threads
    }
}

impl Deref for StoreFile {
    type Target = File;
    fn deref(&self) -> &File {
        self.file.as_ref().expect("only dropping takes it")
    }
}

impl AsFd for StoreFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl AsRawFd for StoreFile {
    fn as_raw_fd(&self) -> RawFd {
        (**self).as_raw_fd()
    }
}

impl Drop for StoreFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.threads.close(file);
        }
    }
}

/// Opens a file once more, for direct reads past the page cache (`O_DIRECT`, open(2)).
///
/// # Errors
/// If its file system has no direct reads, or there is no `/proc`.
pub fn open_direct(file: &StoreFile) -> io::Result<StoreFile> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // The same file, whatever its name refers to by now.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(again)?;
    Ok(StoreFile {
        file: Some(direct),
        threads: Arc::clone(&file.threads),
        nowait: file.nowait,
    })
}

/// The same on a thread of the file's store, if it may have to wait for more than a disk.
///
/// # Errors
/// If the store's threads are busy.
pub fn start_open_direct(
    file: &Arc<StoreFile>,
) -> Result<oneshot::Receiver<io::Result<StoreFile>>, Refused> {
    let again = Arc::clone(file);
    file.threads.looks.ask(move || open_direct(&again))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_hung_job_keeps_one_thread_and_the_others_go_on() {
        let threads = Threads::new("test".to_owned(), 2);
        let (release, hang) = channel::<()>();
        let job = move || hang.recv().unwrap_or_default();
        threads.submit(job).unwrap();
        for round in 0..100 {
            let (done, seen) = channel();
            threads.submit(move || done.send(round).unwrap()).unwrap();
            assert_eq!(seen.recv().unwrap(), round);
        }
        assert_eq!(threads.count(), 2);
        drop(release);
    }

    #[test]
    fn jobs_beyond_the_queue_are_refused_and_those_that_nobody_wants_are_skipped() {
        let threads = Threads::new("test".to_owned(), 1);
        let (release, hang) = channel::<()>();
        let (begun, begins) = channel();
        threads
            .submit(move || {
                begun.send(()).unwrap();
                hang.recv().unwrap_or_default();
            })
            .unwrap();
        begins.recv().unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut answers = Vec::new();
        for job in 0..STORE_QUEUE_MAX {
            let done = Arc::clone(&done);
            let answer = threads.ask(move || done.lock().unwrap().push(job)).unwrap();
            answers.push(Some(answer));
        }
        assert_eq!(threads.submit(|| ()), Err(Refused::Busy));
        // Files are closed all the same.
        threads.close(tempfile::tempfile().unwrap());
        for gone in answers.iter_mut().step_by(2) {
            *gone = None;
        }
        drop(release);
        for answer in answers.into_iter().flatten() {
            answer.blocking_recv().unwrap();
        }
        let done = done.lock().unwrap();
        let odd = (0..STORE_QUEUE_MAX).filter(|job| job % 2 == 1);
        assert!(done.iter().copied().eq(odd), "{done:?}");
        assert_eq!(threads.count(), 1);
    }

    #[test]
    fn threads_end_when_nobody_needs_them() {
        let threads = Threads::new("test".to_owned(), 3);
        threads.submit(|| ()).unwrap();
        let inner = Arc::downgrade(&threads.0);
        drop(threads);
        while inner.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}
