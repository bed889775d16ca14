//! The two backends: which the kernel allows, and the runtime that a core has on each.

use std::fmt;
use std::future::Future;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use io_uring::opcode;

use crate::memory::limits::{RING_COMPLETIONS, RING_ENTRIES};

/// Helper threads for reads that must wait for a disk, per core.
const READ_THREADS_MAX: usize = 16;
/// The stack of each; files are looked up there too. It counts as a whole where address space is bounded
/// (RLIMIT_DATA), used or not, and the usual 2 MiB of sixteen threads would be a good part of a small bound.
const READ_STACK_BYTES: usize = 512 * 1024;

/// How often a ring is tried again that RLIMIT_MEMLOCK did not allow, and after which pause.
const RING_ATTEMPTS: usize = 10;
const RING_PAUSE: Duration = Duration::from_millis(20);

/// How a core talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, through tokio-uring.
    Uring,
    /// Readiness by epoll and plain system calls.
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

/// Runs one core's work on a runtime of its own.
pub fn run<F: Future>(backend: Backend, work: F) -> io::Result<F::Output> {
    match backend {
        Backend::Uring => run_on_uring(work),
        Backend::Epoll => run_on_epoll(work),
    }
}

/// Runs a core's work on a runtime of its own, until it is done.
fn run_on_epoll<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READ_THREADS_MAX)
        .thread_stack_size(READ_STACK_BYTES)
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A read that hangs on a dead disk must not keep the process, as far as the kernel lets that be.
    runtime.shutdown_background();
    Ok(output)
}

/// Runs a core's work on a ring of its own, until it is done.
fn run_on_uring<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = set_up(|ring| {
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

/// Makes a ring, with the flags that its kernel knows: COOP_TASKRUN (Linux 5.19) and SINGLE_ISSUER (6.0), with which
/// completions wait for the next system call in place of interrupting the core. DEFER_TASKRUN would keep them
/// until a call that tokio-uring never makes, as it waits by epoll.
fn set_up<T>(make: impl Fn(&io_uring::Builder) -> io::Result<T>) -> io::Result<T> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(RING_COMPLETIONS).setup_clamp();
    let mut cooperative = ring.clone();
    cooperative.setup_coop_taskrun();
    let mut alone = cooperative.clone();
    alone.setup_single_issuer();
    for ring in [alone, cooperative] {
        match patiently(|| make(&ring)) {
            // A flag that this kernel doesn't know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    patiently(|| make(&ring))
}

/// Tries again for a short time when RLIMIT_MEMLOCK seems to be used up: the kernel counts the rings of
/// all processes of a user, and gives a ring's memory back only some time after it was closed.
fn patiently<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
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

/// Why io_uring can't be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The system call is refused.
    #[error("io_uring_setup: {error}; {advice}")]
    Refused {
        /// The kernel's word.
        error: String,
        /// What an operator can do.
        advice: &'static str,
    },
    /// The kernel is too old for an operation that we need.
    #[error("this kernel's io_uring has no {0}; Linux 5.19 or newer is needed")]
    Lacks(&'static str),
}

/// Tries to set up as many rings as there will be cores and asks it for the operations that we use.
pub(super) fn probe(cores: usize) -> Result<(), ProbeError> {
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
    // As large and as many as the real ones: their memory counts against RLIMIT_MEMLOCK, of which containers
    // often have 64 KiB.
    let rings: Vec<io_uring::IoUring> = (0..cores.max(1))
        .map(|_| set_up(|ring| ring.build(RING_ENTRIES)))
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

/// What the operator asks for (`--io`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring where the kernel lets us, else epoll.
    #[default]
    Auto,
    /// This one or none.
    Only(Backend),
}

impl FromStr for BackendChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(BackendChoice::Auto),
            "uring" => Ok(BackendChoice::Only(Backend::Uring)),
            "epoll" => Ok(BackendChoice::Only(Backend::Epoll)),
            _ => Err(format!(
                "`{text}` is not an I/O backend: use auto, uring or epoll"
            )),
        }
    }
}

/// Chooses the backend: the kernel is asked before anything depends on the answer. With `Auto`, the
/// second value says why io_uring is not used.
pub fn choose(
    choice: BackendChoice,
    cores: usize,
) -> Result<(Backend, Option<ProbeError>), ProbeError> {
    match choice {
        BackendChoice::Only(Backend::Epoll) => Ok((Backend::Epoll, None)),
        BackendChoice::Only(Backend::Uring) => probe(cores).map(|()| (Backend::Uring, None)),
        BackendChoice::Auto => Ok(match probe(cores) {
            Ok(()) => (Backend::Uring, None),
            Err(error) => (Backend::Epoll, Some(error)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn an_older_kernel_gets_fewer_flags() {
        for known in 0..3 {
            let asked = std::cell::Cell::new(0);
            let made = set_up(|_| {
                asked.set(asked.get() + 1);
                match asked.get() < 3 - known {
                    true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                    false => Ok(()),
                }
            });
            assert!(made.is_ok());
            assert_eq!(asked.get(), 3 - known);
        }
        // What is no question of flags is not asked again.
        let asked = std::cell::Cell::new(0);
        let refused = set_up(|_| {
            asked.set(asked.get() + 1);
            io::Result::<()>::Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(asked.get(), 1);
    }
}
