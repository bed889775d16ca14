//! CPU time and memory of other processes, and CPU time of cores, as the kernel counts them.

use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use procfs::CurrentSI;
use procfs::process::Process;

/// The resources used up to a moment. Times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of a process and its children, since they started.
    pub process: f64,
    /// Peak resident memory (VmHWM) of these processes, in bytes, summed.
    pub resident_most: u64,
    /// All time that the server's core was not idle, since some fixed moment: the process, interrupts and softirqs (on
    /// loopback, the receiving half of TCP runs there), and any other process.
    pub server_core: f64,
    /// The same for the clients' core.
    pub client_core: f64,
}

impl Usage {
    /// Reads the usage of process `pid` and of two cores.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn now(pid: i32, server_core: usize, client_core: usize) -> anyhow::Result<Usage> {
        let mut usage = Usage::default();
        usage
            .add(pid, 0)
            .with_context(|| format!("can't look at the server, process {pid}"))?;
        [usage.server_core, usage.client_core] = busy([server_core, client_core])?;
        Ok(usage)
    }

    fn add(&mut self, pid: i32, depth: usize) -> Result<(), procfs::ProcError> {
        let process = Process::new(pid)?;
        let stat = process.stat()?;
        self.process += (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        self.resident_most += process.status()?.vmhwm.unwrap_or(0) * 1024;
        // Two levels are enough for a master and its workers.
        if depth < 2 {
            for task in process.tasks()?.flatten() {
                for child in task.children().unwrap_or_default() {
                    // A child that has just ended is not counted.
                    let _ = self.add(child.cast_signed(), depth + 1);
                }
            }
        }
        Ok(())
    }
}

/// Seconds that each of these cores was not idle, since some fixed moment.
///
/// # Errors
///
/// If the kernel counts no such core.
pub fn busy<const N: usize>(cores: [usize; N]) -> anyhow::Result<[f64; N]> {
    let stat = procfs::KernelStats::current()?;
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    let mut busy = [0.0; N];
    for (busy, core) in busy.iter_mut().zip(cores) {
        let time = stat
            .cpu_time
            .get(core)
            .with_context(|| format!("no core {core} in /proc/stat"))?;
        // The kernel measures idle time; it may only guess the kinds of busy time at each tick.
        let ticks = time.idle + time.iowait.unwrap_or(0) + time.steal.unwrap_or(0);
        *busy = now.as_secs_f64() - ticks as f64 / procfs::ticks_per_second() as f64;
    }
    Ok(busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_work_is_counted() {
        let pid = std::process::id().cast_signed();
        let cores = core_affinity::get_core_ids().unwrap();
        let core = cores[0].id;
        let before = Usage::now(pid, core, core).unwrap();
        let mut sum = 0u64;
        while Usage::now(pid, core, core).unwrap().process < before.process + 0.02 {
            for _ in 0..100_000 {
                sum = std::hint::black_box(sum + 1);
            }
        }
        let after = Usage::now(pid, core, core).unwrap();
        assert!(after.resident_most > 0);
        // Ticks of 10 ms may round idle time up.
        assert!(after.server_core > before.server_core - 0.02);
        assert_eq!(after.server_core, after.client_core);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        let error = Usage::now(i32::MAX, 0, 0).unwrap_err().to_string();
        assert!(error.contains("2147483647"), "{error}");
    }
}
