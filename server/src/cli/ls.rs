//! `penstock ls`: lists the objects in stores.

use std::io::{self, Write as _};
use std::process::ExitCode;

use penstock_store::ls;

use super::{READER_GONE, Stores};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for listed in ls::ls(&arguments.stores.stores)? {
        match writeln!(out, "{listed}") {
            // `ls | head` is nothing to talk about.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::from(READER_GONE));
            }
            result => result?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
