//! Samples a server from outside at intervals: resident memory and CPU time of its processes, and kernel memory of its
//! sockets.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use procfs::CurrentSI;
use procfs::process::Process;

use crate::error::LoadError;
use crate::plan::Watch;
use crate::sockets::{SocketMemory, SocketWatch};
use crate::tally::Counters;
use crate::target::Target;

/// The largest number of descendants that are followed.
const PROCESSES_MAX: usize = 4096;

/// One sample. Sizes in bytes, times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Sample {
    /// Time since the start of the run.
    pub at: f64,
    /// Resident memory (VmRSS), summed over the watched processes.
    pub resident: u64,
    /// Largest resident memory since each process started (VmHWM), summed.
    pub resident_most: u64,
    /// CPU time in user and kernel mode since each process started, summed.
    pub cpu: f64,
    /// CPU time of the whole machine, interrupts included, since boot.
    pub machine_cpu: f64,
    /// Memory of the server's sockets.
    pub sockets: SocketMemory,
    /// TCP memory of the whole network namespace; of both ends if client and server share the machine.
    pub machine_tcp: u64,
    /// The generator's open connections.
    pub client_open: u64,
    /// Body bytes the generator has received.
    pub client_bytes: u64,
}

impl Sample {
    /// Process and kernel memory together.
    pub fn together(&self) -> u64 {
        self.resident + self.sockets.total()
    }
}

struct Sampler {
    watch: Watch,
    sockets: Option<SocketWatch>,
    counters: Arc<Counters>,
    start: Instant,
}

/// A thread that samples until it is stopped.
pub(crate) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<(Vec<Sample>, Option<String>)>,
}

impl Watcher {
    /// Takes the first sample before returning, so that a process that cannot be watched is noticed before clients
    /// start.
    pub(crate) fn start(
        target: &Target,
        watch: &Watch,
        counters: &Arc<Counters>,
        start: Instant,
    ) -> Result<Watcher, LoadError> {
        let sockets = if target.is_local() {
            Some(SocketWatch::new(target.address)?)
        } else {
            None
        };
        let mut sampler = Sampler {
            watch: watch.clone(),
            sockets,
            counters: Arc::clone(counters),
            start,
        };
        let mut samples = vec![sampler.sample()?];
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                let interval = sampler.watch.interval;
                let mut due = start + interval;
                loop {
                    let wait = due.saturating_duration_since(Instant::now());
                    let ends =
                        !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
                    match sampler.sample() {
                        Ok(sample) => samples.push(sample),
                        Err(error) => return (samples, Some(error.to_string())),
                    }
                    if ends {
                        return (samples, None);
                    }
                    // Late samples are skipped rather than taken close together.
                    let now = Instant::now();
                    while due <= now {
                        due += interval;
                    }
                }
            })?;
        Ok(Watcher { stop, thread })
    }

    /// Takes one more sample. Returns all samples, and why they end early if they do.
    pub(crate) fn stop(self) -> (Vec<Sample>, Option<String>) {
        // A watcher that gave up has dropped its end of the channel.
        let _ = self.stop.send(());
        self.thread
            .join()
            .unwrap_or_else(|_| (Vec::new(), Some("the watching thread panicked".into())))
    }
}

impl Sampler {
    fn sample(&mut self) -> Result<Sample, LoadError> {
        let mut sample = Sample {
            at: self.start.elapsed().as_secs_f64(),
            ..Sample::default()
        };
        for process in self.processes()? {
            add_process(&mut sample, &process).map_err(|error| watch_error(process.pid, error))?;
        }
        if let Some(sockets) = &mut self.sockets {
            sample.sockets = sockets.measure()?;
        }
        sample.machine_tcp = machine_tcp();
        sample.machine_cpu = machine_cpu();
        Counters::add(&self.counters.samples, 1);
        sample.client_open = Counters::get(&self.counters.open);
        sample.client_bytes = Counters::get(&self.counters.body_bytes);
        Ok(sample)
    }

    fn processes(&self) -> Result<Vec<Process>, LoadError> {
        let mut found = Vec::new();
        for &pid in &self.watch.pids {
            found.push(Process::new(pid).map_err(|error| watch_error(pid, error))?);
        }
        let mut next = 0;
        while self.watch.children && next < found.len() && found.len() < PROCESSES_MAX {
            // Children come and go; one that has ended is not watched.
            let tasks = found[next].tasks().into_iter().flatten().flatten();
            let children: Vec<u32> = tasks
                .filter_map(|task| task.children().ok())
                .flatten()
                .collect();
            for pid in children
                .into_iter()
                .filter_map(|pid| i32::try_from(pid).ok())
            {
                if found.iter().all(|known| known.pid != pid) {
                    found.extend(Process::new(pid));
                }
            }
            next += 1;
        }
        Ok(found)
    }
}

fn watch_error(pid: i32, error: procfs::ProcError) -> LoadError {
    LoadError::Watch {
        pid,
        reason: error.to_string(),
    }
}

fn add_process(sample: &mut Sample, process: &Process) -> Result<(), procfs::ProcError> {
    let status = process.status()?;
    // A process that has ended and was not waited for has no memory lines.
    sample.resident += status.vmrss.unwrap_or(0) * 1024;
    sample.resident_most += status.vmhwm.unwrap_or(0) * 1024;
    let stat = process.stat()?;
    sample.cpu += (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Ok(())
}

fn machine_cpu() -> f64 {
    let Ok(stat) = procfs::KernelStats::current() else {
        return 0.0;
    };
    let total = stat.total;
    let ticks = total.user
        + total.nice
        + total.system
        + total.irq.unwrap_or(0)
        + total.softirq.unwrap_or(0);
    ticks as f64 / procfs::ticks_per_second() as f64
}

/// The `mem` of the TCP line in /proc/net/sockstat, in bytes.
fn machine_tcp() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))
        .unwrap_or_default();
    let mut words = line
        .split_ascii_whitespace()
        .skip_while(|word| *word != "mem");
    let pages = words
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok())
        .unwrap_or(0);
    pages.saturating_mul(procfs::page_size())
}

/// The plan's settling time: how long the watch continues after the clients.
pub(crate) fn settle(watch: Option<&Watch>) -> Duration {
    watch.map_or(Duration::ZERO, |watch| watch.settle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(pids: Vec<i32>) -> Result<Watcher, LoadError> {
        let target = Target::parse("http://127.0.0.1:9/", false)?;
        let watch = Watch {
            pids,
            interval: Duration::from_secs(3600),
            ..Watch::default()
        };
        Watcher::start(&target, &watch, &Arc::default(), Instant::now())
    }

    #[test]
    fn this_process_is_sampled() {
        let watcher = watcher(vec![std::process::id().cast_signed()]).unwrap();
        let mut ballast = vec![0u8; 32 << 20];
        ballast.fill(1);
        // Else the compiler finds that nobody reads it.
        std::hint::black_box(&ballast);
        let (samples, problem) = watcher.stop();
        assert_eq!((samples.len(), problem), (2, None));
        assert!(samples[1].resident > 32 << 20, "{samples:?}");
        assert!(
            samples[1].resident_most >= samples[1].resident,
            "{samples:?}"
        );
        assert!(samples[1].machine_cpu > 0.0);
        drop(ballast);
    }

    #[test]
    fn a_process_that_does_not_exist_cannot_be_watched() {
        // Process ids end at 2^22.
        assert!(matches!(
            watcher(vec![i32::MAX]),
            Err(LoadError::Watch { pid: i32::MAX, .. })
        ));
    }
}
