//! A network with very many connections beside others with one each.

use penstock_benches::common::stats::Summary;
use penstock_load::{Class, Group};

use crate::subject::{Subject, Verdict, verdict};

impl Subject<'_> {
    /// One network with very many fast connections, and ten with one each.
    pub(super) fn networks(&self) -> anyhow::Result<Vec<Verdict>> {
        const MANY: usize = 500;
        const OTHERS: u8 = 10;
        let mut verdicts = Vec::new();
        let subjects = [("healthy", self.healthy), ("degraded", self.stores)];
        for ((state, stores), core) in subjects
            .into_iter()
            .flat_map(|subject| [Some(0), None].map(|core| (subject, core)))
        {
            // Clients are other machines. Where they have the server's cores, they go first, or what is divided is their time.
            let by: &[&str] = if core.is_none() {
                &["nice", "-n", "10"]
            } else {
                &[]
            };
            let server = self.serve_on(core, stores, &["--memory", "256MiB"], by)?;
            self.fast(&server)?;
            let group = |network: u8, clients| {
                let mut group = Group::new(Class::Fast, clients);
                group.name = format!("network-{network}");
                group.network = Some(network);
                group.reading = penstock_load::Reading::Discard;
                group
            };
            let mut groups = vec![group(1, MANY / self.scale)];
            groups.extend((0..OTHERS).map(|other| group(2 + other, 1)));
            let mut plan = self.plan(&server, groups);
            plan.watch = None;
            plan.duration = self.stretch;
            if core.is_none() {
                // One would have to keep up with all cores, and take a part of one of them alone.
                plan.threads = std::thread::available_parallelism()?.get();
            }
            // Of each round the least of the ten, as a part of an eleventh.
            let (mut least, mut median, mut all) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let report = penstock_load::run(&plan)?;
                let bytes: Vec<f64> = report
                    .groups
                    .iter()
                    .map(|group| group.body_bytes as f64)
                    .collect();
                let sum: f64 = bytes.iter().sum();
                let parts: Vec<f64> = bytes[1..]
                    .iter()
                    .map(|bytes| bytes / sum * f64::from(OTHERS + 1))
                    .collect();
                let parts = Summary::of(&parts);
                least.push(parts.min);
                median.push(parts.median);
                all.push(sum / self.stretch.as_secs_f64());
            }
            let cores = if core.is_some() {
                "one core"
            } else {
                "all cores"
            };
            let [least, median, all] =
                [least, median, all].map(|values| Summary::of(&values).median);
            verdicts.push(verdict(
                &format!(
                    "{state}, {cores}: beside {} connections of one network each of ten others gets 80% of an eleventh",
                    MANY / self.scale
                ),
                format!(
                    "{:.0}% the least, {:.0}% half of them, of {:.0} MB/s in all",
                    least * 100.0,
                    median * 100.0,
                    all / 1e6
                ),
                least >= 0.8,
            ));
        }
        Ok(verdicts)
    }
}
