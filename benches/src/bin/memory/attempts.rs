//! More attempts than there are places.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context;
use penstock_load::{Class, Group};

use crate::subject::{STRUCTURES_BYTES, Subject, Verdict, verdict};

impl Subject<'_> {
    /// Many more attempts than places.
    pub(super) fn attempts(&self, name: &str) -> anyhow::Result<Vec<Verdict>> {
        const MIB: u64 = 64;
        let (places, attempts) = (1000 / self.scale, (50_000 / self.scale) as u64);
        let most = places.to_string();
        let server = self.serve(&["--memory", "64MiB", "--max-connections", &most])?;
        // Slow clients occupy all places before the crowd comes.
        let mut admitted = Group::new(Class::Slow, places);
        (admitted.name, admitted.rate) = ("admitted".to_owned(), Some(10_000));
        let mut crowd = Group::new(Class::Short, 2000 / self.scale);
        (crowd.name, crowd.start) = ("crowd".to_owned(), Duration::from_secs(3));
        let mut plan = self.plan(&server, vec![admitted, crowd]);
        plan.duration = Duration::from_secs(90);
        plan.backoff = Duration::from_millis(1);
        plan.retry_after_max = Duration::from_millis(1);
        let report = penstock_load::run_with(&plan, |now| match now.refused >= attempts {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        self.note(
            (
                name,
                &format!("{attempts} attempts, {places} places"),
                &format!("{places} slow clients that were admitted"),
            ),
            &report,
            MIB << 20,
            None,
        )?;
        let peaks = report.server.as_ref().context("it was watched")?.peaks;
        let of = |name| report.group(name).context("a group of the plan");
        let (admitted, crowd) = (of("admitted")?, of("crowd")?);
        let bound = peaks.bound + peaks.sockets * STRUCTURES_BYTES;
        let faults =
            |group: &penstock_load::GroupReport| group.faults.iter().map(|f| f.count).sum::<u64>();
        let first = crowd.faults.first();
        let first = first.map_or_else(String::new, |fault| format!(": {}", fault.first));
        Ok(vec![
            verdict(
                &format!("memory within {MIB} MiB"),
                format!("{:.1} MiB", bound as f64 / f64::from(1 << 20)),
                bound <= MIB << 20,
            ),
            verdict(
                &format!("{attempts} attempts are answered 503 with Retry-After"),
                format!(
                    "{} refused, {} of them with it, {} faults{first}",
                    crowd.refused,
                    crowd.retry_after,
                    faults(crowd)
                ),
                crowd.refused >= attempts
                    && crowd.retry_after == crowd.refused
                    && faults(crowd) == 0
                    && crowd.completed == 0,
            ),
            verdict(
                "those admitted go on",
                format!(
                    "{} of {places} under way, {} refused, {} faults, {:.0} bytes/s each",
                    admitted.unfinished,
                    admitted.refused,
                    faults(admitted),
                    admitted.bytes_per_second / places as f64
                ),
                admitted.unfinished == places as u64
                    && admitted.refused == 0
                    && faults(admitted) == 0,
            ),
        ])
    }
}
