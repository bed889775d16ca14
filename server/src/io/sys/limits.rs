//! Resource limits and priorities of the process.
#![allow(unsafe_code)]

use std::io;

use rustix::process::{Rlimit, geteuid, getrlimit, setrlimit};

use super::check::check;

/// A resource with a limit that matters here (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    Descriptors,
    /// Bytes of locked memory, to which registered buffers are charged.
    LockedMemory,
}

impl Resource {
    fn id(self) -> rustix::process::Resource {
        match self {
            Resource::Descriptors => rustix::process::Resource::Nofile,
            Resource::LockedMemory => rustix::process::Resource::Memlock,
        }
    }
}

/// The soft and the hard limit. `u64::MAX` means that there is none.
pub fn resource_limit(resource: Resource) -> (u64, u64) {
    let Rlimit { current, maximum } = getrlimit(resource.id());
    (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX))
}

/// Raises the soft limit to the hard one, and returns it.
///
/// # Errors
/// The kernel's.
pub fn raise_resource_limit(resource: Resource) -> io::Result<u64> {
    let (soft, hard) = resource_limit(resource);
    if soft < hard {
        let maximum = getrlimit(resource.id()).maximum;
        let current = maximum;
        setrlimit(resource.id(), Rlimit { current, maximum })?;
    }
    Ok(hard)
}

/// Whether limits on locked memory and socket buffers don't bind this process, because its effective user is root.
/// (`CAP_IPC_LOCK` and `CAP_NET_ADMIN` do the same for other users, who then see a warning too many.)
pub fn may_lock_memory() -> bool {
    geteuid().is_root()
}

// linux/ioprio.h, which libc does not have.
const IOPRIO_WHO_PROCESS: libc::c_long = 1;
const IOPRIO_CLASS_IDLE: libc::c_long = 3;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// Has disks serve this thread, and those that it starts from now on, when nobody else wants anything of them (the idle
/// class, ioprio_set(2)). Not every I/O scheduler heeds it.
///
/// # Errors
/// The kernel's.
pub fn idle_io_priority() -> io::Result<()> {
    let priority = IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT;
    // SAFETY: the call has no pointers. 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    check(set).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_class() -> libc::c_long {
        // SAFETY: the call has no pointers. 0 is the calling thread.
        let got = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
        check(got).unwrap() >> IOPRIO_CLASS_SHIFT
    }

    #[test]
    fn a_thread_and_those_that_it_starts_are_idle_and_others_are_not() {
        let idle = std::thread::spawn(|| {
            idle_io_priority().unwrap();
            let started = std::thread::spawn(io_class);
            (io_class(), started.join().unwrap())
        });
        assert_eq!(idle.join().unwrap(), (3, 3));
        assert_ne!(io_class(), 3);
    }
}
