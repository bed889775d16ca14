//! What every case needs: the server on the object, the plans of its clients, the fast ones among them, and records.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use penstock_benches::common::certificate::Certificate;
use penstock_benches::common::launch::{self, Server};
use penstock_load::{Class, Group, Plan, Report, Trust, Watch};

use crate::picture::{self, Fast};

/// The object, of four data shares and two parity shares; two data shares are lost.
pub(super) const KEY: &str = "object.bin";

/// One condition, and whether it held.
pub(super) struct Verdict {
    pub(super) what: String,
    pub(super) seen: String,
    pub(super) held: bool,
}

/// A verdict.
pub(super) fn verdict(what: &str, seen: String, held: bool) -> Verdict {
    Verdict {
        what: what.to_owned(),
        seen,
        held,
    }
}

/// The object and the server's program, and the size of a run.
pub(super) struct Subject<'a> {
    pub(super) penstock: &'a Path,
    /// All stores of the object.
    pub(super) healthy: &'a [PathBuf],
    /// As many as are needed, of which some hold parity shares.
    pub(super) stores: &'a [PathBuf],
    pub(super) io: &'a str,
    pub(super) seed: u64,
    /// The numbers of clients are divided by this.
    pub(super) scale: usize,
    /// The number of measurements of the fast clients, and the length of each.
    pub(super) rounds: usize,
    pub(super) stretch: Duration,
    /// The server's, if all clients speak TLS.
    pub(super) certificate: Option<&'a Certificate>,
    /// Further options of the server.
    pub(super) options: &'a [String],
    pub(super) record: Option<&'a Path>,
    pub(super) log: &'a Path,
}

/// Kernel structures of a connection, which no socket statistics include.
pub(super) const STRUCTURES_BYTES: u64 = 3700;
/// Measurements of the fast clients, alone and beside the others in turns.
pub(super) const ROUNDS: usize = 3;
pub(super) const STRETCH: Duration = Duration::from_secs(4);
pub(super) const FAST: usize = 4;

impl Subject<'_> {
    /// Starts the server on all cores, as operators run it.
    pub(super) fn serve(&self, options: &[&str]) -> anyhow::Result<Server> {
        self.serve_on(None, self.stores, options, &[])
    }

    /// Starts the server on one core, or on all, by a command that stands in front of it.
    pub(super) fn serve_on(
        &self,
        core: Option<usize>,
        stores: &[PathBuf],
        options: &[&str],
        by: &[&str],
    ) -> anyhow::Result<Server> {
        let mut command: Vec<String> = by.iter().map(|&word| word.to_owned()).collect();
        command.extend([
            self.penstock.display().to_string(),
            "serve".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--admin=127.0.0.1:0".to_owned(),
            format!("--io={}", self.io),
            "--send-timeout=10m".to_owned(),
            "--idle-timeout=10m".to_owned(),
        ]);
        command.extend(
            stores
                .iter()
                .map(|store| format!("--store={}", store.display())),
        );
        command.extend(core.map(|_| "--cores=1".to_owned()));
        command.extend(options.iter().map(|&option| option.to_owned()));
        command.extend(self.options.iter().cloned());
        let tls = match self.certificate {
            Some(certificate) => Some((certificate, launch::free_address()?)),
            None => None,
        };
        command.extend(
            tls.iter()
                .flat_map(|(certificate, address)| certificate.options(*address)),
        );
        let server = Server::start(core, &command, &self.log.join("server.log"))?.killed();
        Ok(match tls {
            Some((_, address)) => server.secured(address),
            None => server,
        })
    }

    pub(super) fn plan(&self, server: &Server, groups: Vec<Group>) -> Plan {
        let mut plan = Plan::new(&server.url(KEY));
        plan.groups = groups;
        plan.seed = self.seed;
        plan.tls.trust = Trust::All;
        plan.backoff = Duration::from_millis(100);
        plan.retry_after_max = Duration::from_secs(1);
        plan.timeout = Duration::from_secs(60);
        plan.watch = Some(Watch {
            pids: vec![server.pid()],
            interval: Duration::from_millis(250),
            ..Watch::default()
        });
        plan
    }

    /// Runs the fast clients for one measurement. Returns their bytes per second.
    pub(super) fn fast(&self, server: &Server) -> anyhow::Result<f64> {
        Ok(self.fast_course(server)?.rate())
    }

    /// Runs the fast clients for one measurement.
    pub(super) fn fast_course(&self, server: &Server) -> anyhow::Result<Fast> {
        let mut group = Group::new(Class::Fast, FAST);
        group.reading = penstock_load::Reading::Discard;
        let mut plan = self.plan(server, vec![group]);
        plan.watch = None;
        plan.duration = self.stretch;
        let mut received = vec![(0.0, 0)];
        let report = penstock_load::run_with(&plan, |now| {
            received.push((now.elapsed.as_secs_f64(), now.body_bytes));
            ControlFlow::Continue(())
        })?;
        let end = received.last().map_or(0.0, |(at, _)| *at);
        let end = end.max(self.stretch.as_secs_f64());
        received.push((end, report.groups[0].body_bytes));
        Ok(Fast {
            received,
            stretch: self.stretch,
        })
    }

    /// Records a run, and draws it. `fast` are those beside its clients, with their bytes per second alone.
    pub(super) fn note(
        &self,
        (case, title, crowd): (&str, &str, &str),
        report: &Report,
        budget: u64,
        fast: Option<(&Fast, f64)>,
    ) -> anyhow::Result<()> {
        let (Some(directory), Some(server)) = (self.record, &report.server) else {
            return Ok(());
        };
        std::fs::create_dir_all(directory)?;
        let file = |end| directory.join(format!("memory-{case}-{}.{end}", self.io));
        std::fs::write(file("csv"), server.samples_csv())?;
        std::fs::write(file("groups.csv"), report.groups_csv())?;
        if let Some((fast, _)) = fast {
            std::fs::write(file("fast.csv"), fast.csv())?;
        }
        let drawn = picture::Case {
            title: &format!("{} MiB declared, {}: {title}", budget >> 20, self.io),
            budget,
            samples: &server.samples,
            crowd,
            fast: fast.map(|(fast, alone)| (fast, FAST, alone)),
        };
        drawn.draw(&file("svg"))
    }
}

/// Runs the clients of a plan, and does something once so many of them stall. Then they leave.
pub(super) fn while_stalled(
    plan: &Plan,
    stalled: usize,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<Report> {
        let crowd = scope.spawn(|| {
            penstock_load::run_with(plan, |now| {
                if now.holding == stalled as u64 {
                    let _ = ready.send(());
                }
                match stop.load(std::sync::atomic::Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
        });
        let acted = is_ready
            .recv_timeout(Duration::from_secs(60))
            .context("the stalled clients did not all get their heads")
            .and_then(|()| act());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let report = crowd
            .join()
            .map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        acted.map(|()| report)
    })
}

/// VmRSS of the server.
pub(super) fn resident(server: &Server) -> anyhow::Result<u64> {
    let process = procfs::process::Process::new(server.pid())?;
    Ok(process.status()?.vmrss.unwrap_or(0) * 1024)
}
