//! How the cores talk to the kernel: what the operator asks for, and what this machine allows.

use crate::config::values::{BackendChoice, ZeroCopyMode};
use crate::io::{self, Backend, ProbeError};

/// Chooses the I/O backend. The kernel is asked before anything depends on the answer. With
/// [`Auto`](BackendChoice::Auto), the second value says why io_uring is not used.
pub fn choose_io(
    choice: BackendChoice,
    cores: usize,
) -> Result<(Backend, Option<ProbeError>), ProbeError> {
    match choice {
        BackendChoice::Epoll => Ok((Backend::Epoll, None)),
        BackendChoice::Uring => io::probe_uring(cores).map(|()| (Backend::Uring, None)),
        BackendChoice::Auto => Ok(match io::probe_uring(cores) {
            Ok(()) => (Backend::Uring, None),
            Err(error) => (Backend::Epoll, Some(error)),
        }),
    }
}

/// Chooses when pieces are sent zero-copy. If this machine can't do it, that is never, and the second value says
/// why. With [`Always`](ZeroCopyMode::Always) that is the error.
pub fn choose_zero_copy(
    mode: ZeroCopyMode,
    backend: Backend,
) -> Result<(ZeroCopyMode, Option<String>), String> {
    let possible = match (mode, backend) {
        (ZeroCopyMode::Off, _) => return Ok((mode, None)),
        (_, Backend::Epoll) => Err("it takes io_uring, which is not used".to_owned()),
        (_, Backend::Uring) => io::zero_copy::probe(),
    };
    match possible {
        Ok(()) => Ok((mode, None)),
        Err(why) if mode == ZeroCopyMode::Always => Err(why),
        Err(why) => Ok((ZeroCopyMode::Off, Some(why))),
    }
}
