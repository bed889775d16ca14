//! `penstock rebalance`: moves shares to the stores where they belong now.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use penstock_store::Subject;
use penstock_store::rebalance::{Moved, RebalanceOptions, RebalanceReport, rebalance};
use serde::Serialize;

use super::output::{Line, Lines, about};
use super::stores::Stores;
use super::talk::{Talk, warn};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Empty this store, one of those given: nothing is put there any more, until `penstock init` takes it back into use
    #[arg(long, value_name = "DIR")]
    drain: Vec<PathBuf>,
    /// Bytes per second at most, for instance 50MiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object per line: one for each share that is moved, and a summary
    #[arg(long)]
    json: bool,
}

/// What JSON has of a share or a store.
#[derive(Serialize)]
struct Action<'a> {
    dry_run: bool,
    #[serde(flatten)]
    moved: &'a Moved,
}

/// What JSON has of the whole.
#[derive(Serialize)]
struct Summary<'a> {
    dry_run: bool,
    #[serde(flatten)]
    report: &'a RebalanceReport,
}

/// Exits with 1 if a share could not be moved.
pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let Arguments {
        stores,
        drain,
        rate,
        dry_run,
        json,
    } = arguments;
    let options = RebalanceOptions {
        stores: stores.open()?,
        drain,
        rate: rate.map(|rate| rate.as_u64()),
        dry_run,
    };
    let progress = talk.progress("rebalance", json || dry_run);
    let mut lines = Lines::default();
    // Called with the progress bar out of the way.
    let mut say = |subject: &Subject, moved: Moved| {
        if json {
            lines.json(&Line::Action {
                about: subject.into(),
                message: moved.to_string(),
                action: Action {
                    dry_run,
                    moved: &moved,
                },
            });
        }
        match moved {
            Moved::Failed { .. } | Moved::PassedOver(_) => warn(about(subject, moved)),
            _ if json => {}
            // What would be moved is what was asked for.
            _ if dry_run => lines.text(about(subject, moved)),
            _ => talk.say(about(subject, moved)),
        }
    };
    let report = rebalance(&options, &progress, &mut say)?;
    drop(progress);
    if json {
        let report = Summary {
            dry_run,
            report: &report,
        };
        lines.json(&Line::Summary {
            complete: report.report.failed == 0,
            report,
        });
    } else if dry_run {
        lines.text(format_args!("nothing was moved; a run would: {report}"));
    } else {
        talk.say(report);
    }
    lines.finish()?;
    Ok(ExitCode::from(u8::from(report.failed > 0)))
}
