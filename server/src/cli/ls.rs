//! `penstock ls`: lists the objects in stores.

use std::io::{self, Write as _};

use penstock_store::ls;

use super::Stores;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for listed in ls::ls(&arguments.stores.stores)? {
        match writeln!(out, "{listed}") {
            // `ls | head` is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}
