//! Standard output of commands that report: lines, or JSON for programs.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use penstock_store::Subject;
use serde::Serialize;

use super::READER_GONE;

/// Writes all output of a command. Its status is `READER_GONE` if the reader went away, else `status`.
pub(super) fn write_all(
    status: u8,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        // `ls | head` is nothing to talk about.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What is left in the buffer is for nobody.
            drop(out.into_parts());
            Ok(ExitCode::from(READER_GONE))
        }
        result => {
            result?;
            Ok(ExitCode::from(status))
        }
    }
}

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

/// Prints a value as a line of JSON. As `say!`: a reader that went away doesn't end the command.
pub(super) fn say_json(value: &impl Serialize) {
    let _ = json_line(&mut io::stdout().lock(), value);
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

/// Prints a line about an object, or about the stores.
pub(super) fn say_about(subject: &Subject, text: impl std::fmt::Display) {
    match subject {
        Subject::Stores => say!("{text}"),
        subject => say!("{subject}: {text}"),
    }
}
