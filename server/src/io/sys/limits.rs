//! Resource limits of the process.

use std::io;

use rustix::process::{Rlimit, geteuid, getrlimit, setrlimit};

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
