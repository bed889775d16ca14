//! Listeners that this process was started with, by the protocol of systemd (sd_listen_fds(3)).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether they were taken. There is one set of them for the process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The descriptors, each with the name that the service manager gives it. The second time there are none.
///
/// # Errors
/// If the environment (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`) names descriptors that are not there.
pub fn take_inherited() -> io::Result<Vec<(OwnedFd, String)>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // This marks each of them as close-on-exec, so each of them is open.
    let inherited = sd_notify::listen_fds_with_names()?;
    Ok(inherited
        .map(|(descriptor, name)| {
            // SAFETY: it is open, and given to this process by its number, so nothing else here owns it: what this process
            // opened itself has other numbers. It is taken once.
            (unsafe { OwnedFd::from_raw_fd(descriptor) }, name)
        })
        .collect())
}
