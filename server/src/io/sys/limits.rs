//! What a process may have.
#![allow(unsafe_code)]

use std::io;

use super::check;

/// A resource whose limit matters to us (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    Descriptors,
    /// Bytes of locked memory, which registered buffers are charged to.
    LockedMemory,
}

impl Resource {
    fn id(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::Descriptors => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// The soft and the hard limit; `u64::MAX` is none.
pub fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit through the pointer, which is valid for that.
    check(unsafe { libc::getrlimit(resource.id(), &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Raises the soft limit to the hard one and returns it.
pub fn raise_limit(resource: Resource) -> io::Result<u64> {
    let (soft, hard) = limit(resource)?;
    if soft < hard {
        let limit = libc::rlimit {
            rlim_cur: hard,
            rlim_max: hard,
        };
        // SAFETY: the rlimit lives through the call, which only reads it.
        check(unsafe { libc::setrlimit(resource.id(), &limit) })?;
    }
    Ok(hard)
}

/// Whether limits on locked memory and socket buffers don't bind this process: its effective user is
/// root. (`CAP_IPC_LOCK` and `CAP_NET_ADMIN` could be had otherwise; then a warning is one too many.)
pub fn may_lock_memory() -> bool {
    // SAFETY: geteuid has no arguments and can't fail.
    unsafe { libc::geteuid() == 0 }
}
