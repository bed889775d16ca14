//! Fast clients that come after thousands have stalled.

use std::time::Duration;

use anyhow::Context;
use penstock_benches::common::stats::Summary;
use penstock_load::{Class, Group, Watch};

use crate::subject::{STRUCTURES_BYTES, Subject, Verdict, verdict, while_stalled};

impl Subject<'_> {
    /// Clients that stall come first, with the receive buffers that the kernel gives everybody: it takes the beginning
    /// of each body as fast as that comes. Then fast ones come.
    pub(super) fn stalled_first(&self) -> anyhow::Result<Vec<Verdict>> {
        /// The kernels have taken by then what they take.
        const SETTLE: Duration = Duration::from_secs(2);
        /// A sample walks all sockets of the machine in the kernel: four in a second took a tenth of what is measured.
        const SAMPLE_EVERY: Duration = Duration::from_secs(2);
        const MIB: u64 = 256;
        let clients = 10_000 / self.scale;
        let mut verdicts = Vec::new();
        let subjects = [("healthy", self.healthy), ("degraded", self.stores)];
        for ((state, stores), core) in subjects
            .into_iter()
            .flat_map(|subject| [Some(0), None].map(|core| (subject, core)))
        {
            let server = self.serve_on(core, stores, &["--memory", "256MiB"], &[])?;
            let mut stalled = Group::new(Class::Stalled, clients);
            stalled.receive_buffer = None;
            let mut plan = self.plan(&server, vec![stalled]);
            plan.watch = plan.watch.map(|watch| Watch {
                interval: SAMPLE_EVERY,
                ..watch
            });
            plan.duration = Duration::from_secs(180);
            // The first one warms the page cache.
            self.fast(&server)?;
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            let (mut most, mut held) = (0, u64::MAX);
            for _ in 0..self.rounds {
                alone.push(self.fast(&server)?);
                let report = while_stalled(&plan, clients, || {
                    std::thread::sleep(SETTLE);
                    beside.push(self.fast(&server)?);
                    Ok(())
                })?;
                let peaks = report.server.as_ref().context("it was watched")?.peaks;
                most = most.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
                held = held.min(report.groups[0].held);
            }
            let cores = if core.is_some() {
                "one core"
            } else {
                "all cores"
            };
            let (alone, beside) = (Summary::of(&alone), Summary::of(&beside));
            let part = beside.median / alone.median;
            verdicts.push(verdict(
                &format!("{state}, {cores}: 4 fast clients after {clients} stalled get 80%"),
                format!(
                    "{:.0}%: {:.0} of {:.0} MB/s (spread {:.0}%)",
                    part * 100.0,
                    beside.median / 1e6,
                    alone.median / 1e6,
                    alone.spread() * 100.0
                ),
                part >= 0.8,
            ));
            verdicts.push(verdict(
                &format!("{state}, {cores}: within {MIB} MiB, all are held"),
                format!("{:.1} MiB, {held} held", most as f64 / f64::from(1 << 20)),
                most <= MIB << 20 && held == clients as u64,
            ));
        }
        Ok(verdicts)
    }
}
