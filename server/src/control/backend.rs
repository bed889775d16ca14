//! How the cores talk to the kernel: what the operator asks for, and what this machine allows.

use super::error::ServeError;
use crate::config::Settings;
use crate::config::values::{BackendChoice, ZeroCopyMode};
use crate::io::{self, Backend, ProbeError};

/// What was chosen, and why it is less than was tried.
#[derive(Clone, Debug)]
pub struct Backends {
    /// How the cores talk to the kernel.
    pub io: Backend,
    /// Why that isn't io_uring, if it was tried.
    pub why_not_uring: Option<String>,
    /// When pieces are sent zero-copy.
    pub zero_copy: ZeroCopyMode,
    /// Why that is never, if it was tried.
    pub why_not_zero_copy: Option<String>,
}

impl Backends {
    /// Chooses what the settings ask for, and logs it.
    pub fn choose(settings: &Settings) -> Result<Backends, ServeError> {
        let (io, why_not_uring) =
            choose_io(settings.io, settings.cores).map_err(ServeError::Backend)?;
        match &why_not_uring {
            None => tracing::info!(backend = %io, "I/O backend"),
            Some(error) => {
                tracing::warn!(backend = %io, "io_uring can't be used, epoll takes its place: {error}")
            }
        }
        let (zero_copy, why_not_zero_copy) =
            choose_zero_copy(settings.zero_copy, io).map_err(ServeError::ZeroCopy)?;
        if let Some(why) = &why_not_zero_copy {
            tracing::info!("no zero-copy sends: {why}");
        }
        Ok(Backends {
            io,
            why_not_uring: why_not_uring.map(|error| error.to_string()),
            zero_copy,
            why_not_zero_copy,
        })
    }
}

/// Chooses the I/O backend. The kernel is asked before anything depends on the answer. With
/// [`Auto`](BackendChoice::Auto), the second value says why io_uring is not used.
pub fn choose_io(
    choice: BackendChoice,
    cores: usize,
) -> Result<(Backend, Option<ProbeError>), ProbeError> {
    match choice {
        BackendChoice::Epoll => Ok((Backend::Epoll, None)),
        BackendChoice::Uring => io::probe(Backend::Uring, cores).map(|()| (Backend::Uring, None)),
        BackendChoice::Auto => Ok(match io::probe(Backend::Uring, cores) {
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
        (_, Backend::Uring) => io::probe_zero_copy(),
    };
    match possible {
        Ok(()) => Ok((mode, None)),
        Err(why) if mode == ZeroCopyMode::Always => Err(why),
        Err(why) => Ok((ZeroCopyMode::Off, Some(why))),
    }
}
