//! Response heads: what follows from a request and from what is known of an object (RFC 9110 sections 8, 14, 15).

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::parse::{Method, Request};
use super::status::Status;
use crate::memory::limits::RESPONSE_HEAD_BYTES_MAX;

/// What a response says about the object that it carries (RFC 9110 section 3.2).
pub trait Representation {
    /// Length of the whole object in bytes.
    fn size(&self) -> u64;
    /// The entity tag, quotes included. Strong: equal tags mean equal bytes.
    fn etag(&self) -> &str;
    /// The media type, ASCII without control characters.
    fn content_type(&self) -> &str;
    /// When the object was put, in seconds since 1970, if that is known.
    fn modified(&self) -> Option<u64>;
    /// More header fields: whole lines, each with its CRLF.
    fn fields(&self) -> &str {
        ""
    }
}

/// A response: its head, with the short text of an error behind it, and the range of the object that follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// For the counters.
    pub status: Status,
    /// Status line, fields and empty line; behind them the text of an error.
    pub head: Vec<u8>,
    /// The bytes of the object to send behind the head; empty for HEAD, 304 and errors.
    pub body: Range<u64>,
    /// Whether the connection serves another request after this response.
    pub keep_alive: bool,
}

/// The response to a request for an object that was found. While the server is `draining` it is the connection's
/// last.
pub fn respond(
    request: &Request,
    object: &impl Representation,
    now: SystemTime,
    draining: bool,
) -> Response {
    let keep_alive = request.keep_alive && !draining;
    let modified = object.modified().map(|seconds| last_modified(seconds, now));
    let conditions = &request.conditions;
    if conditions.not_modified(object.etag(), modified) {
        let mut head = Head::new(Status::NotModified, now);
        head.describe(object, modified);
        return head.finish(0..0, keep_alive, request.http10);
    }
    let size = object.size();
    // Range handling is defined for GET only; elsewhere the field must be ignored (RFC 9110 section 14.2).
    let counts = request.method == Method::Get && conditions.range_counts(object.etag(), modified);
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
    head.field("Content-Type", object.content_type());
    head.formatted("Content-Length", body.end - body.start);
    if status == Status::PartialContent {
        head.formatted(
            "Content-Range",
            format_args!("bytes {}-{}/{size}", body.start, body.end - 1),
        );
    }
    head.field("Accept-Ranges", "bytes");
    head.describe(object, modified);
    let body = if request.method == Method::Head {
        0..0
    } else {
        body
    };
    head.finish(body, keep_alive, request.http10)
}

/// When an object that was put at `seconds` was last modified. A store's clock may be ahead of ours, and no date may be
/// later than the response's own (RFC 9110 section 8.8.2.1). In whole seconds, as in the field, which conditions repeat.
fn last_modified(seconds: u64, now: SystemTime) -> SystemTime {
    let date = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(date))
}

/// An error with a short text as its body. There is no `request` if its head could not be understood. The connection
/// then closes, since nobody knows where the next request starts.
pub fn error(
    status: Status,
    reason: &str,
    request: Option<&Request>,
    now: SystemTime,
    draining: bool,
) -> Response {
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

/// The seconds in `Retry-After`. On a busy edge, connections end within seconds.
pub const RETRY_AFTER_SECONDS: u32 = 2;

/// Bytes of a date as HTTP writes it (IMF-fixdate, RFC 9110 section 5.6.7).
const DATE_BYTES: usize = 29;
/// Dates whose text a core remembers: the current second, and the dates of objects in demand.
const DATES: usize = 16;

thread_local! {
    /// Seconds and their texts, each at the place `seconds % DATES`.
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
            // The text always has this length: httpdate ends with the year 9999.
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
            // The most frequent line does without formatting.
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

    /// The fields that identify the object's bytes, and its own fields.
    fn describe(&mut self, object: &impl Representation, modified: Option<SystemTime>) {
        self.field("ETag", object.etag());
        if let Some(modified) = modified {
            self.date("Last-Modified", modified);
        }
        self.put(object.fields());
    }

    fn text(mut self, reason: &str, method: Method, keep_alive: bool, http10: bool) -> Response {
        self.field("Content-Type", "text/plain; charset=utf-8");
        let body = format!("{}: {reason}\n", self.status);
        self.formatted("Content-Length", body.len());
        let mut response = self.finish(0..0, keep_alive, http10);
        if method == Method::Get {
            response.head.extend_from_slice(body.as_bytes());
        }
        response
    }

    fn finish(mut self, body: Range<u64>, keep_alive: bool, http10: bool) -> Response {
        if !keep_alive {
            self.field("Connection", "close");
        } else if http10 {
            self.field("Connection", "keep-alive");
        }
        self.put("\r\n");
        Response {
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
    impl Representation for Object {
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

    /// A second after the object was put, and a half: dates have no halves.
    const NOW: u64 = 784_111_778;

    fn response_to(request: &Request) -> (Response, String) {
        response_at(NOW, request)
    }

    fn response_at(seconds: u64, request: &Request) -> (Response, String) {
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(500);
        let response = respond(request, &Object, now, false);
        let text = String::from_utf8(response.head.clone()).unwrap();
        (response, text)
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
        let (response, text) = response_to(&get());
        assert_eq!(response.body, 0..1000);
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
        let (get_response, get_text) = response_to(&get());
        let (response, text) = response_to(&Request {
            method: Method::Head,
            ..get()
        });
        assert_eq!((text, response.body), (get_text, 0..0));
        assert_eq!(get_response.status, response.status);
    }

    #[test]
    fn ranges() {
        let range = Some(RangeSpec::Suffix { length: 10 });
        let (response, text) = response_to(&Request { range, ..get() });
        assert_eq!(response.body, 990..1000);
        assert!(text.starts_with("HTTP/1.1 206 "));
        assert!(text.contains("Content-Range: bytes 990-999/1000\r\n"));
        assert!(text.contains("Content-Length: 10\r\n"));
        let range = Some(RangeSpec::Open { first: 1000 });
        let (response, text) = response_to(&Request { range, ..get() });
        assert_eq!(
            (response.status, response.body),
            (Status::RangeNotSatisfiable, 0..0)
        );
        assert!(text.contains("Content-Range: bytes */1000\r\n"));
    }

    #[test]
    fn conditions() {
        let response_if = |conditions| {
            let range = Some(RangeSpec::Open { first: 1 });
            response_to(&Request {
                range,
                conditions,
                ..get()
            })
        };
        let (response, text) = response_if(Conditions {
            if_none_match: Some("\"abc\"".into()),
            ..Conditions::default()
        });
        assert_eq!(
            (response.status, response.body),
            (Status::NotModified, 0..0)
        );
        assert!(text.contains("ETag: \"abc\"\r\n"), "{text}");
        for (tag, status) in [("\"abc\"", Status::PartialContent), ("\"x\"", Status::Ok)] {
            let if_range = Some(IfRange::Tag(tag.into()));
            let (response, _) = response_if(Conditions {
                if_range,
                ..Conditions::default()
            });
            assert_eq!(response.status, status);
        }
    }

    /// An object whose store's clock was ahead had a Last-Modified after the Date.
    #[test]
    fn an_object_of_the_future_was_modified_now() {
        const PAST: u64 = 784_111_700;
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (_, text) = response_at(PAST, &get());
        let date = httpdate::fmt_http_date(at(PAST));
        assert!(text.contains(&format!("\r\nDate: {date}\r\n")), "{text}");
        assert!(
            text.contains(&format!("\r\nLast-Modified: {date}\r\n")),
            "{text}"
        );
        // Conditions are judged by the date that was sent, and not by the one in the store.
        let since = |seconds| {
            let if_modified_since = Some(at(seconds));
            let conditions = Conditions {
                if_modified_since,
                ..Conditions::default()
            };
            let request = Request {
                conditions,
                ..get()
            };
            response_at(PAST, &request)
        };
        let (response, text) = since(PAST);
        assert_eq!(response.status, Status::NotModified);
        assert!(text.contains(&format!("Last-Modified: {date}")), "{text}");
        assert_eq!(since(PAST - 1).0.status, Status::Ok);
        let range_if = |seconds| {
            let if_range = Some(IfRange::Date(at(seconds)));
            let request = Request {
                range: Some(RangeSpec::Open { first: 1 }),
                conditions: Conditions {
                    if_range,
                    ..Conditions::default()
                },
                ..get()
            };
            response_at(PAST, &request).0.status
        };
        assert_eq!(range_if(PAST), Status::PartialContent);
        assert_eq!(range_if(Object.modified().unwrap()), Status::Ok);
    }

    #[test]
    fn errors_close_when_the_request_was_not_understood() {
        let now = SystemTime::UNIX_EPOCH;
        let response = error(Status::BadRequest, "no", None, now, false);
        let text = String::from_utf8(response.head).unwrap();
        assert!(!response.keep_alive && text.contains("Connection: close\r\n"));
        assert!(text.ends_with("\r\n\r\n400 Bad Request: no\n"));
        let response = error(Status::NotFound, "no", Some(&get()), now, false);
        assert!(response.keep_alive);
    }
}
