//! The epoll twin: for hosts where io_uring is refused. What is not in the page cache is read on the
//! runtime's helper threads, so that a slow disk stalls one connection and not the core; direct reads have
//! [another way](super::aio), where there is one.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Target;
use super::aio::Aio;
use crate::io::pool::Window;

/// Helper threads for reads that must wait for a disk, per core.
const READ_THREADS_MAX: usize = 16;
/// The stack of each; files are looked up there too. It counts as a whole where address space is bounded
/// (RLIMIT_DATA), used or not, and the usual 2 MiB of sixteen threads would be a good part of a small bound.
const READ_STACK_BYTES: usize = 512 * 1024;

/// A read under way on a helper thread.
pub(in crate::io) type InFlight = JoinHandle<(io::Result<usize>, Window)>;

/// What reads past the page cache without helper threads; `None` where the kernel has no such thing for us.
pub(in crate::io) fn direct_reads() -> Option<Aio> {
    Aio::new()
        .inspect_err(|error| {
            tracing::info!(%error, "no io_setup: what is read ahead is read on helper threads");
        })
        .ok()
}

/// Starts filling the rest of `target`, whose start is `offset` of `file`.
pub(in crate::io) fn read(file: Arc<File>, mut target: Target, offset: u64) -> InFlight {
    tokio::task::spawn_blocking(move || {
        let result = read_whole(&file, &mut target, offset);
        (result, target.window)
    })
}

/// Reads until all that is wanted is there or the file ends.
fn read_whole(file: &File, target: &mut Target, offset: u64) -> io::Result<usize> {
    while !target.is_done() {
        let at = offset + target.filled as u64;
        match file.read_at(target.rest(), at) {
            Ok(0) => break,
            Ok(count) => target.filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(target.wanted())
}

/// Runs a core's work on a runtime of its own, until it is done.
pub(in crate::io) fn run<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READ_THREADS_MAX)
        .thread_stack_size(READ_STACK_BYTES)
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A read that hangs on a dead disk must not keep the process, as far as the kernel lets that be.
    runtime.shutdown_background();
    Ok(output)
}
