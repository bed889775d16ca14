//! The calling thread's CPU time. It advances only while the thread runs, so that on a busy machine a measurement does
//! not include the neighbours. Also what measuring arithmetic takes: a core for the thread, and bytes per second of CPU
//! time.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::time::{ClockId, clock_gettime};

/// CPU time of this thread since it started.
///
/// # Panics
///
/// If the system has no such clock; Linux always does.
pub fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.expect("Linux has a CPU clock for each thread").into()
}

/// Pins this thread to one core: the one with this number, or the last. Returns its number.
///
/// # Errors
///
/// If there is no such core, or it may not be used.
pub fn pin(number: Option<usize>) -> anyhow::Result<usize> {
    let cores = core_affinity::get_core_ids().context("can't list the cores")?;
    let core = match number {
        Some(id) => cores
            .iter()
            .find(|core| core.id == id)
            .with_context(|| format!("no core {id}"))?,
        None => cores.last().context("no cores")?,
    };
    let pinned = core_affinity::set_for_current(*core);
    ensure!(pinned, "can't pin to core {}", core.id);
    Ok(core.id)
}

/// The clock is read once in this many bytes, so that reading it does not count.
const LOOK_BYTES: usize = 1 << 20;

/// Runs `work`, which delivers `bytes`, repeatedly for about `target`. Returns GB per second of CPU time.
///
/// # Panics
///
/// If `work` fails; it must be verified before.
pub fn speed(bytes: usize, target: Duration, mut work: impl FnMut() -> bool) -> f64 {
    let (start, mut runs) = (thread_time(), 0u32);
    let per_look = (LOOK_BYTES / bytes.max(1)).clamp(1, 1024) as u32;
    loop {
        for _ in 0..per_look {
            assert!(black_box(work()), "it worked when it was verified");
        }
        runs += per_look;
        let elapsed = thread_time() - start;
        if elapsed >= target {
            return f64::from(runs) * bytes as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_time_advances_while_working() {
        let start = thread_time();
        let mut sum = 0u64;
        while thread_time() == start {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_time() > start);
    }
}
