//! The log of a server: lines to standard error, written by a thread of their own.
//!
//! A core hands its lines to a bounded queue and goes on. What does not fit, or can't be written because the reader of
//! standard error is gone, is dropped and counted: no reader of the log may hold up or end a download. What fails again
//! and again is logged now and then (`log_limit`).

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::log_fields::LogFields;
use super::log_limit::LogLimit;
pub use super::log_limit::left_out_lines;
use crate::memory::limits::LOG_LINES_MAX;

/// The thread that writes; dropped, it writes what is queued, for a second at most, and ends.
pub struct LogThread {
    _guard: WorkerGuard,
}

/// Lines that did not fit the queue. The log is the process's, and so is this.
static QUEUE: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that standard error did not take.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// How often log files were to be opened again.
static REOPENED: AtomicU64 = AtomicU64::new(0);
/// What is logged. The log is the process's, and so is this.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Has every writer of a log file open it again: it was renamed, and a new one is to be begun. A writer compares
/// [`reopened`] before it writes with what it was when the file was opened.
pub fn reopen() {
    REOPENED.fetch_add(1, Ordering::Relaxed);
}

/// How often log files were to be opened again.
pub fn reopened() -> u64 {
    REOPENED.load(Ordering::Relaxed)
}

/// Logs what this filter lets through from now on; without one, what RUST_LOG says, or `info` and above.
pub fn set_filter(filter: Option<&str>) {
    // It was checked with the other settings.
    let levels = filter.and_then(|filter| filter.parse().ok());
    let levels = levels.unwrap_or_else(from_environment);
    if let Some(handle) = FILTER.get() {
        // It fails only where there is no log any more.
        let _ = handle.reload(levels);
    }
}

/// What RUST_LOG says. Unset, empty or wrong it is `info`, but for the crate that makes requests to stores, which tells of
/// every token that it asks for.
fn from_environment() -> Targets {
    let said = std::env::var("RUST_LOG").unwrap_or_default();
    let levels = Some(said).filter(|said| !said.is_empty());
    let levels = levels.and_then(|said| said.parse().ok());
    levels.unwrap_or_else(|| {
        Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("object_store", LevelFilter::WARN)
    })
}

/// Starts the log of a server, whose thread lives as long as the returned guard.
pub fn start_server() -> LogThread {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(StandardError);
    QUEUE.get_or_init(|| writer.error_counter());
    start(writer, Some(LogLimit::new(Instant::now)));
    LogThread { _guard: guard }
}

/// Starts the log of a command: every line goes to standard error at once.
pub fn start_command() {
    start(io::stderr, None);
}

/// Logs `info` and above, unless RUST_LOG says otherwise.
fn start(
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    limit: Option<LogLimit<fn() -> Instant>>,
) {
    let (levels, handle) = reload::Layer::new(from_environment());
    let _ = FILTER.set(handle);
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(LogFields)
        .with_ansi(wants_colours(
            io::IsTerminal::is_terminal(&io::stderr()),
            |name| std::env::var_os(name),
        ))
        .with_target(false)
        // A log that can't be written is no reason to print, and panic if that fails too.
        .log_internal_errors(false)
        .with_writer(writer);
    tracing_subscriber::registry()
        .with(levels)
        .with(limit)
        .with(lines)
        .init();
}

/// Whether log lines have colours: on a terminal that knows them, unless the user wants none (<https://no-color.org>).
/// `variable` is the environment.
pub fn wants_colours(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    // As progress bars have it: without TERM nothing is known of the terminal.
    let unable = variable("TERM").is_none_or(|term| term == "dumb");
    terminal && !unwanted && !unable
}

/// Lines that were dropped since the start.
pub fn dropped_lines() -> u64 {
    let queue = QUEUE.get().map_or(0, ErrorCounter::dropped_lines);
    queue as u64 + UNWRITTEN.load(Ordering::Relaxed)
}

/// Standard error, of which a failure is counted and no error.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            UNWRITTEN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Standard error is not buffered.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        let wants = |terminal, variables: &[(&str, &str)]| {
            wants_colours(terminal, |name| {
                let mut all = variables.iter();
                all.find(|(known, _)| *known == name)
                    .map(|(_, value)| value.into())
            })
        };
        let xterm = ("TERM", "xterm-256color");
        assert!(wants(true, &[xterm]));
        assert!(wants(true, &[xterm, ("NO_COLOR", "")]));
        assert!(!wants(true, &[xterm, ("NO_COLOR", "1")]));
        assert!(!wants(true, &[xterm, ("NO_COLOR", "0")]));
        assert!(!wants(true, &[("TERM", "dumb")]));
        assert!(!wants(true, &[]));
        assert!(!wants(false, &[xterm]));
    }
}
