//! `penstock get`: writes an object or a Tahoe-LAFS file to a file or standard output.

use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::get::{self, GetOptions};
use penstock_store::tahoe::get as tahoe;

use super::tahoe::{Source, Sources};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// The object's name; with --tahoe-node, the file's read-cap
    #[arg(value_name = "KEY|CAP", required_unless_present = "cap_file")]
    name: Option<String>,
    /// Only these bytes of a Tahoe-LAFS file: the first and the last, counted from 0
    #[arg(long, value_name = "FIRST-LAST", requires = "nodes", conflicts_with = "stores", value_parser = range)]
    range: Option<Range<u64>>,
    /// Where to write it; `-` is standard output, and the default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        sources,
        name,
        range,
        output,
    } = arguments;
    let output = output.filter(|path| path.as_os_str() != "-");
    let output = output.as_deref();
    match sources.source(name)? {
        Source::Stores(stores, key) => {
            let key: Key = key.context("no key: say which object to get")?;
            let options = GetOptions {
                stores,
                key,
                stale: false,
            };
            write(output, |out, progress| match out {
                Out::File(path) => get::get_file(&options, path, progress),
                Out::Stream(out) => get::get(&options, out, progress),
            })
        }
        Source::Tahoe { nodes, cap, limits } => {
            let options = tahoe::GetOptions {
                nodes,
                cap,
                range,
                limits,
            };
            write(output, |out, progress| match out {
                Out::File(path) => tahoe::get_file(&options, path, progress),
                Out::Stream(out) => tahoe::get(&options, out, progress),
            })
        }
    }
}

/// Where bytes go.
enum Out<'a> {
    File(&'a Path),
    Stream(&'a mut dyn Write),
}

/// Runs `get`, and reports what it wrote if that was a file.
fn write<R: Display, E: std::error::Error + Send + Sync + 'static>(
    output: Option<&Path>,
    get: impl FnOnce(Out<'_>, &Progress) -> Result<R, E>,
) -> anyhow::Result<()> {
    let progress = Progress::on_terminal("get");
    match output {
        Some(path) => {
            let report = get(Out::File(path), &progress)?;
            drop(progress);
            eprintln!("{report}");
        }
        None => drop(get(Out::Stream(&mut io::stdout().lock()), &progress)?),
    }
    Ok(())
}

/// Reads `FIRST-LAST`, both included.
fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong =
        || format!("{text:?} is not FIRST-LAST: two numbers, the first no larger than the last");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last: u64 = last.parse().map_err(|_| wrong())?;
    let end = last
        .checked_add(1)
        .filter(|_| first <= last)
        .ok_or_else(wrong)?;
    Ok(first..end)
}
