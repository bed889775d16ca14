//! `penstock stat`: everything about one object that headers tell.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::stat;

use super::output::{json_document, write_all};
use super::stores::Stores;
use super::talk::warn;

/// Reads headers only: `verify` also reads the bytes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// The object
    #[arg(value_parser = super::usage::key)]
    key: Key,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { stores, key, json } = arguments;
    let result = stores
        .open()
        .and_then(|stores| Ok(stat::stat(&stores, key)?))
        .and_then(|stat| {
            write_all(stat.state.exit_code(), |out| match json {
                true => json_document(out, &stat),
                false => writeln!(out, "{stat}"),
            })
        });
    // Other commands exit with 1 after an error. Here 1 says that there is no such object.
    result.unwrap_or_else(|error| {
        warn(format_args!("{error:#}"));
        ExitCode::from(2)
    })
}
