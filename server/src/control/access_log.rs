//! The access log: a line for each request, written by a thread of its own.
//!
//! Cores never wait for it: what does not fit the queue is dropped and counted there, what the file does not take is
//! counted here.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, bounded};
use serde::Serialize;

use super::logging;
use crate::config::values::AccessLogFormat;
use crate::connection::access_log::{AccessLog, Entry, queue};
use crate::http::method::Method;
use crate::memory::limits::ACCESS_WRITE_BYTES;

/// How long the end of the server waits for what is queued: a disk may hang.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Lines that the file did not take. The log is the process's, and so is this.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written since the start.
pub(super) fn unwritten_lines() -> u64 {
    UNWRITTEN.load(Ordering::Relaxed)
}

/// The thread that writes. It ends when all cores have ended; dropped, this waits for that, for a second at most.
pub(super) struct AccessThread {
    ended: Receiver<()>,
}

impl Drop for AccessThread {
    fn drop(&mut self) {
        // It says nothing: that its end of the channel is gone is what is waited for.
        let _ = self.ended.recv_timeout(END_PATIENCE);
    }
}

/// Starts the log at this file, or at standard output for `-`.
///
/// # Errors
/// If the file can't be opened, or the thread not be started.
pub(super) fn start(path: &Path, format: AccessLogFormat) -> io::Result<(AccessLog, AccessThread)> {
    let mut out = Out::open(path)?;
    let (log, entries) = queue();
    let (alive, ended) = bounded(0);
    thread::Builder::new()
        .name("access-log".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            let _alive = alive;
            write_all(&entries, format, &mut out);
        })?;
    Ok((log, AccessThread { ended }))
}

/// Writes entries as they come, those that wait together, until nobody sends any more.
fn write_all(entries: &Receiver<Entry>, format: AccessLogFormat, out: &mut Out) {
    let mut lines = String::with_capacity(2 * ACCESS_WRITE_BYTES);
    while let Ok(first) = entries.recv() {
        lines.clear();
        let mut count = 0;
        let mut next = Some(first);
        while let Some(entry) = next {
            // Writing to a String does not fail.
            let _ = match format {
                AccessLogFormat::Combined => write!(lines, "{}", Combined(&entry)),
                AccessLogFormat::Json => write_json(&mut lines, &entry),
            };
            lines.push('\n');
            count += 1;
            next = match lines.len() < ACCESS_WRITE_BYTES {
                true => entries.try_recv().ok(),
                false => None,
            };
        }
        if let Err(error) = out.write(lines.as_bytes()) {
            UNWRITTEN.fetch_add(count, Ordering::Relaxed);
            tracing::error!(%error, "the access log can't be written");
        }
    }
}

/// Where lines go.
struct Out {
    /// `None` is standard output.
    path: Option<PathBuf>,
    file: Option<File>,
    /// How often log files had been to be opened again when it was opened.
    opened: u64,
}

impl Out {
    fn open(path: &Path) -> io::Result<Out> {
        let path = (path.as_os_str() != "-").then(|| path.to_owned());
        let mut out = Out {
            path,
            file: None,
            opened: logging::reopened(),
        };
        out.open_file()?;
        Ok(out)
    }

    fn open_file(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)?;
            self.file = Some(file);
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let asked = logging::reopened();
        if asked != self.opened {
            // Where that fails, the old file is written on, and the next time it is tried again.
            self.open_file()?;
            self.opened = asked;
        }
        match &mut self.file {
            Some(file) => file.write_all(lines),
            None => io::stdout().lock().write_all(lines),
        }
    }
}

fn method(method: Option<Method>) -> &'static str {
    match method {
        Some(Method::Get) => "GET",
        Some(Method::Head) => "HEAD",
        Some(Method::Options) => "OPTIONS",
        None => "-",
    }
}

/// The address of a client: that of IPv4 where one came by IPv6.
fn client(entry: &Entry) -> IpAddr {
    entry.client.to_canonical()
}

/// A line as Apache and nginx write it by default ("combined"), and what they can't say: the request id, the seconds it took,
/// the seconds to the first byte, and whether it was degraded or cut off.
struct Combined<'a>(&'a Entry);

impl fmt::Display for Combined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry {
            record,
            status,
            sent,
            duration,
            first_byte,
            ..
        } = self.0;
        let at = common_date(record.at);
        write!(f, "{} - - [{at}] \"", client(self.0))?;
        let target = Quoted(record.target());
        match record.method {
            None => write!(f, "{target}")?,
            known => {
                let version = if record.http10 {
                    "HTTP/1.0"
                } else {
                    "HTTP/1.1"
                };
                write!(f, "{} {target} {version}", method(known))?;
            }
        }
        let (referer, agent) = (or_none(record.referer()), or_none(record.user_agent()));
        write!(
            f,
            "\" {status} {sent} \"{}\" \"{}\"",
            Quoted(referer),
            Quoted(agent)
        )?;
        write!(f, " {} {:.6}", record.id(), duration.as_secs_f64())?;
        match first_byte {
            Some(first_byte) => write!(f, " {:.6}", first_byte.as_secs_f64())?,
            None => f.write_str(" -")?,
        }
        f.write_str(match (self.0.degraded, self.0.complete) {
            (false, true) => " -",
            (true, true) => " degraded",
            (false, false) => " cut",
            (true, false) => " degraded,cut",
        })
    }
}

fn or_none(text: &str) -> &str {
    match text.is_empty() {
        true => "-",
        false => text,
    }
}

/// A text between quotes: what could end it, and what is no printable ASCII, is escaped byte by byte, as nginx does.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' | 0..=31 | 127.. => write!(f, "\\x{byte:02X}")?,
                byte => f.write_char(byte.into())?,
            }
        }
        Ok(())
    }
}

/// `27/Nov/2026:06:38:40 +0000`.
fn common_date(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse().unwrap_or(1_usize);
    let month = MONTHS[(month.clamp(1, 12)) - 1];
    format!(
        "{}/{month}/{}:{} +0000",
        part(8..10),
        part(0..4),
        part(11..19)
    )
}

/// What JSON has of an entry.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    client: IpAddr,
    peer: SocketAddr,
    method: &'static str,
    target: &'a str,
    http: &'static str,
    status: u16,
    sent_bytes: u64,
    duration_seconds: f64,
    first_byte_seconds: Option<f64>,
    degraded: bool,
    complete: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    referer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
}

fn write_json(lines: &mut String, entry: &Entry) -> fmt::Result {
    let record = &entry.record;
    let line = Line {
        time: humantime::format_rfc3339_millis(record.at).to_string(),
        request_id: record.id(),
        client: client(entry),
        peer: entry.peer,
        method: method(record.method),
        target: record.target(),
        http: if record.http10 { "1.0" } else { "1.1" },
        status: entry.status,
        sent_bytes: entry.sent,
        duration_seconds: entry.duration.as_secs_f64(),
        first_byte_seconds: entry.first_byte.map(|time| time.as_secs_f64()),
        degraded: entry.degraded,
        complete: entry.complete,
        referer: record.referer(),
        user_agent: record.user_agent(),
    };
    let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
    lines.write_str(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::record::{Noted, Record, Span};

    fn entry() -> Entry {
        let head = b"GET /a\"b HTTP/1.1\r\nUser-Agent: x\\\xc3\xa4\r\n\r\n";
        let noted = Noted {
            target: Span::of(head, &head[4..8]),
            user_agent: Span::of(head, &head[31..35]),
            ..Noted::default()
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_761_520_250);
        let method = Some((Method::Get, false));
        Entry {
            record: Box::new(Record::new(head, &noted, method, "id", at)),
            client: "::ffff:192.0.2.1".parse().unwrap(),
            peer: "[::ffff:192.0.2.9]:7".parse().unwrap(),
            status: 206,
            sent: 1234,
            duration: Duration::from_micros(1_500_000),
            first_byte: Some(Duration::from_micros(250)),
            degraded: true,
            complete: false,
        }
    }

    #[test]
    fn a_line_can_be_read_by_what_reads_combined_logs() {
        assert_eq!(
            Combined(&entry()).to_string(),
            "192.0.2.1 - - [27/Nov/2026:06:38:40 +0000] \"GET /a\\x22b HTTP/1.1\" 206 1234 \"-\" \"x\\x5C\\xC3\\xA4\" id \
             1.500000 0.000250 degraded,cut"
        );
        let mut plain = entry();
        (plain.degraded, plain.complete, plain.first_byte) = (false, true, None);
        assert!(Combined(&plain).to_string().ends_with(" id 1.500000 - -"));
    }

    #[test]
    fn a_json_line_has_names() {
        let mut line = String::new();
        write_json(&mut line, &entry()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["time"], "2026-11-27T06:38:40.250Z");
        assert_eq!(line["target"], "/a\"b");
        assert_eq!(line["user_agent"], "x\\ä");
        assert_eq!(
            (&line["status"], &line["complete"]),
            (&206.into(), &false.into())
        );
        assert!(line.get("referer").is_none());
    }
}
