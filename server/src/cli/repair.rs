//! `penstock repair`: rebuilds missing and damaged shares.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::repair::{self, RepairOptions, RepairReport};

use super::metrics_file::MetricsFile;
use super::output::{Line, Lines, about};
use super::stores::Stores;
use super::talk::{Talk, warn};
use super::walk;

/// A run over all objects can be slowed down, and divided among several nights.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    #[command(flatten)]
    walk: walk::Arguments,
    /// Print a JSON object per line: one for each action, and a summary
    #[arg(long)]
    json: bool,
    /// The object [default: all of them]
    #[arg(id = "name", value_name = "KEY", value_parser = super::usage::key)]
    key: Option<Key>,
}

pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let metrics_file = arguments.walk.metrics_file.clone();
    let mut metrics = MetricsFile::start("repair");
    MetricsFile::try_out(metrics_file.as_deref())?;
    let result = repair(arguments, talk);
    let status = match &result {
        Ok(report) => {
            add_metrics(&mut metrics, report);
            u8::from(!report.complete())
        }
        Err(_) => 1,
    };
    let written = metrics_file.map_or(Ok(()), |path| metrics.write(&path, status));
    result?;
    written?;
    Ok(ExitCode::from(status))
}

fn repair(arguments: Arguments, talk: Talk) -> anyhow::Result<RepairReport> {
    let Arguments {
        stores,
        walk,
        json,
        key,
    } = arguments;
    let options = RepairOptions {
        stores: stores.open()?,
        key,
        walk: walk.walk(),
    };
    let progress = talk.progress("repair", json);
    let mut lines = Lines::default();
    // Called with the progress bar out of the way.
    let result = repair::repair(&options, &progress, &mut |subject, repaired| {
        if json {
            lines.json(&Line::Action {
                about: subject.into(),
                message: repaired.to_string(),
                action: &repaired,
            });
        }
        match repaired.is_trouble() {
            true => warn(about(subject, repaired)),
            false if json => {}
            false => talk.say(about(subject, repaired)),
        }
    });
    drop(progress);
    let report = result?;
    match json {
        true => lines.json(&Line::Summary {
            complete: report.complete(),
            report: &report,
        }),
        false => talk.say(report),
    }
    lines.finish()?;
    Ok(report)
}

fn add_metrics(metrics: &mut MetricsFile, report: &RepairReport) {
    let RepairReport {
        healthy,
        repaired,
        failed,
        unreadable,
        without_redundancy,
        expired,
        bad_leaves,
        shares,
        bytes,
        stores_passed_over,
        unlisted,
        stopped,
    } = *report;
    metrics.add_by(
        "objects",
        "Objects that the last run looked at, by health afterwards",
        "health",
        &[
            ("healthy", healthy),
            ("repaired", repaired),
            ("damaged", failed.saturating_sub(unreadable)),
            ("unreadable", unreadable),
        ],
    );
    metrics.add(
        "objects_without_redundancy",
        "Objects that still have exactly as many good shares as they need",
        without_redundancy,
    );
    metrics.add(
        "expired_removed",
        "Objects that had expired and were removed",
        expired,
    );
    metrics.add("bad_leaves", "Leaves that were bad", bad_leaves);
    metrics.add("read_bytes", "Bytes of share files that were read", bytes);
    metrics.add("shares_rebuilt", "Shares that were rebuilt", shares);
    metrics.add(
        "stores_missing",
        "Stores that could not be written: away, without marker or read-only",
        stores_passed_over,
    );
    let help = "Directories that could not be listed";
    metrics.add("unlisted_directories", help, unlisted);
    let help = "Whether the last run left objects for the next one";
    metrics.add("stopped", help, stopped.into());
}
