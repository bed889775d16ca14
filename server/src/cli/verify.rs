//! `penstock verify`: checks every byte and reports damage.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::tahoe::verify as tahoe;
use penstock_store::verify::{self, Health, VerifyOptions, VerifyReport};
use penstock_store::{Store, Walk};
use serde::Serialize;

use super::metrics_file::MetricsFile;
use super::output::{About, Lines, about};
use super::tahoe::{Source, Sources};
use super::talk::{Talk, warn};
use super::walk;

/// A run over all objects can be slowed down, and divided among several nights.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    walk: walk::Arguments,
    /// Print a JSON object per line: one for each finding, and a summary
    #[arg(long)]
    json: bool,
    /// The object [default: all of them]; with --tahoe-node, the file's read-cap
    #[arg(value_name = "KEY|CAP")]
    name: Option<String>,
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a, T: Serialize> {
    Finding {
        #[serde(flatten)]
        about: About<'a>,
        /// Worth knowing, and not damage.
        note: bool,
        /// What is printed without --json.
        message: String,
        #[serde(flatten)]
        finding: T,
    },
    Summary {
        #[serde(flatten)]
        report: T,
    },
}

/// What the last line has of objects.
#[derive(Serialize)]
struct Summary<'a> {
    health: Health,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

pub(super) fn run(arguments: Arguments, talk: Talk) -> ExitCode {
    let metrics_file = arguments.walk.metrics_file.clone();
    let mut metrics = MetricsFile::start("verify");
    // Other commands exit with 1 after an error. Here 1 says that all can be read.
    let failed = |error: anyhow::Error| {
        warn(format_args!("{error:#}"));
        Health::Unreadable
    };
    if let Err(error) = MetricsFile::try_out(metrics_file.as_deref()) {
        return ExitCode::from(failed(error).exit_code());
    }
    let mut health = verify(arguments, talk, &mut metrics).unwrap_or_else(failed);
    if let Some(path) = metrics_file
        && let Err(error) = metrics.write(&path, health.exit_code())
    {
        health = failed(error);
    }
    ExitCode::from(health.exit_code())
}

fn verify(arguments: Arguments, talk: Talk, metrics: &mut MetricsFile) -> anyhow::Result<Health> {
    let Arguments {
        sources,
        walk,
        json,
        name,
    } = arguments;
    match sources.source(name)? {
        Source::Stores(stores, key) => {
            let report = verify_objects(stores, key, walk.walk(), talk, json)?;
            add_metrics(metrics, &report);
            Ok(report.health())
        }
        Source::Tahoe { .. } if walk.any() => {
            anyhow::bail!(
                "--rate, --low-priority, --cursor, --for, --max-bytes and --metrics-file are for stores"
            )
        }
        Source::Tahoe { nodes, cap, limits } => {
            verify_file(&tahoe::VerifyOptions { nodes, cap, limits }, talk, json)
        }
    }
}

fn verify_objects(
    stores: Vec<Store>,
    key: Option<Key>,
    walk: Walk,
    talk: Talk,
    json: bool,
) -> anyhow::Result<VerifyReport> {
    let options = VerifyOptions {
        stores,
        key,
        digest: true,
        walk,
    };
    let progress = talk.progress("verify", json);
    let mut lines = Lines::default();
    let result = verify::verify(&options, &progress, &mut |subject, finding| {
        // Called with the progress bar out of the way.
        match json {
            true => lines.json(&Line::Finding {
                about: subject.into(),
                note: finding.is_note(),
                message: finding.to_string(),
                finding: &finding,
            }),
            false => lines.text(about(subject, finding)),
        }
    });
    drop(progress);
    let report = result?;
    match json {
        true => lines.json(&Line::Summary {
            report: Summary {
                health: report.health(),
                report: &report,
            },
        }),
        false => lines.text(report),
    }
    lines.finish()?;
    Ok(report)
}

fn verify_file(options: &tahoe::VerifyOptions, talk: Talk, json: bool) -> anyhow::Result<Health> {
    let progress = talk.progress("verify", json);
    let mut lines = Lines::default();
    let result = tahoe::verify(options, &progress, &mut |finding| match json {
        true => lines.json(&Line::Finding {
            about: About::default(),
            note: finding.is_note(),
            message: finding.to_string(),
            finding: &finding,
        }),
        false => lines.text(finding),
    });
    drop(progress);
    let report = result?;
    match json {
        true => lines.json(&Line::Summary { report: &report }),
        false => lines.text(report),
    }
    lines.finish()?;
    Ok(report.health)
}

fn add_metrics(metrics: &mut MetricsFile, report: &VerifyReport) {
    let VerifyReport {
        healthy,
        damaged,
        unreadable,
        without_redundancy,
        bytes,
        bad_leaves,
        stores_away,
        unlisted,
        stopped,
    } = *report;
    metrics.add_by(
        "objects",
        "Objects that the last run verified, by health",
        "health",
        &[
            ("healthy", healthy),
            ("damaged", damaged),
            ("unreadable", unreadable),
        ],
    );
    metrics.add(
        "objects_without_redundancy",
        "Objects that lose data with the next share",
        without_redundancy,
    );
    metrics.add("bad_leaves", "Leaves that were bad", bad_leaves);
    metrics.add("read_bytes", "Bytes of blocks that were read", bytes);
    metrics.add("stores_missing", "Stores that were away", stores_away);
    let help = "Directories that could not be listed";
    metrics.add("unlisted_directories", help, unlisted);
    let help = "Whether the last run left objects for the next one";
    metrics.add("stopped", help, stopped.into());
}
