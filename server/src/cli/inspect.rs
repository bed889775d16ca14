//! `penstock inspect`: shows what one share file contains.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use penstock_store::Progress;
use penstock_store::{inspect, tahoe};
use serde::Serialize;

use super::output::json_document;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the blocks too and count the leaves (of a Tahoe-LAFS share, the blocks) that don't match
    /// their checksum
    #[arg(long)]
    leaves: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// The share file, of a store or of a Tahoe-LAFS node
    #[arg(value_name = "SHAREFILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { leaves, json, file } = arguments;
    let progress = Progress::on_terminal("inspect");
    let good = if tahoe::inspect::recognises(file) {
        let inspection = tahoe::inspect::inspect(file, *leaves, &progress)?;
        drop(progress);
        say_inspection(&inspection, *json);
        inspection.good()
    } else {
        let inspection = inspect::inspect(file, *leaves, &progress)?;
        drop(progress);
        say_inspection(&inspection, *json);
        inspection.good()
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say_inspection(inspection: &(impl Display + Serialize), json: bool) {
    match json {
        // The status is a finding, also if nobody reads the rest.
        true => drop(json_document(&mut std::io::stdout().lock(), inspection)),
        false => say!("{inspection}"),
    }
}
