//! Counts: one tally per thread and group, without locks, merged when the threads have ended; and a few counters that
//! are read during the run.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::session::{Negotiated, is_tls_error};

/// The kind of a fault on one connection or in one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// No server listens.
    ConnectRefused,
    /// No connection within [`Plan::timeout`](crate::Plan::timeout).
    ConnectTimeout,
    /// The client has no free port (or no such source address): a limit of the client's machine.
    ConnectNoAddress,
    /// The client has no free descriptor.
    ConnectNoDescriptor,
    /// Any other failure to connect.
    ConnectOther,
    /// The TLS handshake failed: a certificate that is not trusted, no version in common, an alert, a close.
    Handshake,
    /// No end of the TLS handshake within [`Plan::timeout`](crate::Plan::timeout).
    HandshakeTimeout,
    /// The request could not be sent.
    Send,
    /// No response head within [`Plan::timeout`](crate::Plan::timeout).
    HeadTimeout,
    /// The connection ended before the first byte of a response.
    HeadClosed,
    /// The response head is not HTTP/1.1, too long, or cut off.
    HeadBad,
    /// A status other than 200, 206 or 503.
    Status,
    /// A range was requested, and another range or the whole object was sent.
    Range,
    /// The body is framed wrongly, or its length is not the object's.
    Body,
    /// The connection ended inside the body.
    BodyClosed,
    /// No byte of the body for [`Plan::idle_timeout`](crate::Plan::idle_timeout).
    BodyTimeout,
    /// A TLS alert or a record that is wrong, after the handshake.
    Tls,
    /// The connection ended without TLS's close_notify, where nothing else tells that the body is whole.
    TlsCutOff,
    /// The body's bytes are not the object's.
    WrongBytes,
}

impl FaultKind {
    /// The name in reports, in words with dashes.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::ConnectRefused => "connect-refused",
            FaultKind::ConnectTimeout => "connect-timeout",
            FaultKind::ConnectNoAddress => "connect-no-address",
            FaultKind::ConnectNoDescriptor => "connect-no-descriptor",
            FaultKind::ConnectOther => "connect-other",
            FaultKind::Handshake => "handshake",
            FaultKind::HandshakeTimeout => "handshake-timeout",
            FaultKind::Send => "send",
            FaultKind::HeadTimeout => "head-timeout",
            FaultKind::HeadClosed => "head-closed",
            FaultKind::HeadBad => "head-bad",
            FaultKind::Status => "status",
            FaultKind::Range => "range",
            FaultKind::Body => "body",
            FaultKind::BodyClosed => "body-closed",
            FaultKind::BodyTimeout => "body-timeout",
            FaultKind::Tls => "tls",
            FaultKind::TlsCutOff => "tls-cut-off",
            FaultKind::WrongBytes => "wrong-bytes",
        }
    }
}

/// One fault: its kind, which is counted, and its details, which are kept for the first fault of each kind.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FaultKind,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FaultKind, detail: impl ToString) -> Failure {
        Failure {
            kind,
            detail: detail.to_string(),
        }
    }

    /// The same, if it was not TLS that failed.
    pub(crate) fn unless_tls(kind: FaultKind, error: &io::Error, detail: impl ToString) -> Failure {
        match is_tls_error(error) {
            true => Failure::new(FaultKind::Tls, detail),
            false => Failure::new(kind, detail),
        }
    }
}

/// Framing errors come as text from [`Body::feed`](crate::response::Body::feed).
impl From<String> for Failure {
    fn from(detail: String) -> Failure {
        Failure {
            kind: FaultKind::Body,
            detail,
        }
    }
}

/// One thread's counts of one group.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) connects: u64,
    pub(crate) handshakes: u64,
    pub(crate) resumed: u64,
    pub(crate) cut_off: u64,
    pub(crate) requests: u64,
    pub(crate) responses: u64,
    pub(crate) completed: u64,
    pub(crate) aborted: u64,
    pub(crate) stalls: u64,
    pub(crate) held: u64,
    pub(crate) closed_by_server: u64,
    pub(crate) stale: u64,
    pub(crate) unfinished: u64,
    pub(crate) refused: u64,
    pub(crate) retry_after: u64,
    pub(crate) retry_after_most: Duration,
    pub(crate) body_bytes: u64,
    pub(crate) checked_bytes: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) negotiated: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<FaultKind, (u64, String)>,
    pub(crate) connect_time: Histogram<u64>,
    pub(crate) handshake_time: Histogram<u64>,
    pub(crate) first_byte_time: Histogram<u64>,
    pub(crate) total_time: Histogram<u64>,
    /// The time of the group's first client's start, and of its last event.
    pub(crate) span: Option<(Instant, Instant)>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        // Three significant digits; the histogram grows to the largest time recorded. Only more than 5 digits are
        // refused.
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Tally {
            connects: 0,
            handshakes: 0,
            resumed: 0,
            cut_off: 0,
            requests: 0,
            responses: 0,
            completed: 0,
            aborted: 0,
            stalls: 0,
            held: 0,
            closed_by_server: 0,
            stale: 0,
            unfinished: 0,
            refused: 0,
            retry_after: 0,
            retry_after_most: Duration::ZERO,
            body_bytes: 0,
            checked_bytes: 0,
            statuses: BTreeMap::new(),
            negotiated: BTreeMap::new(),
            faults: BTreeMap::new(),
            connect_time: histogram(),
            handshake_time: histogram(),
            first_byte_time: histogram(),
            total_time: histogram(),
            span: None,
        }
    }

    pub(crate) fn fault(&mut self, failure: Failure) {
        self.faults
            .entry(failure.kind)
            .or_insert((0, failure.detail))
            .0 += 1;
    }

    pub(crate) fn handshake(&mut self, negotiated: Negotiated, time: Duration) {
        self.handshakes += 1;
        self.resumed += u64::from(negotiated.resumed);
        *self.negotiated.entry(negotiated.name).or_default() += 1;
        record(&mut self.handshake_time, time);
    }

    /// Notes an event: the group was active until `now`.
    pub(crate) fn touch(&mut self, now: Instant) {
        let (first, _) = self.span.unwrap_or((now, now));
        self.span = Some((first, now));
    }

    pub(crate) fn merge(&mut self, other: Tally) {
        self.connects += other.connects;
        self.handshakes += other.handshakes;
        self.resumed += other.resumed;
        self.cut_off += other.cut_off;
        self.requests += other.requests;
        self.responses += other.responses;
        self.completed += other.completed;
        self.aborted += other.aborted;
        self.stalls += other.stalls;
        self.held += other.held;
        self.closed_by_server += other.closed_by_server;
        self.stale += other.stale;
        self.unfinished += other.unfinished;
        self.refused += other.refused;
        self.retry_after += other.retry_after;
        self.retry_after_most = self.retry_after_most.max(other.retry_after_most);
        self.body_bytes += other.body_bytes;
        self.checked_bytes += other.checked_bytes;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (name, count) in other.negotiated {
            *self.negotiated.entry(name).or_default() += count;
        }
        for (kind, (count, detail)) in other.faults {
            self.faults.entry(kind).or_insert((0, detail)).0 += count;
        }
        for (mine, theirs) in [
            (&mut self.connect_time, other.connect_time),
            (&mut self.handshake_time, other.handshake_time),
            (&mut self.first_byte_time, other.first_byte_time),
            (&mut self.total_time, other.total_time),
        ] {
            *mine += theirs;
        }
        self.span = match (self.span, other.span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

/// Records a time in microseconds. The histogram grows; with `saturating_record` it would not.
pub(crate) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    histogram
        .record(micros)
        .expect("a growing histogram takes every value");
}

/// Counters for the observer of a running plan. They are statistics: no other memory is ordered by them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) body_bytes: AtomicU64,
    pub(crate) completed: AtomicU64,
    /// Clients that now hold a connection without reading.
    pub(crate) holding: AtomicU64,
    pub(crate) samples: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn subtract(counter: &AtomicU64, value: u64) {
        counter.fetch_sub(value, Ordering::Relaxed);
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
