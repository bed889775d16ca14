//! One measurement: clients against a running server, and what it used meanwhile.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::bail;
use penstock_benches::common::launch::Server;
use penstock_benches::common::usage::Usage;
use penstock_tools::load::{self, Class, Group, Plan, Progress, Reading};

/// The core of the server, and that of the clients.
#[derive(Clone, Copy)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
}

/// What the clients ask for.
#[derive(Clone)]
pub(super) struct Asked {
    /// Without a leading slash; `{N}` stands for a random number below N.
    pub(super) path: String,
    /// Bytes of one object.
    pub(super) bytes: u64,
    pub(super) connections: u32,
    /// Time measured.
    pub(super) span: Duration,
    /// Whether clients copy what they get.
    pub(super) copy: bool,
}

/// What was found.
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
    /// Largest resident memory of the server, in bytes.
    pub(super) resident_most: u64,
}

/// At least this long before anything counts: connections are made, windows grow, tables are read.
const WARM_UP: Duration = Duration::from_millis(250);

/// How long over its time a measurement may be until bytes have come: a machine may be busy.
const LATE: Duration = Duration::from_secs(10);

pub(super) fn measure(server: &Server, asked: &Asked, cores: Cores) -> anyhow::Result<Measured> {
    let group = Group {
        reading: if asked.copy {
            Reading::Copy
        } else {
            Reading::Discard
        },
        path: Some(format!("/{}", asked.path)),
        ..Group::new(Class::Fast, asked.connections as usize)
    };
    let warm_up = WARM_UP.max(asked.span / 8);
    let mut plan = Plan::new(&server.url(""));
    plan.groups.push(group);
    plan.duration = warm_up + asked.span + LATE;
    // Two looks at it: when it is warm, and when the time is over.
    let mut first: Option<(Progress, Usage)> = None;
    let mut last = None;
    let mut problem = None;
    let report = load::run_with(&plan, |progress| {
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
    for group in &report.groups {
        if let Some(fault) = group.faults.first() {
            bail!("{} faults, the first: {}", fault.count, fault.first);
        }
    }
    let (Some((start, before)), Some((end, after))) = (first, last) else {
        bail!(
            "the clients hang: {} bytes in {:.1} s",
            report.groups[0].body_bytes,
            report.seconds
        );
    };
    let seconds = (end.elapsed - start.elapsed).as_secs_f64();
    let gigabytes = (end.body_bytes - start.body_bytes) as f64 / 1e9;
    let server_core = after.server_core - before.server_core;
    let client_core = after.client_core - before.client_core;
    // One core may serve as both.
    let both = if cores.server == cores.client {
        server_core
    } else {
        server_core + client_core
    };
    Ok(Measured {
        gb_s: gigabytes / seconds,
        requests_s: (end.completed - start.completed) as f64 / seconds,
        process_per_gb: (after.process - before.process) / gigabytes,
        core_per_gb: server_core / gigabytes,
        both_per_gb: both / gigabytes,
        server_busy: server_core / seconds,
        client_busy: client_core / seconds,
        resident_most: after.resident_most,
    })
}
