//! How the fields of a log line are written: so that nobody who names an object, a file or a peer can forge a field or a
//! line.
//!
//! A value of letters, digits and `._/:-` is written as it is, every other one in quotes, with escapes for quotes, for
//! control characters and for those that turn or hide text. A message is plain text, unless it holds what could be taken
//! for a field: then it is in quotes too.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::log_limit::{Passed, take_passed};

/// Writes fields.
pub(super) struct LogFields;

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            writer,
            value: String::new(),
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut line);
        let Passed {
            left_out,
            of_others,
        } = take_passed();
        for (name, count) in [("left_out", left_out), ("left_out_of_others", of_others)] {
            if count > 0 {
                line.record(name, &count);
            }
        }
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    /// The value that is being written.
    value: String,
    is_first: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn record(&mut self, name: &str, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.try_record(name, value);
        }
    }

    fn try_record(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        self.value.clear();
        write!(self.value, "{value:?}")?;
        if !std::mem::replace(&mut self.is_first, false) {
            self.writer.write_char(' ')?;
        }
        let as_it_is = match name {
            "message" => !self.value.chars().any(is_odd_in_message),
            name => {
                write!(self.writer, "{name}=")?;
                !self.value.is_empty() && self.value.chars().all(is_plain) || is_quoted(&self.value)
            }
        };
        match as_it_is {
            true => self.writer.write_str(&self.value),
            false => write_quoted(&mut self.writer, &self.value),
        }
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // As it would be displayed: it is quoted here, once.
        self.record(field.name(), &format_args!("{value}"));
    }
}

/// A character of a value that needs no quotes.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._/:-".contains(c)
}

/// A character for which a message is quoted: one that could make a field or hide where one begins.
fn is_odd_in_message(c: char) -> bool {
    c == '=' || c != '\\' && !is_printed(c)
}

/// A character that needs no escape between quotes.
fn is_printed(c: char) -> bool {
    c == '\'' || c.escape_debug().len() == 1
}

/// Whether a value is in quotes already, with all escapes that it needs.
fn is_quoted(value: &str) -> bool {
    let inside = value.strip_prefix('"');
    let Some(inside) = inside.and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut characters = inside.chars();
    while let Some(c) = characters.next() {
        let is_fine = match c {
            // It may not be the closing quote that is escaped.
            '\\' => characters
                .next()
                .is_some_and(|c| "\"\\".contains(c) || is_printed(c)),
            c => is_printed(c),
        };
        if !is_fine {
            return false;
        }
    }
    true
}

fn write_quoted(writer: &mut Writer<'_>, value: &str) -> fmt::Result {
    writer.write_char('"')?;
    for c in value.chars() {
        match is_printed(c) {
            true => writer.write_char(c)?,
            false => write!(writer, "{}", c.escape_debug())?,
        }
    }
    writer.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fields: &[(&str, &str)]) -> String {
        let mut text = String::new();
        let mut line = Line {
            writer: Writer::new(&mut text),
            value: String::new(),
            is_first: true,
            result: Ok(()),
        };
        for (name, value) in fields {
            line.record(name, &format_args!("{value}"));
        }
        line.result.unwrap();
        text
    }

    #[test]
    fn plain_values_are_written_as_they_are() {
        let plain = [("message", "share given up: it's gone"), ("key", "dir/a-b")];
        assert_eq!(written(&plain), "share given up: it's gone key=dir/a-b");
        assert_eq!(
            written(&[("live", "5"), ("path", "/x/1.share")]),
            "live=5 path=/x/1.share"
        );
    }

    #[test]
    fn nothing_forges_a_field_or_a_line() {
        for (hostile, safe) in [
            ("", r#"key="""#),
            ("a b", r#"key="a b""#),
            ("a path=/x", r#"key="a path=/x""#),
            ("a\" path=\"/x", r#"key="a\" path=\"/x""#),
            ("a\\\" b=c", r#"key="a\\\" b=c""#),
            ("a\nERROR b", r#"key="a\nERROR b""#),
            ("\u{1b}[2Ja\u{9b}2J", r#"key="\u{1b}[2Ja\u{9b}2J""#),
            ("gpj.\u{202e}exe", r#"key="gpj.\u{202e}exe""#),
            ("größe", r#"key="größe""#),
            // What is quoted already is not quoted again, if it is done well.
            (r#""a \"b\" \u{202e}""#, r#"key="a \"b\" \u{202e}""#),
            (r#""""#, r#"key="""#),
            (r#"""#, r#"key="\"""#),
            (r#""a" b="c""#, r#"key="\"a\" b=\"c\"""#),
            (r#""a\""#, r#"key="\"a\\\"""#),
            ("\"a\nb\"", r#"key="\"a\nb\"""#),
        ] {
            assert_eq!(written(&[("key", hostile)]), safe);
        }
        for (hostile, safe) in [
            ("no path=/x", r#""no path=/x""#),
            ("no\npath", r#""no\npath""#),
            ("no \" path", r#""no \" path""#),
            ("\u{1b}[31mno", r#""\u{1b}[31mno""#),
        ] {
            assert_eq!(
                written(&[("message", hostile), ("a", "b")]),
                format!("{safe} a=b")
            );
        }
    }
}
