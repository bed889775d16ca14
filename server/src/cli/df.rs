//! `penstock df`: how full the stores are.

use std::process::ExitCode;

use penstock_store::df::{self, StoreUsage};

use super::output::{json_line, write_all};
use super::stores::Stores;
use super::talk::warn;

/// A store's deviation says how much more share bytes it has than its part of all share bytes, which goes by capacity.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Don't walk through the stores to count their shares
    #[arg(long)]
    no_count: bool,
    /// Print a JSON object per line, one for each store
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let usages = df::df(&arguments.stores.open()?, !arguments.no_count)?;
    for usage in &usages {
        if let Some(reason) = &usage.reason {
            warn(reason);
        }
        if let Some(unread) = usage.shares.map(|shares| shares.unread).filter(|&n| n > 0) {
            let store = usage.path.display();
            warn(format_args!(
                "{store}: {unread} directories and files could not be read, and are not counted"
            ));
        }
    }
    let well = |usage: &StoreUsage| {
        usage.is_well() && usage.shares.is_none_or(|shares| shares.unread == 0)
    };
    let status = u8::from(!usages.iter().all(well));
    write_all(status, |out| {
        if arguments.json {
            return usages.iter().try_for_each(|usage| json_line(out, usage));
        }
        writeln!(out, "{}", df::table(&usages))
    })
}
