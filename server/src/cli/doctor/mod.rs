//! `penstock doctor`: what the server can use on this machine, what is amiss in order of what it costs, and the line that
//! fixes it.

use std::path::Path;
use std::process::ExitCode;

use decode_kernel::arch::Kernel;
use penstock::config::Settings;
use penstock::config::settings::is_remote;
use penstock::config::values::{BackendChoice, ZeroCopyMode};
use penstock::control::{backend, preflight};
use penstock::io::Backend;
use penstock_store::{Presence, StoreError, presence};
use serde::Serialize;

use super::output::{json_document, write_finding};
use super::serve::Reported;
use check::{Check, Level, quoted};
use machine::Machine;

mod check;
mod disks;
mod machine;

/// What JSON has of it.
#[derive(Serialize)]
struct Document {
    /// Whether nothing is amiss.
    ok: bool,
    /// What is amiss first, by what it costs; then notes; then what is well.
    checks: Vec<Check>,
}

/// Exits with 0 if nothing is amiss.
pub(super) fn run(arguments: Reported) -> anyhow::Result<ExitCode> {
    let settings = arguments.serve.settings()?;
    let checks = in_order(checks(&settings, &Machine::here()));
    let ok = checks.iter().all(|check| check.ok);
    write_finding(u8::from(!ok), |out| {
        if arguments.json {
            return json_document(out, &Document { ok, checks });
        }
        for check in checks {
            writeln!(out, "{}{}", check.level.words(), check.text)?;
            if let Some(fix) = check.fix {
                writeln!(out, "        fix: {fix}")?;
            }
        }
        Ok(())
    })
}

/// What costs most first. Those of one level stay as they are, which is by what they cost, too.
fn in_order(mut checks: Vec<Check>) -> Vec<Check> {
    checks.sort_by_key(|check| check.level);
    checks
}

/// Everything that is looked at, of each level what costs most first.
fn checks(settings: &Settings, machine: &Machine) -> Vec<Check> {
    let mut checks = Vec::new();
    let plan = preflight::memory_plan(settings);
    match &plan {
        Ok(plan) => checks.push(Check::new("memory", Level::Good, plan.summary())),
        Err(error) => checks.push(Check::new("memory", Level::Stops, error.to_string())),
    }
    checks.push(kernel());
    checks.extend(stores(settings));
    checks.extend(disks::checks(machine, &disks::found(settings)));
    let uring = uring(settings, machine);
    let has_uring = uring.ok;
    checks.push(uring);
    if let Ok(plan) = &plan {
        let locked = preflight::locked_memory_advice(settings, plan).filter(|_| has_uring);
        let warnings = preflight::machine_warnings(settings, plan);
        checks.extend(locked.into_iter().chain(warnings).map(|advice| {
            let check = Check::new("machine", Level::Slows, advice.text);
            match advice.fix {
                Some(line) => check.fixed_by(line),
                None => check,
            }
        }));
    }
    checks.extend(machine.checks(settings));
    checks.push(zero_copy());
    checks
}

fn kernel() -> Check {
    let available: Vec<&str> = Kernel::available().map(Kernel::name).collect();
    match Kernel::requested() {
        Ok(kernel) => Check::new(
            "kernel",
            Level::Good,
            format!(
                "coding kernel {} (available: {})",
                kernel.name(),
                available.join(", ")
            ),
        ),
        Err(error) => Check::new("kernel", Level::Stops, error.to_string()),
    }
}

fn uring(settings: &Settings, machine: &Machine) -> Check {
    match backend::choose_io(BackendChoice::Uring, settings.cores) {
        Ok(_) => Check::new("io_uring", Level::Good, "io_uring can be used"),
        Err(error) => {
            let text = format!("io_uring can't be used, epoll takes its place: {error}");
            let check = Check::new("io_uring", Level::Slows, text);
            match machine.number("proc/sys/kernel/io_uring_disabled") {
                Some(1 | 2) => check.fixed_by("sysctl -w kernel.io_uring_disabled=0"),
                _ => check,
            }
        }
    }
}

fn zero_copy() -> Check {
    match backend::choose_zero_copy(ZeroCopyMode::Always, Backend::Uring) {
        Ok(_) => Check::new(
            "zero_copy",
            Level::Good,
            "zero-copy sends can be used (SEND_ZC)",
        ),
        Err(why) => Check::new(
            "zero_copy",
            Level::Slows,
            format!("no zero-copy sends: {why}"),
        ),
    }
}

/// Whether each store and node is there.
fn stores(settings: &Settings) -> Vec<Check> {
    let stores = settings.stores.iter().map(|dir| match is_remote(dir) {
        true => Check::new(
            "store",
            Level::Note,
            format!("store {}: remote, not asked here", dir.display()),
        ),
        false => store(dir),
    });
    let nodes = settings.tahoe_nodes.iter().map(|dir| match dir.read_dir() {
        Ok(_) => Check::new("node", Level::Good, format!("node {}", dir.display())),
        Err(error) => Check::new(
            "node",
            Level::EndangersData,
            format!("node {}: {error}", dir.display()),
        ),
    });
    stores.chain(nodes).collect()
}

fn store(dir: &Path) -> Check {
    match presence(&dir.into()) {
        Presence::Marked(_) => Check::new("store", Level::Good, format!("store {}", dir.display())),
        Presence::Unmarked(why) => {
            let text = format!("{why}; until then it is read and not written");
            let check = Check::new("store", Level::Note, text);
            match why {
                StoreError::Unmarked(_) => {
                    check.fixed_by(format!("penstock init --store {}", quoted(dir)))
                }
                _ => check,
            }
        }
        // It names the directory.
        Presence::Absent(why) => Check::new("store", Level::EndangersData, why.to_string())
            .fixed_by(format!("mount {}", quoted(dir))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_most_comes_first() {
        let levels = [
            Level::Good,
            Level::Slows,
            Level::Note,
            Level::Stops,
            Level::EndangersData,
            Level::Slows,
        ];
        let checks = levels.iter().zip(["a", "b", "c", "d", "e", "f"]);
        let checks = checks.map(|(level, text)| Check::new("machine", *level, text));
        let ordered = in_order(checks.collect());
        let texts: Vec<&str> = ordered.iter().map(|check| check.text.as_str()).collect();
        assert_eq!(texts, ["d", "e", "b", "f", "c", "a"]);
        let ok: Vec<bool> = ordered.iter().map(|check| check.ok).collect();
        assert_eq!(ok, [false, false, false, false, true, true]);
    }
}
