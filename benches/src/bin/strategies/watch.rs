//! The memory that one strategy held over time.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;

use anyhow::bail;
use penstock_load::Plan;

use super::Strategy;

/// The memory held at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Point {
    /// Seconds since the first client.
    pub(super) at: f64,
    /// Resident memory of the process, and its peak so far.
    pub(super) process: u64,
    pub(super) process_most: u64,
    /// Kernel memory of its sockets.
    pub(super) kernel: u64,
    /// Disk space of its unnamed files: page cache until it is written back and evicted.
    pub(super) spool: u64,
    /// Connections of the clients, and body bytes they have received.
    pub(super) connected: u64,
    pub(super) received: u64,
}

impl Point {
    pub(super) fn total(&self) -> u64 {
        self.process + self.kernel + self.spool
    }
}

/// A strategy's run.
pub(super) struct Course {
    pub(super) strategy: Strategy,
    pub(super) points: Vec<Point>,
    /// Stalled clients that held their connection at the end, and slow ones in the middle of the object.
    pub(super) held: u64,
    pub(super) unfinished: u64,
}

impl Course {
    /// Plays the plan, which must have a watch, against the server of process `pid`.
    pub(super) fn watch(strategy: Strategy, pid: i32, plan: &Plan) -> anyhow::Result<Course> {
        let mut spooled = vec![(0.0, spool_bytes(pid))];
        let report = penstock_load::run_with(plan, |progress| {
            spooled.push((progress.elapsed.as_secs_f64(), spool_bytes(pid)));
            ControlFlow::Continue(())
        })?;
        for group in &report.groups {
            if let Some(fault) = group.faults.first() {
                bail!("{} clients: {}", group.name, fault.first);
            }
        }
        let Some(server) = report.server else {
            bail!("the plan has no watch");
        };
        if let Some(problem) = server.problem {
            bail!("watching the server: {problem}");
        }
        let points = server.samples.iter().map(|sample| Point {
            at: sample.at,
            process: sample.resident,
            process_most: sample.resident_most,
            kernel: sample.sockets.total(),
            spool: nearest(&spooled, sample.at),
            connected: sample.client_open,
            received: sample.client_bytes,
        });
        Ok(Course {
            strategy,
            points: points.collect(),
            held: report.groups.iter().map(|group| group.held).sum(),
            unfinished: report.groups.iter().map(|group| group.unfinished).sum(),
        })
    }

    /// The moment of the largest sum.
    pub(super) fn peak(&self) -> Point {
        let most = self.points.iter().max_by_key(|point| point.total());
        most.copied().unwrap_or_default()
    }

    /// The moment before the first client.
    pub(super) fn before(&self) -> Point {
        self.points.first().copied().unwrap_or_default()
    }

    /// The moment when all clients were gone.
    pub(super) fn after(&self) -> Point {
        self.points.last().copied().unwrap_or_default()
    }
}

/// The value recorded nearest to a time.
fn nearest(noted: &[(f64, u64)], at: f64) -> u64 {
    let distance = |time: f64| (time - at).abs();
    let nearest = noted
        .iter()
        .min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
    nearest.map_or(0, |&(_, bytes)| bytes)
}

/// Disk space of the files that a process has open and that have no name.
fn spool_bytes(pid: i32) -> u64 {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    open.flatten()
        // Metadata follows the link to the file itself. A file that was just closed is not found.
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .filter(|file| file.is_file() && file.nlink() == 0)
        .map(|file| file.blocks() * 512)
        .sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn unnamed_files_are_counted_from_outside() {
        let pid = std::process::id().cast_signed();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 << 20]).unwrap();
        file.sync_all().unwrap();
        assert!(spool_bytes(pid) >= 3 << 20);
    }

    #[test]
    fn the_nearest_recorded_value_counts() {
        let noted = [(0.0, 1), (1.0, 2), (2.0, 3)];
        let found = [-1.0, 0.4, 0.6, 1.4, 9.0].map(|at| nearest(&noted, at));
        assert_eq!(found, [1, 1, 2, 2, 3]);
        assert_eq!(nearest(&[], 1.0), 0);
    }
}
