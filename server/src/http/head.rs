//! Response heads: what a request and an object's description lead to (RFC 9110 sections 8, 13, 15).

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::parse::{Method, Request};
use super::status::Status;
use crate::memory::limits::RESPONSE_HEAD_BYTES_MAX;

/// What a response says about the object it carries.
pub trait Entity {
    /// Length of the whole object in bytes.
    fn size(&self) -> u64;
    /// The entity tag, quotes included. Strong: equal tags mean equal bytes.
    fn etag(&self) -> &str;
    /// The media type, ASCII without control characters.
    fn content_type(&self) -> &str;
    /// When the object was put, in seconds since 1970, if that is known.
    fn modified(&self) -> Option<u64>;
    /// Further fields for a response that carries it: whole lines, each with its CRLF.
    fn fields(&self) -> &str {
        ""
    }
}

/// A response: its head (with the short text of an error behind it) and the range of the object that follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// For the counters.
    pub status: Status,
    /// Status line, fields and empty line; behind them the text of an error.
    pub head: Vec<u8>,
    /// The bytes of the object to send behind the head; empty for HEAD, 304 and errors.
    pub body: Range<u64>,
    /// Whether the connection serves another request after this response.
    pub keep_alive: bool,
}

/// Answers a request for an object that is there. `draining` ends the connection after it.
pub fn answer(request: &Request, entity: &impl Entity, now: SystemTime, draining: bool) -> Answer {
    let keep_alive = request.keep_alive && !draining;
    let modified = entity
        .modified()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let conditions = &request.conditions;
    if conditions.not_modified(entity.etag(), modified) {
        let mut head = Head::new(Status::NotModified, now);
        head.describe(entity, modified);
        return head.finish(0..0, keep_alive, request.http10);
    }
    let size = entity.size();
    // Range handling is defined for GET only; elsewhere the field must be ignored (RFC 9110 section 14.2).
    let counts = request.method == Method::Get && conditions.range_counts(entity.etag(), modified);
    let range = request.range.filter(|_| counts);
    let (status, body) = match range.map(|spec| spec.resolve(size)) {
        None => (Status::Ok, 0..size),
        Some(Ok(body)) => (Status::PartialContent, body),
        Some(Err(_)) => {
            let mut head = Head::new(Status::RangeNotSatisfiable, now);
            head.formatted("Content-Range", format_args!("bytes */{size}"));
            return head.text(
                "the range starts at or past the end of the object",
                request.method,
                keep_alive,
                request.http10,
            );
        }
    };
    let mut head = Head::new(status, now);
    head.field("Content-Type", entity.content_type());
    head.formatted("Content-Length", body.end - body.start);
    if status == Status::PartialContent {
        head.formatted(
            "Content-Range",
            format_args!("bytes {}-{}/{size}", body.start, body.end - 1),
        );
    }
    head.field("Accept-Ranges", "bytes");
    head.describe(entity, modified);
    let body = if request.method == Method::Head {
        0..0
    } else {
        body
    };
    head.finish(body, keep_alive, request.http10)
}

/// An error with a short text body. `request` is absent when the head could not be understood: then
/// the connection closes, since where the next request starts is unknown.
pub fn error(
    status: Status,
    reason: &str,
    request: Option<&Request>,
    now: SystemTime,
    draining: bool,
) -> Answer {
    let mut head = Head::new(status, now);
    if status == Status::MethodNotAllowed {
        head.field("Allow", "GET, HEAD");
    }
    if status == Status::Unavailable {
        head.formatted("Retry-After", RETRY_AFTER_SECONDS);
    }
    let (method, keep_alive, http10) = match request {
        Some(r) => (r.method, r.keep_alive && !draining, r.http10),
        None => (Method::Get, false, false),
    };
    head.text(reason, method, keep_alive, http10)
}

/// What `Retry-After` asks for, in seconds: connections end within seconds on a busy edge.
pub const RETRY_AFTER_SECONDS: u32 = 2;

/// Bytes of a date as HTTP writes it (IMF-fixdate, RFC 9110 section 5.6.7).
const DATE_BYTES: usize = 29;
/// Dates that a core remembers the text of: the present second's, and those of the objects in demand.
const DATES: usize = 16;

thread_local! {
    /// By second, each at its second's remainder.
    static DATE_TEXTS: RefCell<[(u64, [u8; DATE_BYTES]); DATES]> =
        const { RefCell::new([(u64::MAX, [0; DATE_BYTES]); DATES]) };
}

fn date_text(date: SystemTime) -> [u8; DATE_BYTES] {
    let seconds = date
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE_TEXTS.with_borrow_mut(|texts| {
        let (known, text) = &mut texts[(seconds % DATES as u64) as usize];
        if *known != seconds {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            // It has this length always: beyond the year 9999 httpdate stops, and so do we.
            let _ = write!(&mut text[..], "{}", httpdate::HttpDate::from(date));
            *known = seconds;
        }
        *text
    })
}

/// A head under construction.
struct Head {
    status: Status,
    bytes: Vec<u8>,
}

impl Head {
    fn new(status: Status, now: SystemTime) -> Head {
        let mut head = Head {
            status,
            bytes: Vec::with_capacity(RESPONSE_HEAD_BYTES_MAX / 2),
        };
        match status {
            // The usual one, without the machinery of formatting.
            Status::Ok => head.put("HTTP/1.1 200 OK\r\n"),
            _ => head.put_formatted(format_args!("HTTP/1.1 {status}\r\n")),
        }
        head.field("Server", concat!("penstock/", env!("CARGO_PKG_VERSION")));
        head.date("Date", now);
        head
    }

    fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn put_formatted(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a Vec does not fail.
        let _ = self.bytes.write_fmt(text);
    }

    fn field(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.put(part);
        }
    }

    fn date(&mut self, name: &str, date: SystemTime) {
        self.put(name);
        self.put(": ");
        self.bytes.extend_from_slice(&date_text(date));
        self.put("\r\n");
    }

    fn formatted(&mut self, name: &str, value: impl fmt::Display) {
        self.put_formatted(format_args!("{name}: {value}\r\n"));
    }

    /// What identifies the object's bytes, and what else it says of itself.
    fn describe(&mut self, entity: &impl Entity, modified: Option<SystemTime>) {
        self.field("ETag", entity.etag());
        if let Some(modified) = modified {
            self.date("Last-Modified", modified);
        }
        self.put(entity.fields());
    }

    fn text(mut self, reason: &str, method: Method, keep_alive: bool, http10: bool) -> Answer {
        self.field("Content-Type", "text/plain; charset=utf-8");
        let body = format!("{}: {reason}\n", self.status);
        self.formatted("Content-Length", body.len());
        let mut answer = self.finish(0..0, keep_alive, http10);
        if method == Method::Get {
            answer.head.extend_from_slice(body.as_bytes());
        }
        answer
    }

    fn finish(mut self, body: Range<u64>, keep_alive: bool, http10: bool) -> Answer {
        if !keep_alive {
            self.field("Connection", "close");
        } else if http10 {
            self.field("Connection", "keep-alive");
        }
        self.put("\r\n");
        Answer {
            status: self.status,
            head: self.bytes,
            body,
            keep_alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::{Conditions, IfRange};
    use super::super::range::RangeSpec;
    use super::*;

    struct Object;
    impl Entity for Object {
        fn size(&self) -> u64 {
            1000
        }
        fn etag(&self) -> &str {
            "\"abc\""
        }
        fn content_type(&self) -> &str {
            "video/mp4"
        }
        fn modified(&self) -> Option<u64> {
            Some(784_111_777)
        }
    }

    fn get() -> Request {
        Request {
            method: Method::Get,
            path: "k".into(),
            query: String::new(),
            range: None,
            conditions: Conditions::default(),
            keep_alive: true,
            http10: false,
        }
    }

    fn respond(request: &Request) -> (Answer, String) {
        let answer = answer(request, &Object, SystemTime::UNIX_EPOCH, false);
        let text = String::from_utf8(answer.head.clone()).unwrap();
        (answer, text)
    }

    #[test]
    fn dates_are_remembered_by_their_second() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // Twice round, so that places are used again.
        for seconds in [0, 16, 784_111_777, 0, 1, 784_111_777, 16] {
            let text = date_text(at(seconds));
            assert_eq!(
                text.as_slice(),
                httpdate::fmt_http_date(at(seconds)).as_bytes()
            );
        }
    }

    #[test]
    fn whole_object() {
        let (answer, text) = respond(&get());
        assert_eq!(answer.body, 0..1000);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        for field in [
            "Content-Length: 1000\r\n",
            "Content-Type: video/mp4\r\n",
            "ETag: \"abc\"\r\n",
            "Accept-Ranges: bytes\r\n",
            "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn head_has_the_same_fields_and_no_body() {
        let (get_answer, get_text) = respond(&get());
        let (answer, text) = respond(&Request {
            method: Method::Head,
            ..get()
        });
        assert_eq!((text, answer.body), (get_text, 0..0));
        assert_eq!(get_answer.status, answer.status);
    }

    #[test]
    fn ranges() {
        let range = Some(RangeSpec::Suffix { length: 10 });
        let (answer, text) = respond(&Request { range, ..get() });
        assert_eq!(answer.body, 990..1000);
        assert!(text.starts_with("HTTP/1.1 206 "));
        assert!(text.contains("Content-Range: bytes 990-999/1000\r\n"));
        assert!(text.contains("Content-Length: 10\r\n"));
        let range = Some(RangeSpec::Open { first: 1000 });
        let (answer, text) = respond(&Request { range, ..get() });
        assert_eq!(
            (answer.status, answer.body),
            (Status::RangeNotSatisfiable, 0..0)
        );
        assert!(text.contains("Content-Range: bytes */1000\r\n"));
    }

    #[test]
    fn conditions() {
        let respond_if = |conditions| {
            let range = Some(RangeSpec::Open { first: 1 });
            respond(&Request {
                range,
                conditions,
                ..get()
            })
        };
        let (answer, text) = respond_if(Conditions {
            if_none_match: Some("\"abc\"".into()),
            ..Conditions::default()
        });
        assert_eq!((answer.status, answer.body), (Status::NotModified, 0..0));
        assert!(text.contains("ETag: \"abc\"\r\n"), "{text}");
        for (tag, status) in [("\"abc\"", Status::PartialContent), ("\"x\"", Status::Ok)] {
            let if_range = Some(IfRange::Tag(tag.into()));
            let (answer, _) = respond_if(Conditions {
                if_range,
                ..Conditions::default()
            });
            assert_eq!(answer.status, status);
        }
    }

    #[test]
    fn errors_close_when_the_request_was_not_understood() {
        let now = SystemTime::UNIX_EPOCH;
        let answer = error(Status::BadRequest, "no", None, now, false);
        let text = String::from_utf8(answer.head).unwrap();
        assert!(!answer.keep_alive && text.contains("Connection: close\r\n"));
        assert!(text.ends_with("\r\n\r\n400 Bad Request: no\n"));
        let answer = error(Status::NotFound, "no", Some(&get()), now, false);
        assert!(answer.keep_alive);
    }
}
