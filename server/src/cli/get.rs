//! `penstock get`: writes an object or a Tahoe-LAFS file to a file or standard output.

use std::fmt::Display;
use std::io::{self, IoSlice, StdoutLock, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::get::{self, GetOptions};
use penstock_store::tahoe::get as tahoe;
use serde::Serialize;

use super::output::{READER_GONE, json_document, write_all};
use super::tahoe::{Source, Sources};
use super::talk::Talk;
use super::usage::WrongUsage;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// The object's name; with --tahoe-node, the file's read-cap
    #[arg(value_name = "KEY|CAP", required_unless_present = "cap_file")]
    name: Option<String>,
    /// Only these bytes of a Tahoe-LAFS file: the first and the last, counted from 0
    #[arg(long, value_name = "FIRST-LAST", requires = "nodes", conflicts_with_all = ["stores", "config"], value_parser = range)]
    range: Option<Range<u64>>,
    /// Read an older put where too few shares of the newest are left
    #[arg(long)]
    allow_stale: bool,
    /// Where to write it; `-` is standard output, and the default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print a JSON document about what was read; the object goes to a file then (--output)
    #[arg(long)]
    json: bool,
}

/// What JSON has of it.
#[derive(Serialize)]
struct Document<'a, R> {
    output: String,
    #[serde(flatten)]
    report: &'a R,
}

pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let Arguments {
        sources,
        name,
        range,
        allow_stale,
        output,
        json,
    } = arguments;
    let output = output.filter(|path| path.as_os_str() != "-");
    let output = output.as_deref();
    if json && output.is_none() {
        // A program could not tell the one from the other.
        let text =
            "--json and the object would both go to standard output: name a file with --output";
        return Err(WrongUsage(text).into());
    }
    let way = Way { output, json, talk };
    match sources.source(name)? {
        Source::Stores(stores, key) => {
            let key: Key = key.ok_or(WrongUsage("no key: say which object to get"))?;
            let options = GetOptions {
                stores,
                key,
                stale: allow_stale,
            };
            way.run(|out, progress| match out {
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
            way.run(|out, progress| match out {
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

/// Where bytes go, and what is said of them.
struct Way<'a> {
    output: Option<&'a Path>,
    json: bool,
    talk: Talk,
}

impl Way<'_> {
    /// Runs `get`, and reports what it wrote if that was a file.
    fn run<R: Display + Serialize, E: std::error::Error + Send + Sync + 'static>(
        self,
        get: impl FnOnce(Out<'_>, &Progress) -> Result<R, E>,
    ) -> anyhow::Result<ExitCode> {
        let progress = self.talk.progress("get", self.json);
        let Some(path) = self.output else {
            let mut out = Output {
                out: io::stdout().lock(),
                reader_gone: false,
            };
            let result = get(Out::Stream(&mut out), &progress);
            if out.reader_gone {
                return Ok(ExitCode::from(READER_GONE));
            }
            result?;
            return Ok(ExitCode::SUCCESS);
        };
        let report = get(Out::File(path), &progress)?;
        drop(progress);
        if self.json {
            let document = Document {
                output: path.display().to_string(),
                report: &report,
            };
            return write_all(0, |out| json_document(out, &document));
        }
        self.talk.say(report);
        Ok(ExitCode::SUCCESS)
    }
}

/// Standard output, which knows whether its reader went away, whatever error the operation makes of that.
struct Output {
    out: StdoutLock<'static>,
    reader_gone: bool,
}

impl Output {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.reader_gone |= error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.noted(result)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = self.out.write_vectored(parts);
        self.noted(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.noted(result)
    }
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
