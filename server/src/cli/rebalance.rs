//! `penstock rebalance`: moves shares to the stores where they belong now.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use penstock_store::Progress;
use penstock_store::rebalance::{RebalanceOptions, rebalance};

use super::stores::Stores;

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
}

/// Exits with 1 if a share could not be moved.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let options = RebalanceOptions {
        stores: arguments.stores.open()?,
        drain: arguments.drain,
        rate: arguments.rate.map(|rate| rate.as_u64()),
        dry_run: arguments.dry_run,
    };
    let progress = Progress::on_terminal("rebalance");
    let report = rebalance(&options, &progress, &mut |name, moved| match name {
        // Called with the progress bar out of the way.
        "" => say!("{moved}"),
        name => say!("{name}: {moved}"),
    })?;
    drop(progress);
    if options.dry_run {
        say!("nothing was moved; a run would: {report}");
    } else {
        say!("{report}");
    }
    Ok(if report.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
