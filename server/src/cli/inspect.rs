//! `penstock inspect`: shows what one share file contains.

use std::path::PathBuf;
use std::process::ExitCode;

use penstock_store::Progress;
use penstock_store::{inspect, tahoe};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the blocks too and count the leaves (of a Tahoe-LAFS share, the blocks) that don't match
    /// their checksum
    #[arg(long)]
    leaves: bool,
    /// The share file, of a store or of a Tahoe-LAFS node
    #[arg(value_name = "SHAREFILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let progress = Progress::on_terminal("inspect");
    let (text, good) = if tahoe::inspect::recognises(&arguments.file) {
        let inspection = tahoe::inspect::inspect(&arguments.file, arguments.leaves, &progress)?;
        (inspection.to_string(), inspection.good())
    } else {
        let inspection = inspect::inspect(&arguments.file, arguments.leaves, &progress)?;
        (inspection.to_string(), inspection.good())
    };
    drop(progress);
    say!("{text}");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
