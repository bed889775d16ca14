//! Standard output of commands: lines, or JSON for programs. What they say besides is in [`talk`](super::talk).

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use penstock_store::Subject;
use serde::Serialize;

/// The exit status where the reader of what is written went away, as in `get … | head`: that of a program that the
/// kernel ends with SIGPIPE, which shells and `set -o pipefail` expect. Nothing is said about it.
pub(super) const READER_GONE: u8 = 128 + 13;

/// Writes all output of a command. Its status is `READER_GONE` if the reader went away, else `status`.
pub(super) fn write_all(
    status: u8,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    // `ls | head` is nothing to talk about.
    let status = match written(write)? {
        true => status,
        false => READER_GONE,
    };
    Ok(ExitCode::from(status))
}

/// The same where the status is a finding, also if nobody reads the rest.
pub(super) fn write_finding(
    status: u8,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    written(write)?;
    Ok(ExitCode::from(status))
}

/// Whether the reader took it all.
fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What is left in the buffer is for nobody.
            drop(out.into_parts());
            Ok(false)
        }
        result => result.map(|()| true).context(UNWRITTEN),
    }
}

const UNWRITTEN: &str = "cannot write to standard output";

/// Writes a value as a line of JSON.
pub(super) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Writes a value as a JSON document.
pub(super) fn json_document(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Standard output of a command that has more to do than print, line by line. A reader that went away does not end it;
/// what can't be written for another reason is an error when all is done.
#[derive(Debug, Default)]
pub(super) struct Lines {
    error: Option<io::Error>,
}

impl Lines {
    /// Writes a line.
    pub(super) fn text(&mut self, text: impl Display) {
        self.note(writeln!(io::stdout(), "{text}"));
    }

    /// Writes a value as a line of JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        self.note(json_line(&mut io::stdout().lock(), value));
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.error.get_or_insert(error);
        }
    }

    /// Tells the first error.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.error {
            None => Ok(()),
            Some(error) => Err(error).context(UNWRITTEN),
        }
    }
}

/// A line of JSON of a command that acts: on each object or share, and at last what it did in all.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Line<'a, T: Serialize> {
    Action {
        #[serde(flatten)]
        about: About<'a>,
        /// What is said without --json.
        message: String,
        #[serde(flatten)]
        action: T,
    },
    Summary {
        /// Whether nothing failed.
        complete: bool,
        #[serde(flatten)]
        report: T,
    },
}

/// What a line of JSON is about.
#[derive(Default, Serialize)]
pub(super) struct About<'a> {
    /// The key of an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    /// The directory below `objects` of one whose key is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a str>,
}

impl<'a> About<'a> {
    /// An object.
    pub(super) fn object(key: &'a str) -> About<'a> {
        About {
            object: Some(key),
            directory: None,
        }
    }
}

impl<'a> From<&'a Subject> for About<'a> {
    fn from(subject: &'a Subject) -> About<'a> {
        let text = Some(subject.as_str());
        match subject {
            Subject::Stores => About::default(),
            Subject::Directory(_) => About {
                object: None,
                directory: text,
            },
            Subject::Object(_) => About {
                object: text,
                directory: None,
            },
        }
    }
}

/// A line about an object, or about the stores.
pub(super) fn about(subject: &Subject, text: impl Display) -> String {
    match subject {
        Subject::Stores => text.to_string(),
        subject => format!("{subject}: {text}"),
    }
}
