//! `penstock inspect`: what one share file says of itself.

use std::path::PathBuf;
use std::process::ExitCode;

use penstock_tools::Progress;
use penstock_tools::inspect;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the blocks too and count the leaves that don't match their checksum
    #[arg(long)]
    leaves: bool,
    /// The share file
    #[arg(value_name = "SHAREFILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let progress = Progress::on_terminal("inspect");
    let inspection = inspect::inspect(&arguments.file, arguments.leaves, &progress)?;
    drop(progress);
    println!("{inspection}");
    Ok(if inspection.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
