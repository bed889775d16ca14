//! One measurement: clients against a running server, and the resources that it used meanwhile.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{bail, ensure};
use penstock_benches::common::launch::Server;
use penstock_benches::common::usage::Usage;
use penstock_load::{Class, Group, Plan, Progress, Reading, Report};

/// The core of the server, and that of the clients.
#[derive(Clone, Copy)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
}

/// The clients' requests.
#[derive(Clone)]
pub(super) struct Asked {
    /// Without a leading slash; `{N}` stands for a random number below N.
    pub(super) path: String,
    /// Bytes of one object.
    pub(super) bytes: u64,
    pub(super) connections: u32,
    /// The length of the measurement, after the first download of the object.
    pub(super) span: Duration,
    /// Whether the first download, by one connection, is measured.
    pub(super) first: bool,
    /// Whether clients copy received bytes.
    pub(super) copy: bool,
}

/// The results of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) gb_s: f64,
    pub(super) requests_s: f64,
    /// CPU seconds of the server's process per GB of bodies.
    pub(super) process_per_gb: f64,
    /// Seconds that the server's core was busy, per GB of bodies.
    pub(super) core_per_gb: f64,
    /// Seconds that the two cores were busy, per GB of bodies.
    pub(super) both_per_gb: f64,
    /// How busy the cores were, 0 to 1.
    pub(super) server_busy: f64,
    pub(super) client_busy: f64,
    /// Peak resident memory of the server, in bytes.
    pub(super) resident_most: u64,
}

/// The shortest warm-up: connections are made, windows grow.
const WARM_UP: Duration = Duration::from_millis(250);

/// How much longer than planned a measurement may take until bytes have come: the machine may be busy.
const LATE: Duration = Duration::from_secs(10);

/// The longest that a first download may take.
const FIRST: Duration = Duration::from_secs(120);

/// Measures clients of a server that was just started. Shares that are verified once and spliced from then on, and
/// everything that the server caches, are known after a first download. So that download is measured apart.
pub(super) fn measure(server: &Server, asked: &Asked, cores: Cores) -> anyhow::Result<Measured> {
    let before = Usage::now(server.pid(), cores.server, cores.client)?;
    let report = download(server, asked)?;
    if !asked.first {
        return measure_again(server, asked, cores);
    }
    let after = Usage::now(server.pid(), cores.server, cores.client)?;
    let group = &report.groups[0];
    Ok(used(
        [before, after],
        group.seconds,
        group.body_bytes,
        group.completed,
        cores,
    ))
}

/// Clients that repeat the request without an end.
fn clients(asked: &Asked, count: usize) -> Group {
    Group {
        reading: match asked.copy {
            true => Reading::Copy,
            false => Reading::Discard,
        },
        path: Some(format!("/{}", asked.path)),
        ..Group::new(Class::Fast, count)
    }
}

/// Downloads one object once.
fn download(server: &Server, asked: &Asked) -> anyhow::Result<Report> {
    let mut plan = Plan::new(&server.url(""));
    plan.groups.push(Group {
        requests: Some(1),
        ..clients(asked, 1)
    });
    plan.duration = FIRST;
    let report = penstock_load::run(&plan)?;
    no_faults(&report)?;
    ensure!(
        report.groups[0].completed == 1,
        "a first download takes longer than {} s",
        FIRST.as_secs()
    );
    Ok(report)
}

fn no_faults(report: &Report) -> anyhow::Result<()> {
    for group in &report.groups {
        if let Some(fault) = group.faults.first() {
            bail!("{} faults, the first: {}", fault.count, fault.first);
        }
    }
    Ok(())
}

/// Measures clients without an end, from the end of the warm-up on.
fn measure_again(server: &Server, asked: &Asked, cores: Cores) -> anyhow::Result<Measured> {
    let warm_up = WARM_UP.max(asked.span / 8);
    let mut plan = Plan::new(&server.url(""));
    plan.groups.push(clients(asked, asked.connections as usize));
    plan.duration = warm_up + asked.span + LATE;
    // Usage is read twice: after the warm-up, and at the end.
    let mut first: Option<(Progress, Usage)> = None;
    let mut last = None;
    let mut problem = None;
    let report = penstock_load::run_with(&plan, |progress| {
        let over = first.is_some_and(|(start, _)| {
            progress.elapsed >= start.elapsed + asked.span && progress.body_bytes > start.body_bytes
        });
        let warm = progress.elapsed >= warm_up && progress.body_bytes > 0;
        if last.is_none() && (over || warm && first.is_none()) {
            match Usage::now(server.pid(), cores.server, cores.client) {
                Ok(usage) if over => last = Some((*progress, usage)),
                Ok(usage) => first = Some((*progress, usage)),
                Err(error) => problem = Some(error),
            }
        }
        match last.is_some() || problem.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    no_faults(&report)?;
    let (Some((start, before)), Some((end, after))) = (first, last) else {
        bail!(
            "the clients hang: {} bytes in {:.1} s",
            report.groups[0].body_bytes,
            report.seconds
        );
    };
    Ok(used(
        [before, after],
        (end.elapsed - start.elapsed).as_secs_f64(),
        end.body_bytes - start.body_bytes,
        end.completed - start.completed,
        cores,
    ))
}

/// Divides the usage by bytes and responses.
fn used(
    [before, after]: [Usage; 2],
    seconds: f64,
    body_bytes: u64,
    completed: u64,
    cores: Cores,
) -> Measured {
    let gigabytes = body_bytes as f64 / 1e9;
    let server_core = after.server_core - before.server_core;
    let client_core = after.client_core - before.client_core;
    // One core may serve both.
    let both = if cores.server == cores.client {
        server_core
    } else {
        server_core + client_core
    };
    Measured {
        gb_s: gigabytes / seconds,
        requests_s: completed as f64 / seconds,
        process_per_gb: (after.process - before.process) / gigabytes,
        core_per_gb: server_core / gigabytes,
        both_per_gb: both / gigabytes,
        server_busy: server_core / seconds,
        client_busy: client_core / seconds,
        resident_most: after.resident_most,
    }
}
