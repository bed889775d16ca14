//! `penstock rm`: removes objects.

use std::io::{self, Write as _};
use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::rm;

use super::stores::Stores;

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
    /// The objects
    #[arg(value_name = "KEY", value_parser = super::key)]
    keys: Vec<Key>,
}

/// Goes on after a failure, and exits with 1 then.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let stores = arguments.stores.open()?;
    let mut keys = arguments.keys;
    if let Some(prefix) = &arguments.prefix {
        keys.extend(rm::with_prefix(&stores, prefix)?);
        keys.sort();
        keys.dedup();
    }
    let mut status = ExitCode::SUCCESS;
    for key in &keys {
        if arguments.dry_run {
            say!("would remove {key}");
            continue;
        }
        match rm::rm(&stores, key) {
            Ok(report) => {
                say!("removed {key}: {} files", report.files);
                for warning in report.warnings {
                    let _ = writeln!(io::stderr(), "penstock: {key}: {warning}");
                }
            }
            Err(error) => {
                let _ = writeln!(io::stderr(), "penstock: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}
