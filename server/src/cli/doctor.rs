//! `penstock doctor`: what the server can use on this machine, and the command that fixes what it can't.

use std::process::ExitCode;

use decode_kernel::arch::Kernel;
use penstock::config::values::{BackendChoice, ZeroCopyMode};
use penstock::control::{backend, preflight};
use penstock::io::Backend;

use serde::Serialize;

use super::output::json_document;
use super::serve::Reported;

/// What JSON has of it.
#[derive(Serialize)]
struct Document {
    /// Whether every check passed.
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    /// What was looked at: `io_uring`, `zero_copy`, `kernel`, `memory`, `machine`, `store` or `node`.
    check: &'static str,
    ok: bool,
    text: String,
}

/// Exits with 0 if every check passed.
pub(super) fn run(arguments: Reported) -> anyhow::Result<ExitCode> {
    let Reported { serve, json } = arguments;
    let settings = serve.settings()?;
    let mut checks = Vec::new();
    let mut say = |check: &'static str, ok: bool, text: String| {
        if !json {
            say!("{} {text}", if ok { "ok     " } else { "amiss  " });
        }
        checks.push(Check { check, ok, text });
    };

    let uring = backend::choose_io(BackendChoice::Uring, settings.cores);
    match &uring {
        Ok(_) => say("io_uring", true, "io_uring can be used".to_owned()),
        Err(error) => say(
            "io_uring",
            false,
            format!("io_uring can't be used, epoll takes its place: {error}"),
        ),
    }
    match backend::choose_zero_copy(ZeroCopyMode::Always, Backend::Uring) {
        Ok(_) => say(
            "zero_copy",
            true,
            "zero-copy sends can be used (SEND_ZC)".to_owned(),
        ),
        Err(why) => say("zero_copy", false, format!("no zero-copy sends: {why}")),
    }
    let kernels: Vec<&str> = Kernel::available().map(Kernel::name).collect();
    match Kernel::requested() {
        Ok(kernel) => say(
            "kernel",
            true,
            format!(
                "coding kernel {} (available: {})",
                kernel.name(),
                kernels.join(", ")
            ),
        ),
        Err(error) => say("kernel", false, error.to_string()),
    }
    match preflight::memory_plan(&settings) {
        Ok(plan) => {
            say("memory", true, plan.summary());
            let locked =
                preflight::locked_memory_advice(&settings, &plan).filter(|_| uring.is_ok());
            for warning in locked
                .into_iter()
                .chain(preflight::machine_warnings(&settings, &plan))
            {
                say("machine", false, warning);
            }
        }
        Err(error) => say("memory", false, error.to_string()),
    }
    let stores = settings.stores.iter().map(|dir| ("store", dir));
    let nodes = settings.tahoe_nodes.iter().map(|dir| ("node", dir));
    for (what, dir) in stores.chain(nodes) {
        match std::fs::read_dir(dir) {
            Ok(_) => say(what, true, format!("{what} {}", dir.display())),
            Err(error) => say(what, false, format!("{what} {}: {error}", dir.display())),
        }
    }
    let ok = checks.iter().all(|check| check.ok);
    if json {
        // The status is a finding, also if nobody reads the rest.
        let _ = json_document(&mut std::io::stdout().lock(), &Document { ok, checks });
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
