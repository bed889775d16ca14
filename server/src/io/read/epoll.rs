//! Reads on the runtime's helper threads, for hosts that refuse io_uring: a slow disk then stalls one connection and
//! not the core. Direct reads need [no threads](super::aio) where the kernel has `io_submit`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::target::Target;
use crate::io::pool::Window;

/// A read in flight on a helper thread.
pub(super) type InFlight = JoinHandle<(io::Result<usize>, Window)>;

/// Starts filling the rest of `target`, whose first byte is at `offset` of `file`.
pub(super) fn read(file: Arc<File>, mut target: Target, offset: u64) -> InFlight {
    tokio::task::spawn_blocking(move || {
        let result = read_to_end(&file, &mut target, offset);
        (result, target.window)
    })
}

/// Reads until the target is filled or the file ends.
fn read_to_end(file: &File, target: &mut Target, offset: u64) -> io::Result<usize> {
    while !target.is_done() {
        let at = offset + target.filled as u64;
        match file.read_at(target.rest(), at) {
            Ok(0) => break,
            Ok(count) => target.filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(target.filled_bytes())
}
