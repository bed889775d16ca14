//! The results of system calls.

use std::io;

/// Turns a negative result into the error of the call.
pub(super) fn check<T: Default + PartialOrd>(result: T) -> io::Result<T> {
    if result < T::default() {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
