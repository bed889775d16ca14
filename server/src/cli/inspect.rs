//! `penstock inspect`: shows what one share file contains.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use penstock_store::{inspect, tahoe};
use serde::Serialize;

use super::output::{json_document, write_finding};
use super::talk::Talk;

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

pub(super) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let Arguments { leaves, json, file } = arguments;
    let progress = talk.progress("inspect", *json);
    if tahoe::inspect::recognises(file) {
        let inspection = tahoe::inspect::inspect(file, *leaves, &progress)?;
        drop(progress);
        report(&inspection, inspection.good(), *json)
    } else {
        let inspection = inspect::inspect(file, *leaves, &progress)?;
        drop(progress);
        report(&inspection, inspection.good(), *json)
    }
}

fn report(
    inspection: &(impl Display + Serialize),
    good: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    write_finding(u8::from(!good), |out| match json {
        true => json_document(out, inspection),
        false => writeln!(out, "{inspection}"),
    })
}
