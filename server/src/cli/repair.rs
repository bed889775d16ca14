//! `penstock repair`: rebuilds missing and damaged shares.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::repair::{self, RepairOptions};

use super::Stores;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// The object [default: all of them]
    #[arg(value_parser = super::key)]
    key: Option<Key>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let options = RepairOptions {
        stores: arguments.stores.stores,
        key: arguments.key,
    };
    let progress = Progress::on_terminal("repair");
    let report = repair::repair(&options, &progress, &mut |name, repaired| {
        // Called with the progress bar out of the way.
        say!("{name}: {repaired}");
    })?;
    drop(progress);
    say!("{report}");
    Ok(if report.complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
