//! `penstock ls`: lists the objects in stores.

use std::process::ExitCode;

use penstock_store::ls::{self, Listed, LsOptions};

use super::output::{json_line, write_all};
use super::stores::Stores;
use super::talk::warn;

/// The list is sorted by key, so it is held in memory: about 250 bytes for each object, and its key.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Only objects whose keys begin like this
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    prefix: String,
    /// Show dates, exact sizes, generations and digests
    #[arg(short, long, conflicts_with = "json")]
    long: bool,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        stores,
        prefix,
        long,
        json,
    } = arguments;
    let stores = stores.open()?;
    let listing = ls::ls(&LsOptions { stores, prefix })?;
    for problem in &listing.problems {
        warn(problem);
    }
    if !listing.complete {
        warn("the list may lack objects");
    }
    write_all(u8::from(!listing.complete), |out| {
        for listed in &listing.objects {
            match listed {
                _ if json => json_line(out, listed)?,
                Listed::Object(entry) if long => writeln!(out, "{}", entry.long())?,
                listed => writeln!(out, "{listed}")?,
            }
        }
        Ok(())
    })
}
