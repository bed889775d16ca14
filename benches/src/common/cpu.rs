//! The calling thread's CPU time, which goes on only while it runs: on a busy machine a measurement
//! by it is not of the neighbours.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time of this thread since it started.
///
/// # Panics
///
/// When the system has no such clock; Linux always does.
pub fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.expect("Linux has a CPU clock for each thread").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_while_working() {
        let start = thread_time();
        let mut sum = 0u64;
        while thread_time() == start {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_time() > start);
    }
}
