//! The two backends: probing what the kernel allows, and the runtime that a core runs on.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use io_uring::opcode;

use crate::memory::limits::{RING_COMPLETIONS, RING_ENTRIES};

/// How often a ring that RLIMIT_MEMLOCK did not allow is tried again, and after which pause.
const RING_ATTEMPTS: usize = 10;
const RING_PAUSE: Duration = Duration::from_millis(20);

/// How a core reads files, and the runtime it has for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, through tokio-uring.
    Uring,
    /// Plain system calls and threads, on a tokio runtime.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
        })
    }
}

/// Tells whether the kernel allows a backend on this many cores.
///
/// # Errors
/// Why it does not, and what an operator can do.
pub fn probe(backend: Backend, cores: usize) -> Result<(), ProbeError> {
    match backend {
        Backend::Uring => probe_uring(cores),
        Backend::Epoll => Ok(()),
    }
}

/// Why a backend can't be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The system call is refused.
    #[error("io_uring_setup: {error}; {advice}")]
    Refused {
        /// The kernel's error.
        error: String,
        /// What an operator can do.
        advice: &'static str,
    },
    /// The kernel is too old for an operation that is needed.
    #[error("this kernel's io_uring has no {0}; Linux 5.19 or newer is needed")]
    Lacks(&'static str),
}

/// Runs one core's work on a runtime of its own, until the work is done.
///
/// # Errors
/// The kernel's, if it refuses the runtime.
pub fn run<F: Future>(backend: Backend, work: F) -> io::Result<F::Output> {
    match backend {
        Backend::Uring => run_on_uring(work),
        Backend::Epoll => run_on_epoll(work),
    }
}

fn run_on_epoll<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, work);
    Ok(output)
}

fn run_on_uring<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = set_up_ring(|ring| {
        let mut builder = tokio_uring::builder();
        tokio_uring::Runtime::new(builder.entries(RING_ENTRIES).uring_builder(ring))
    })
    .map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::ENOMEM) => "; raise RLIMIT_MEMLOCK (`ulimit -l`) or use --io epoll",
            _ => "",
        };
        io::Error::new(error.kind(), format!("io_uring_setup: {error}{advice}"))
    })?;
    Ok(runtime.block_on(work))
}

/// Sets up as many rings as there are cores, and asks the kernel for the operations that are used.
fn probe_uring(cores: usize) -> Result<(), ProbeError> {
    let refused = |error: io::Error| {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .is_ok_and(|value| value.trim() != "0");
        let advice = match error.raw_os_error() {
            Some(libc::EPERM) if disabled => "set it free with `sysctl kernel.io_uring_disabled=0`",
            Some(libc::EPERM) => {
                "a seccomp filter refuses it: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile"
            }
            Some(libc::ENOSYS) => "the kernel was built without it or is older than 5.1",
            Some(libc::ENOMEM) => "raise RLIMIT_MEMLOCK (`ulimit -l`)",
            _ => "see io_uring_setup(2)",
        };
        ProbeError::Refused {
            error: error.to_string(),
            advice,
        }
    };
    // As large and as many as the real ones, because their memory counts against RLIMIT_MEMLOCK, which is often
    // 64 KiB in containers.
    let rings: Vec<io_uring::IoUring> = (0..cores.max(1))
        .map(|_| set_up_ring(|ring| ring.build(RING_ENTRIES)))
        .collect::<Result<_, _>>()
        .map_err(refused)?;
    let mut probe = io_uring::Probe::new();
    rings[0]
        .submitter()
        .register_probe(&mut probe)
        .map_err(refused)?;
    for (code, name) in [
        (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED"),
        (opcode::Read::CODE, "IORING_OP_READ"),
    ] {
        if !probe.is_supported(code) {
            return Err(ProbeError::Lacks(name));
        }
    }
    Ok(())
}

/// Makes a ring with the flags that the kernel knows. COOP_TASKRUN (Linux 5.19) and SINGLE_ISSUER (6.0) let
/// completions wait for the next system call, so that they do not interrupt the core. DEFER_TASKRUN would keep them
/// until a call that tokio-uring, which waits by epoll, never makes.
fn set_up_ring<T>(make: impl Fn(&io_uring::Builder) -> io::Result<T>) -> io::Result<T> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(RING_COMPLETIONS).setup_clamp();
    let mut cooperative = ring.clone();
    cooperative.setup_coop_taskrun();
    let mut single_issuer = cooperative.clone();
    single_issuer.setup_single_issuer();
    for ring in [single_issuer, cooperative] {
        match retry_on_enomem(|| make(&ring)) {
            // The kernel does not know a flag.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    retry_on_enomem(|| make(&ring))
}

/// Tries again for a short time if RLIMIT_MEMLOCK seems to be used up. The kernel counts the rings of all processes
/// of a user, and gives a ring's memory back only some time after it was closed.
fn retry_on_enomem<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RING_ATTEMPTS {
        match make() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(RING_PAUSE);
            }
            result => return result,
        }
    }
    make()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn an_older_kernel_gets_fewer_flags() {
        for known in 0..3 {
            let asked = std::cell::Cell::new(0);
            let made = set_up_ring(|_| {
                asked.set(asked.get() + 1);
                match asked.get() < 3 - known {
                    true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                    false => Ok(()),
                }
            });
            assert!(made.is_ok());
            assert_eq!(asked.get(), 3 - known);
        }
        // Other errors end it at once.
        let asked = std::cell::Cell::new(0);
        let refused = set_up_ring(|_| {
            asked.set(asked.get() + 1);
            io::Result::<()>::Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(asked.get(), 1);
    }
}
