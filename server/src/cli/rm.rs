//! `penstock rm`: removes objects.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::{Count, Store, rm};
use serde::Serialize;

use super::output::{About, Line, Lines};
use super::stores::Stores;
use super::talk::{Talk, warn};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Remove all objects whose names begin with this
    #[arg(long, value_name = "PREFIX", required_unless_present = "keys")]
    prefix: Option<String>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object per line: one for each object, and a summary
    #[arg(long)]
    json: bool,
    /// The objects
    #[arg(value_name = "KEY", value_parser = super::usage::key)]
    keys: Vec<Key>,
}

/// What became of an object.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Removal {
    /// It is gone, or would be.
    Removed {
        dry_run: bool,
        /// Files that were removed.
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<usize>,
        /// Stores that could not be told, and why.
        warnings: Vec<String>,
    },
    /// It is as it was.
    Failed { reason: String },
}

impl Removal {
    /// Removes an object, unless it is a dry run.
    fn of(key: &Key, stores: &[Store], dry_run: bool) -> Removal {
        if dry_run {
            return Removal::Removed {
                dry_run,
                files: None,
                warnings: Vec::new(),
            };
        }
        match rm::rm(stores, key) {
            Ok(rm::RmReport { files, warnings }) => Removal::Removed {
                dry_run,
                files: Some(files),
                warnings,
            },
            Err(error) => Removal::Failed {
                reason: error.to_string(),
            },
        }
    }

    /// What is said of it.
    fn text(&self, key: &Key) -> String {
        match self {
            Removal::Removed { files: None, .. } => format!("would remove {key}"),
            Removal::Removed {
                files: Some(files), ..
            } => format!("removed {key}: {}", Count(*files, "file")),
            Removal::Failed { reason } => reason.clone(),
        }
    }
}

/// Totals.
#[derive(Default, Serialize)]
struct Report {
    dry_run: bool,
    removed: u64,
    failed: u64,
    files: u64,
}

impl Report {
    fn count(&mut self, removal: &Removal) {
        match removal {
            Removal::Removed { files, .. } => {
                self.removed += 1;
                self.files += files.unwrap_or(0) as u64;
            }
            Removal::Failed { .. } => self.failed += 1,
        }
    }
}

/// Goes on after a failure, and exits with 1 then.
pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let Arguments {
        stores,
        prefix,
        dry_run,
        json,
        mut keys,
    } = arguments;
    let stores = stores.open()?;
    if let Some(prefix) = &prefix {
        keys.extend(rm::with_prefix(&stores, prefix)?);
        keys.sort();
        keys.dedup();
    }
    let mut lines = Lines::default();
    let mut report = Report {
        dry_run,
        ..Report::default()
    };
    for key in &keys {
        let removal = Removal::of(key, &stores, dry_run);
        report.count(&removal);
        let text = removal.text(key);
        match &removal {
            Removal::Failed { .. } => warn(&text),
            // What would be removed is what was asked for.
            Removal::Removed { dry_run: true, .. } if !json => lines.text(&text),
            Removal::Removed { warnings, .. } => {
                if !json {
                    talk.say(&text);
                }
                for warning in warnings {
                    warn(format_args!("{key}: {warning}"));
                }
            }
        }
        if json {
            lines.json(&Line::Action {
                about: About::object(key.as_str()),
                message: text,
                action: &removal,
            });
        }
    }
    let Report {
        removed,
        failed,
        files,
        ..
    } = report;
    if json {
        lines.json(&Line::Summary {
            complete: failed == 0,
            report: &report,
        });
    } else if keys.len() > 1 && !dry_run {
        talk.say(format_args!(
            "{} removed, {failed} not removed; {}",
            Count(removed, "object"),
            Count(files, "file")
        ));
    }
    lines.finish()?;
    Ok(ExitCode::from(u8::from(failed > 0)))
}
