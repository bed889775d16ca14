//! `penstock verify`: checks every byte and reports damage.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::tahoe::verify as tahoe;
use penstock_store::verify::{self, Health, VerifyOptions, VerifyReport};
use penstock_store::{Progress, Store, Walk};
use serde::Serialize;

use super::metrics_file::MetricsFile;
use super::output::{About, say_about, say_json};
use super::tahoe::{Source, Sources};
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

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let metrics_file = arguments.walk.metrics_file.clone();
    let mut metrics = MetricsFile::start("verify");
    // Other commands exit with 1 after an error. Here 1 says that all can be read.
    let failed = |error: anyhow::Error| {
        let _ = writeln!(io::stderr(), "penstock: {error:#}");
        Health::Unreadable
    };
    let mut health = verify(arguments, &mut metrics).unwrap_or_else(failed);
    if let Some(path) = metrics_file
        && let Err(error) = metrics.write(&path, health.exit_code())
    {
        health = failed(error);
    }
    ExitCode::from(health.exit_code())
}

fn verify(arguments: Arguments, metrics: &mut MetricsFile) -> anyhow::Result<Health> {
    let Arguments {
        sources,
        walk,
        json,
        name,
    } = arguments;
    match sources.source(name)? {
        Source::Stores(stores, key) => {
            let report = verify_objects(stores, key, walk.walk(), json)?;
            add_metrics(metrics, &report);
            Ok(report.health())
        }
        Source::Tahoe { .. } if walk.any() => {
            anyhow::bail!(
                "--rate, --low-priority, --cursor, --for, --max-bytes and --metrics-file are for stores"
            )
        }
        Source::Tahoe { nodes, cap, limits } => {
            verify_file(&tahoe::VerifyOptions { nodes, cap, limits }, json)
        }
    }
}

fn verify_objects(
    stores: Vec<Store>,
    key: Option<Key>,
    walk: Walk,
    json: bool,
) -> anyhow::Result<VerifyReport> {
    let options = VerifyOptions {
        stores,
        key,
        digest: true,
        walk,
    };
    let progress = Progress::on_terminal("verify");
    let result = verify::verify(&options, &progress, &mut |subject, finding| {
        // Called with the progress bar out of the way.
        match json {
            true => say_json(&Line::Finding {
                about: subject.into(),
                note: finding.is_note(),
                message: finding.to_string(),
                finding: &finding,
            }),
            false => say_about(subject, finding),
        }
    });
    drop(progress);
    let report = result?;
    let summary = Summary {
        health: report.health(),
        report: &report,
    };
    say_summary(json, &report, &summary);
    Ok(report)
}

fn verify_file(options: &tahoe::VerifyOptions, json: bool) -> anyhow::Result<Health> {
    let progress = Progress::on_terminal("verify");
    let result = tahoe::verify(options, &progress, &mut |finding| match json {
        true => say_json(&Line::Finding {
            about: About::default(),
            note: finding.is_note(),
            message: finding.to_string(),
            finding: &finding,
        }),
        false => say!("{finding}"),
    });
    drop(progress);
    let report = result?;
    say_summary(json, &report, &report);
    Ok(report.health)
}

fn say_summary(json: bool, text: &impl Display, report: &impl Serialize) {
    match json {
        true => say_json(&Line::Summary { report }),
        false => say!("{text}"),
    }
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
