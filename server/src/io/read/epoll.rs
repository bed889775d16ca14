//! The epoll twin: for hosts where io_uring is refused. What is not in the page cache is read on the
//! runtime's helper threads, so that a slow disk stalls one connection and not the core; direct reads have
//! [another way](super::aio), where there is one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::target::Target;
use crate::io::pool::Window;

/// A read under way on a helper thread.
pub(in crate::io) type InFlight = JoinHandle<(io::Result<usize>, Window)>;

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
