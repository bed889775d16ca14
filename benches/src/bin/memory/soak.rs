//! Hours of random clients.

use std::time::{Duration, Instant};

use anyhow::Context;
use penstock_load::{ByteSpan, Class, Group, Report};

use crate::subject::{STRUCTURES_BYTES, Subject, Verdict, resident, verdict};

/// Small objects for it are named this and a number.
pub(super) const OTHER_KEY: &str = "other-";
/// So many: more than a core keeps open.
pub(super) const OTHERS: usize = 300;

impl Subject<'_> {
    /// Runs clients of all kinds at random. Compares memory at the end with memory after the warm-up, each without any
    /// connection.
    ///
    /// Memory that the allocator took for connections stays with the process for the next ones. So it reflects the
    /// largest crowd that each core had, and small differences between crowds would look like growth. The warm-up
    /// therefore has twice the clients of later rounds: it fills everything that is bounded.
    pub(super) fn soak(&self, time: Duration) -> anyhow::Result<Vec<Verdict>> {
        const MIB: u64 = 128;
        const WARM_UP: [usize; 3] = [2, 2, 1];
        let server = self.serve(&["--memory", "128MiB", "--head-timeout", "5s"])?;
        let mixed = |duration: Duration, seed, times: usize| -> anyhow::Result<Report> {
            let group = |class, clients: usize, rate| {
                let mut group = Group::new(class, times * (clients / self.scale).max(1));
                group.rate = rate;
                group.keep_alive = seed % 2 == 0;
                if class != Class::Stalled {
                    group.range = Some(ByteSpan {
                        min: 1,
                        max: 4 << 20,
                    });
                }
                group
            };
            // More objects than a core keeps open.
            let mut others = group(Class::Short, 10, None);
            others.name = "others".to_owned();
            others.range = None;
            others.path = Some(format!("/{OTHER_KEY}{{{OTHERS}}}"));
            let mut plan = self.plan(
                &server,
                vec![
                    group(Class::Stalled, 500, None),
                    group(Class::Slow, 200, Some(50_000)),
                    group(Class::Fast, 8, None),
                    group(Class::Aborting, 50, None),
                    group(Class::Short, 20, None),
                    others,
                    group(Class::Connect, 5, None),
                    group(Class::Idle, 50, None),
                    group(Class::Drip, 50, Some(20)),
                ],
            );
            (plan.duration, plan.seed) = (duration, seed);
            Ok(penstock_load::run(&plan)?)
        };
        // A round ends when all clients are gone.
        let round = Duration::from_secs(20).min(time / 8);
        let started = Instant::now();
        let (mut seed, mut most, mut wrong, mut connections) = (self.seed, 0, 0, 0);
        let mut rest = Vec::new();
        while rest.len() <= WARM_UP.len() || started.elapsed() < time {
            let times = WARM_UP.get(rest.len()).copied().unwrap_or(1);
            let report = mixed(round, seed, times)?;
            let peaks = report.server.as_ref().context("it was watched")?.peaks;
            most = most.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
            wrong += u64::from(report.has_wrong_bytes());
            connections += report.groups.iter().map(|g| g.connects).sum::<u64>();
            if rest.is_empty() {
                let names = ("soak", "the first round of a soak", "clients of all kinds");
                self.note(names, &report, MIB << 20, None)?;
            }
            std::thread::sleep(Duration::from_secs(1));
            rest.push(resident(&server)?);
            println!(
                "round {}: {} KiB with nobody there",
                rest.len(),
                rest[rest.len() - 1] >> 10
            );
            seed += 1;
        }
        let (warm_up, later) = rest.split_at(WARM_UP.len());
        let kib = |bytes: &u64| bytes >> 10;
        let warm = warm_up[WARM_UP.len() - 1];
        let end = later[later.len() - 1];
        let (first_half, second_half) = later.split_at(later.len().div_ceil(2));
        let highest = |rounds: &[u64]| rounds.iter().max().copied().unwrap_or(end);
        Ok(vec![
            verdict(
                &format!("memory within {MIB} MiB"),
                format!("{:.1} MiB", most as f64 / f64::from(1 << 20)),
                most <= MIB << 20,
            ),
            verdict(
                "resident memory at the end equals that after warm-up (to 2%)",
                format!(
                    "{} KiB after warm-up, {} KiB after {} rounds of {} s with {connections} connections",
                    kib(&warm),
                    kib(&end),
                    rest.len(),
                    round.as_secs()
                ),
                end <= warm + warm / 50,
            ),
            verdict(
                "it does not grow from the first half after warm-up to the second (to 0.5%)",
                format!(
                    "at most {} KiB, then at most {} KiB",
                    kib(&highest(first_half)),
                    kib(&highest(second_half))
                ),
                highest(second_half) <= highest(first_half) + highest(first_half) / 200,
            ),
            verdict(
                "no wrong byte",
                format!("{wrong} rounds with wrong bytes"),
                wrong == 0,
            ),
        ])
    }
}
