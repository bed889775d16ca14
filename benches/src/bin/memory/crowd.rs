//! Thousands of stalled clients and a hundred slow ones stay, while fast ones come and go.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};
use penstock::memory::costs;
use penstock_benches::common::stats::Summary;
use penstock_load::{Class, Group};

use crate::subject::{FAST, STRUCTURES_BYTES, Subject, Verdict, resident, verdict, while_stalled};

/// A small object for new requests.
pub(super) const SMALL_KEY: &str = "small.bin";
/// The largest step of the allocator.
const ALLOCATOR_SLACK_BYTES: u64 = 1 << 20;
/// Slow clients.
const SLOW: usize = 100;

impl Subject<'_> {
    /// Stalled and slow clients stay, while fast ones come and go.
    pub(super) fn crowd(
        &self,
        name: &str,
        mib: u64,
        stalled: usize,
        options: &[&str],
    ) -> anyhow::Result<Vec<Verdict>> {
        let stalled = stalled / self.scale;
        let memory = format!("{mib}MiB");
        let server = self.serve(&[&["--memory", &memory][..], options].concat())?;
        let mut alone = vec![self.fast(&server)?];
        let idle = resident(&server)?;
        let mut slow = Group::new(Class::Slow, SLOW / self.scale);
        slow.rate = Some(100_000);
        let mut plan = self.plan(&server, vec![Group::new(Class::Stalled, stalled), slow]);
        let mut beside = Vec::new();
        let mut drawn = None;
        let mut first_byte = 0;
        let mut stalled_bytes = 0;
        // In turns: the fast clients beside the crowd, then, with the crowd gone, the fast clients alone.
        let mut reports = Vec::new();
        for round in 0..self.rounds {
            plan.duration = Duration::from_secs(180);
            let began = Instant::now();
            let report = while_stalled(&plan, stalled, || {
                if round == 0 {
                    stalled_bytes = resident(&server)?.saturating_sub(idle);
                }
                let earlier = began.elapsed();
                let fast = self.fast_course(&server)?.since(earlier);
                beside.push(fast.rate());
                // The picture is of the first round.
                drawn.get_or_insert(fast);
                // Without the fast clients, which use a whole core.
                let mut small = self.plan(&server, vec![self.small()]);
                small.watch = None;
                small.backoff = Duration::from_millis(20);
                small.duration = Duration::from_secs(2);
                first_byte =
                    first_byte.max(penstock_load::run(&small)?.groups[0].first_byte_time.p99);
                Ok(())
            })?;
            reports.push(report);
            alone.push(self.fast(&server)?);
        }
        let mut most = 0;
        let mut with_structures = 0;
        let (mut held, mut faults) = (u64::MAX, 0);
        for report in &reports {
            let peaks = report.server.as_ref().context("it was watched")?.peaks;
            most = most.max(peaks.bound);
            with_structures = with_structures.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
            held = held.min(report.groups[0].held);
            faults += report
                .groups
                .iter()
                .flat_map(|g| &g.faults)
                .map(|f| f.count)
                .sum::<u64>();
        }
        let (alone, beside) = (Summary::of(&alone), Summary::of(&beside));
        let slow = SLOW / self.scale;
        self.note(
            (
                name,
                &format!("{stalled} stalled clients, {slow} slow, {FAST} fast"),
                &format!("the stalled clients' first bytes, and {slow} slow ones of 100 kB/s"),
            ),
            &reports[0],
            mib << 20,
            drawn.as_ref().map(|fast| (fast, alone.median)),
        )?;
        let part = beside.median / alone.median;
        let each = stalled_bytes / stalled.max(1) as u64;
        let (each_most, of_cores) = self.user_bytes()?;
        Ok(vec![
            verdict(
                &format!("VmHWM and sockets never over {mib} MiB"),
                format!("{:.1} MiB", most as f64 / f64::from(1 << 20)),
                most <= mib << 20,
            ),
            verdict(
                "with the kernel's structures, too",
                format!("{:.1} MiB", with_structures as f64 / f64::from(1 << 20)),
                with_structures <= mib << 20,
            ),
            verdict(
                &format!("all {stalled} stalled clients are held, nobody is let down"),
                format!("{held} held, {faults} faults"),
                held == stalled as u64 && faults == 0,
            ),
            verdict(
                "4 fast clients get 80% of what they get alone",
                format!(
                    "{:.0}%: {:.0} of {:.0} MB/s (spread {:.0}%)",
                    part * 100.0,
                    beside.median / 1e6,
                    alone.median / 1e6,
                    alone.spread() * 100.0
                ),
                part >= 0.8,
            ),
            verdict(
                "p99 of time to first byte of a small request under 50 ms",
                format!("{:.1} ms", first_byte as f64 / 1000.0),
                first_byte < 50_000,
            ),
            verdict(
                &format!(
                    "user memory per stalled client at most {} bytes{}",
                    each_most,
                    if of_cores > 0 {
                        ", and what TLS takes of the cores"
                    } else {
                        ""
                    },
                ),
                format!("{each} bytes"),
                // With few clients, only the allocator's steps are visible.
                stalled_bytes <= stalled as u64 * each_most + of_cores + ALLOCATOR_SLACK_BYTES,
            ),
        ])
    }

    /// New small requests, sent one after another by four clients, each on a new connection.
    fn small(&self) -> Group {
        let mut group = Group::new(Class::Short, 4);
        group.name = "small".to_owned();
        group.path = Some(format!("/{SMALL_KEY}"));
        group
    }

    /// The most stalled clients that fit beside the others, both in the server's plan for this memory (which counts its
    /// descriptors) and in this process's own descriptors.
    pub(super) fn most_stalled(&self, memory: &str) -> anyhow::Result<usize> {
        /// Clients that come and go. Their places become free some time after they left.
        const OTHERS: usize = SLOW + 4 * FAST;
        /// Descriptors that this process has open beside those of its clients.
        const OWN: u64 = 100;
        let mut plan = Command::new(self.penstock);
        let output = plan.args(["plan", "--memory", memory]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let planned = text
            .split_once("declared: ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let planned: usize = planned.with_context(|| format!("no connections in {text}"))?;
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let ours = descriptors.saturating_sub(OWN).try_into()?;
        Ok(planned.min(ours).saturating_sub(OTHERS))
    }

    /// User memory that a stalled client may take, and what all of them together may take of the cores. With TLS both are what
    /// the plan has for it: sessions, and the memory of handshakes and ready keys, which is first touched when clients come.
    fn user_bytes(&self) -> anyhow::Result<(u64, u64)> {
        let cores = std::thread::available_parallelism()?.get() as u64;
        Ok(match self.certificate {
            None => (2048, 0),
            Some(_) => (
                costs::CONNECTION_USER_BYTES + costs::TLS_CONNECTION_BYTES,
                cores * costs::TLS_CORE_BYTES,
            ),
        })
    }
}
