//! `penstock put`: stores files or standard input as shares.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use decode_kernel::code::CodeKind;
use decode_kernel::share::{Fields, Key};
use penstock::config::bounds::SizeBounds;
use penstock_store::put::{self, Content, Placement, PutOptions, PutReport, Puts, SourceFile};
use penstock_store::{Count, Progress, Store};
use serde::Serialize;
use walkdir::WalkDir;

use super::output::{About, Line, Lines};
use super::stores::Stores;
use super::talk::{Talk, warn};
use super::usage::WrongUsage;

/// What the share format allows.
const BLOCK_BOUNDS: SizeBounds = SizeBounds {
    least: 4 << 10,
    most: 16 << 20,
    step: 4 << 10,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// Data shares: as many as are needed to read
    #[arg(long, value_name = "K")]
    data: u16,
    /// Parity shares: as many as may be lost
    #[arg(long, value_name = "M", required_unless_present = "no_redundancy")]
    parity: Option<u16>,
    /// No parity: the loss of any store loses the object
    #[arg(long, conflicts_with = "parity")]
    no_redundancy: bool,
    /// Write at least so many shares, from K+1 on, if not all stores can be written; `penstock repair` adds the others
    /// [default: all of them]
    #[arg(long, value_name = "N")]
    min_shares: Option<u16>,
    /// Leave an object that is there already as it is, which is an error
    #[arg(long)]
    no_clobber: bool,
    /// The object's name, for one file [default: the file's name]
    #[arg(long, value_parser = super::usage::key)]
    key: Option<Key>,
    /// Put this before every name, for instance `photos/`
    #[arg(long, value_name = "TEXT", conflicts_with = "key")]
    prefix: Option<String>,
    /// Store all files below directories, named by their paths from the directory on: `dir/sub/file`
    #[arg(short, long)]
    recursive: bool,
    /// Bytes of one block: how much of the file goes to one share at a time [default: 64KiB; less, down to
    /// 16KiB, with more than 5 data shares]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<ByteSize>,
    /// rs8 (up to 256 shares) or rs16 [default: what fits the number of shares]
    #[arg(long)]
    code: Option<CodeKind>,
    /// Media type [default: guessed from the key]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    said: Said,
    /// Print a JSON object per line: one for each file, and a summary
    #[arg(long)]
    json: bool,
    /// The files to store; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What is said of the objects, and sent with them.
#[derive(Debug, clap::Args)]
struct Said {
    /// What clients do with it, for instance `attachment; filename="report.pdf"`
    #[arg(long, value_name = "VALUE")]
    content_disposition: Option<String>,
    /// How long caches keep it, for instance `public, max-age=86400`
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<String>,
    /// How the file is compressed, for instance `gzip`: it is sent as it is, whatever a client accepts
    #[arg(long, value_name = "VALUE")]
    content_encoding: Option<String>,
    /// Its languages, for instance `de, en-GB`
    #[arg(long, value_name = "VALUE")]
    content_language: Option<String>,
    /// When it expires: after a time like `30d`, or at a date like `2030-01-31T12:00:00Z`. From then on it answers 404,
    /// and `penstock repair` removes it
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<NonZeroU64>,
    /// A header field of its own; its name begins with `X-`. Repeat it for more
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
}

impl Said {
    fn fields(&self) -> anyhow::Result<Fields> {
        let known = [
            ("Content-Disposition", &self.content_disposition),
            ("Cache-Control", &self.cache_control),
            ("Content-Encoding", &self.content_encoding),
            ("Content-Language", &self.content_language),
        ];
        let known = known
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let own = self.headers.iter();
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        Ok(Fields::new(known.chain(own))?)
    }
}

/// Reads `NAME: VALUE`, the name beginning with `X-`: the other fields have options.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} has no colon: write it as \"X-Name: value\""))?;
    let starts = name.get(..2).unwrap_or_default();
    if !starts.eq_ignore_ascii_case("x-") {
        return Err(format!("{name:?} does not begin with X-"));
    }
    let value = value.trim_matches([' ', '\t']);
    // A field that can't be stored is best told with the option that has it.
    Fields::new([(name, value)]).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads a time from now, or a date, as seconds since 1970. One that has passed is a mistake.
fn expiry(text: &str) -> Result<NonZeroU64, String> {
    let now = SystemTime::now();
    let time = match humantime::parse_duration(text) {
        Ok(duration) => now.checked_add(duration).filter(|time| *time > now),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let time = time.ok_or_else(|| {
        format!("{text:?} is neither a time like 30d or 12h nor a date like 2030-01-31T12:00:00Z")
    })?;
    if time <= now {
        return Err(format!("{text} has passed"));
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    NonZeroU64::new(since.as_secs()).ok_or_else(|| format!("{text} has passed"))
}

/// What JSON has of a file.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Action<'a> {
    /// It is stored.
    Put {
        file: String,
        #[serde(flatten)]
        report: &'a PutReport,
    },
    /// It is not, and the object is as it was.
    Failed { file: String, reason: &'a str },
}

/// Totals.
#[derive(Default, Serialize)]
struct Report {
    stored: u64,
    failed: u64,
    bytes: u64,
}

/// Goes on after a file that can't be stored, and exits with 1 then.
pub(super) fn run(arguments: Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    if arguments.parity == Some(0) {
        let text = "--parity 0: the loss of any store would lose the object; if you want that, say --no-redundancy";
        return Err(WrongUsage(text).into());
    }
    if arguments.key.is_some() && (arguments.files.len() > 1 || arguments.recursive) {
        let text = "--key names one object: use --prefix for several files";
        return Err(WrongUsage(text).into());
    }
    let block_size = match arguments.block_size {
        None => put::default_block_bytes(arguments.data),
        Some(size) => BLOCK_BOUNDS.check("block-size", size)? as u32,
    };
    let mut work = Work {
        stores: arguments.stores.open()?,
        fields: arguments.said.fields()?,
        puts: Puts::default(),
        progress: talk.progress("put", arguments.json),
        talk,
        lines: Lines::default(),
        report: Report::default(),
        passed_over: BTreeSet::new(),
        block_size,
        arguments,
    };
    for file in work.arguments.files.clone() {
        if work.arguments.recursive && file.is_dir() {
            work.put_directory(&file);
        } else {
            let name = work
                .arguments
                .key
                .clone()
                .map_or_else(|| work.name(file_name(&file)), Ok);
            work.put(&file, name);
        }
    }
    work.finish()
}

/// The name of a file without its directory.
fn file_name(path: &Path) -> anyhow::Result<&str> {
    if path.as_os_str() == "-" {
        bail!("standard input has no name: give one with --key");
    }
    let name = path
        .file_name()
        .context("the file has no name; use --key")?;
    name.to_str()
        .context("the file's name is not UTF-8; use --key")
}

struct Work {
    arguments: Arguments,
    stores: Vec<Store>,
    fields: Fields,
    puts: Puts,
    progress: Progress,
    talk: Talk,
    lines: Lines,
    report: Report,
    /// Stores that were said to be passed over: it is said once.
    passed_over: BTreeSet<String>,
    block_size: u32,
}

impl Work {
    /// The key for a file's name.
    fn name(&self, name: anyhow::Result<&str>) -> anyhow::Result<Key> {
        let prefix = self.arguments.prefix.as_deref().unwrap_or_default();
        Key::new(&format!("{prefix}{}", name?)).context("the file's name can't be a key; use --key")
    }

    /// Stores all files below a directory, in order.
    fn put_directory(&mut self, directory: &Path) {
        let parent = match directory.file_name() {
            // `put -r .` names files from here on.
            None => directory,
            Some(_) => directory.parent().unwrap_or(directory),
        };
        let walk = WalkDir::new(directory)
            .follow_links(true)
            .sort_by_file_name();
        for entry in walk {
            match entry {
                Err(error) => self.fail(directory, None, &error.into()),
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) => {
                    let path = entry.path().strip_prefix(parent).unwrap_or(entry.path());
                    let name = self.name(path.to_str().context("the file's name is not UTF-8"));
                    self.put(entry.path(), name);
                }
            }
        }
    }

    fn put(&mut self, file: &Path, key: anyhow::Result<Key>) {
        let key = match key {
            Ok(key) => key,
            Err(error) => return self.fail(file, None, &error),
        };
        match self.try_put(file, key.clone()) {
            Ok(report) => self.stored(file, &report),
            Err(error) => self.fail(file, Some(&key), &error),
        }
    }

    fn stored(&mut self, file: &Path, report: &PutReport) {
        let key = &report.header.key;
        self.report.stored += 1;
        self.report.bytes += report.header.geometry.size();
        self.progress.suspend(|| {
            match self.arguments.json {
                true => self.lines.json(&Line::Action {
                    about: About::object(key.as_str()),
                    message: report.to_string(),
                    action: Action::Put {
                        file: file.display().to_string(),
                        report,
                    },
                }),
                false => self.talk.say(report),
            }
            for passed in &report.passed_over {
                if self.passed_over.insert(passed.clone()) {
                    warn(passed);
                }
            }
            for warning in &report.warnings {
                warn(format_args!("{key}: {warning}"));
            }
        });
    }

    fn fail(&mut self, file: &Path, key: Option<&Key>, error: &anyhow::Error) {
        let file = file.display().to_string();
        let reason = format!("{error:#}");
        self.report.failed += 1;
        self.progress.suspend(|| {
            let message = format!("{file}: {reason}");
            warn(&message);
            if self.arguments.json {
                self.lines.json(&Line::Action {
                    about: key.map_or(About::default(), |key| About::object(key.as_str())),
                    message,
                    action: Action::Failed {
                        file,
                        reason: &reason,
                    },
                });
            }
        });
    }

    /// Says what was done in all.
    fn finish(mut self) -> anyhow::Result<ExitCode> {
        drop(self.progress);
        let Report {
            stored,
            failed,
            bytes,
        } = self.report;
        if self.arguments.json {
            self.lines.json(&Line::Summary {
                complete: failed == 0,
                report: &self.report,
            });
        } else if stored + failed > 1 {
            let size = ByteSize(bytes).display().iec();
            self.talk.say(format_args!(
                "{} stored, {failed} not stored; {size}",
                Count(stored, "object")
            ));
        }
        self.lines.finish()?;
        Ok(ExitCode::from(u8::from(failed > 0)))
    }

    fn try_put(&mut self, file: &Path, key: Key) -> anyhow::Result<PutReport> {
        let mut options = PutOptions {
            stores: self.stores.clone(),
            data: self.arguments.data,
            parity: self.arguments.parity.unwrap_or(0),
            key,
            block_size: self.block_size,
            code: self.arguments.code,
            content_type: self.arguments.content_type.clone(),
            expires: self.arguments.said.expires,
            fields: self.fields.clone(),
            size_hint: None,
            min_shares: self.arguments.min_shares,
            no_clobber: self.arguments.no_clobber,
            placement: Placement::Hashed,
        };
        let (mut source, mut stream): (SourceFile, Box<dyn Read>);
        let mut content = if file.as_os_str() == "-" {
            stream = Box::new(io::stdin().lock());
            Content::Stream(&mut stream)
        } else {
            let file = File::open(file).context("cannot open it")?;
            let metadata = file.metadata().context("cannot read its metadata")?;
            if metadata.is_dir() {
                bail!("it is a directory: -r stores the files in it");
            }
            if metadata.is_file() {
                source = SourceFile::new(file).context("cannot read its metadata")?;
                options.size_hint = Some(source.len());
                Content::File(&mut source)
            } else {
                stream = Box::new(file);
                Content::Stream(&mut stream)
            }
        };
        Ok(self.puts.put(&mut content, &options, &self.progress)?)
    }
}
