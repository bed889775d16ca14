//! From bytes to a [`Request`]: one head, parsed by `httparse` and checked against the limits.
//!
//! Everything here comes from a peer. A head is either complete, incomplete, or refused with a
//! status that says why. "Need more bytes" is an outcome, not an error.
//!
//! An edge that only reads can be stricter than RFC 9112 asks for: what it doesn't understand in one way only, it
//! refuses, so that nothing in front of it can be made to understand it in another.

use std::mem::MaybeUninit;

use super::conditions::{Conditions, IfRange};
use super::cors::CrossOrigin;
use super::digest::Integrity;
use super::glimpse::{self, leading_lines};
use super::method::Method;
use super::range;
use super::record::{Noted, Span};
use super::request::{Refusal, Request};
use super::status::Status;
use super::{field, target};
use crate::memory::limits::{HEADER_FIELDS_MAX, REQUEST_HEAD_BYTES_MAX, TARGET_BYTES_MAX};
use crate::s3::sigv4;

/// The outcome of looking at the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head isn't complete.
    NeedMore,
    /// A request whose head took this many bytes.
    Request(Box<Request>, usize),
    /// A head that can't be served.
    Refused(Refusal),
}

/// A status and a reason.
type Fault = (Status, &'static str);

const TARGET_TOO_LONG: Fault = (
    Status::TargetTooLong,
    "the request target is longer than 4 KiB",
);
const HEAD_TOO_LARGE: Fault = (
    Status::HeadersTooLarge,
    "the request head is larger than 8 KiB",
);
const BARE_LINE_FEED: Fault = (Status::BadRequest, "a line ends in LF without CR");
const BODY: Fault = (
    Status::BadRequest,
    "a request to read has no body: send none",
);

/// Looks for one request head at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    match understand(bytes) {
        Ok(None) => Parsed::NeedMore,
        Ok(Some((request, length))) => Parsed::Request(request, length),
        Err((status, reason)) => Parsed::Refused(Refusal {
            status,
            reason,
            head_only: glimpse::is_head(bytes),
            path: glimpse::path(bytes),
            signed: glimpse::is_signed(bytes),
        }),
    }
}

fn understand(bytes: &[u8]) -> Result<Option<(Box<Request>, usize)>, Fault> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADER_FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return incomplete(&head, bytes).map(|()| None),
        Err(httparse::Error::Version) => return other_version(bytes),
        Err(httparse::Error::TooManyHeaders) => {
            return Err((
                Status::HeadersTooLarge,
                "the request has more than 64 header fields",
            ));
        }
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            return Err((Status::BadRequest, "a header field is malformed"));
        }
        Err(_) => return Err((Status::BadRequest, "this is not an HTTP request")),
    };
    if length > REQUEST_HEAD_BYTES_MAX {
        return Err(HEAD_TOO_LARGE);
    }
    if has_bare_line_feed(&bytes[..length]) {
        return Err(BARE_LINE_FEED);
    }
    let mut request = request(&head, bytes)?;
    let mut fields = head.headers.iter();
    if sigv4::claims_signature(&request.query)
        || fields.any(|field| sigv4::is_authorization(field.name, field.value))
    {
        request.signed = Some(bytes[..length].into());
    }
    Ok(Some((request, length)))
}

/// An incomplete head may already be too long, or wrong.
fn incomplete(head: &httparse::Request<'_, '_>, bytes: &[u8]) -> Result<(), Fault> {
    if has_bare_line_feed(bytes) {
        return Err(BARE_LINE_FEED);
    }
    // The request line is what precedes the first line feed.
    let start = leading_lines(bytes);
    let line_open = !bytes[start..].contains(&b'\n');
    if line_open && bytes.len() - start > TARGET_BYTES_MAX + 64 {
        return Err(TARGET_TOO_LONG);
    }
    if bytes.len() >= REQUEST_HEAD_BYTES_MAX {
        return Err(match head.path {
            Some(path) if path.len() > TARGET_BYTES_MAX => TARGET_TOO_LONG,
            _ => HEAD_TOO_LARGE,
        });
    }
    Ok(())
}

/// RFC 9112 section 2.2 lets a server take a line feed alone for the end of a line. What takes it otherwise sees other
/// fields than we do.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\n") || field::has_pair(bytes, |one, next| next == b'\n' && one != b'\r')
}

/// A head of a version that `httparse` doesn't know. A later minor version is served as HTTP/1.1 (RFC 9110 section 2.5).
fn other_version(bytes: &[u8]) -> Result<Option<(Box<Request>, usize)>, Fault> {
    let start = leading_lines(bytes);
    let end = bytes[start..].iter().position(|&b| b == b'\n');
    let line = &bytes[start..end.map_or(bytes.len(), |end| start + end)];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let [
        ..,
        b' ',
        b'H',
        b'T',
        b'T',
        b'P',
        b'/',
        b'1',
        b'.',
        b'2'..=b'9',
    ] = line
    {
        let mut as_1_1 = bytes.to_vec();
        as_1_1[start + line.len() - 1] = b'1';
        return understand(&as_1_1);
    }
    // What names a version of HTTP in its place has one that is unknown.
    let version = line.split(|&b| b == b' ').nth(2);
    Err(
        match version.is_some_and(|version| is_version(version, end.is_some())) {
            true => (
                Status::VersionNotSupported,
                "only HTTP/1.1 and HTTP/1.0 are supported",
            ),
            false => (Status::BadRequest, "this is not an HTTP request"),
        },
    )
}

/// Whether this is a version of HTTP (RFC 9112 section 2.3), or may become one if it is not `complete`.
fn is_version(text: &[u8], complete: bool) -> bool {
    const PATTERN: &[u8] = b"HTTP/0.0";
    let fits = |(&b, &like): (&u8, &u8)| b == like || (like == b'0' && b.is_ascii_digit());
    text.iter().zip(PATTERN).all(fits)
        && match complete {
            true => text.len() == PATTERN.len(),
            false => text.len() <= PATTERN.len(),
        }
}

fn method(name: &str) -> Result<Method, Fault> {
    match name {
        "GET" => Ok(Method::Get),
        "HEAD" => Ok(Method::Head),
        "OPTIONS" => Ok(Method::Options),
        "POST" | "PUT" | "DELETE" | "CONNECT" | "TRACE" | "PATCH" => Err((
            Status::MethodNotAllowed,
            "objects can only be read: use GET or HEAD",
        )),
        _ => Err((
            Status::NotImplemented,
            "this method is not supported: use GET or HEAD",
        )),
    }
}

/// `bytes` is what the head was read from.
fn request(head: &httparse::Request<'_, '_>, bytes: &[u8]) -> Result<Box<Request>, Fault> {
    let method = method(head.method.unwrap_or_default())?;
    let text = head.path.unwrap_or_default();
    if text.len() > TARGET_BYTES_MAX {
        return Err(TARGET_TOO_LONG);
    }
    let target = match (method, text) {
        // The server as a whole (RFC 9112 section 3.2.4).
        (Method::Options, "*") => target::parse("/"),
        _ => target::parse(text),
    };
    let target = target.ok_or((
        Status::BadRequest,
        "the request target must be an absolute path (or an http URL) without broken escapes that decodes to UTF-8",
    ))?;
    let http10 = head.version == Some(0);
    let mut request = Box::new(Request {
        method,
        path: target.path,
        query: target.query,
        ranges: None,
        conditions: Conditions::default(),
        forwarded: None,
        cross_origin: None,
        integrity: Integrity::default(),
        signed: None,
        id: None,
        noted: Noted {
            target: Span::of(bytes, text.as_bytes()),
            ..Noted::default()
        },
        keep_alive: false,
        http10,
    });
    let mut fields = Fields::default();
    for line in head.headers.iter() {
        fields.take(line.name, line.value, &mut request)?;
        request.noted.take(bytes, line.name, line.value);
    }
    if fields.hosts > 1 || (fields.hosts == 0 && !http10) {
        return Err((
            Status::BadRequest,
            "an HTTP/1.1 request needs exactly one Host field",
        ));
    }
    request.keep_alive = !fields.close && (!http10 || fields.keep_alive);
    // Nothing says which of several counts, so none does.
    if fields.ranges > 1 || fields.if_ranges > 1 {
        request.ranges = None;
    }
    if fields.if_modified_sinces > 1 {
        request.conditions.if_modified_since = None;
    }
    if fields.if_unmodified_sinces > 1 {
        request.conditions.if_unmodified_since = None;
    }
    request.conditions.shrink();
    if let Some(forwarded) = &mut request.forwarded {
        forwarded.shrink();
    }
    if let Some(cross_origin) = &request.cross_origin
        && (fields.origins > 1 || cross_origin.origin.is_empty())
    {
        request.cross_origin = None;
    }
    Ok(request)
}

/// What was seen of a head's fields.
#[derive(Default)]
struct Fields {
    hosts: u32,
    ranges: u32,
    if_ranges: u32,
    if_modified_sinces: u32,
    if_unmodified_sinces: u32,
    origins: u32,
    close: bool,
    keep_alive: bool,
    content_length: Option<u64>,
}

impl Fields {
    /// Takes one field into the request.
    fn take(&mut self, name: &str, value: &[u8], request: &mut Request) -> Result<(), Fault> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let conditions = &mut request.conditions;
        // What is no text is as if it were empty, which is no number, date, tag or token either.
        let text = || field::trim(str::from_utf8(value).unwrap_or_default());
        if is("host") {
            self.hosts += 1;
            if !target::is_host(value.trim_ascii()) {
                return Err((
                    Status::BadRequest,
                    "Host is not a host with or without a port",
                ));
            }
        } else if is("connection") {
            let text = text();
            // An option that is no text may be `close` to somebody else.
            self.close |= text.is_empty() && !value.is_empty();
            for option in field::list(text) {
                self.close |= option.eq_ignore_ascii_case("close");
                self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
            }
        } else if is("range") {
            self.ranges += 1;
            request.ranges = range::parse(text());
        } else if is("if-range") {
            self.if_ranges += 1;
            conditions.if_range = Some(IfRange::parse(text()));
        } else if is("if-match") {
            append(&mut conditions.if_match, text());
        } else if is("if-none-match") {
            append(&mut conditions.if_none_match, text());
        } else if is("if-modified-since") {
            self.if_modified_sinces += 1;
            conditions.if_modified_since = httpdate::parse_http_date(text()).ok();
        } else if is("if-unmodified-since") {
            self.if_unmodified_sinces += 1;
            conditions.if_unmodified_since = httpdate::parse_http_date(text()).ok();
        } else if is("x-forwarded-for") {
            // What a client sent in front may be no text, and hides nothing of what a proxy added.
            let forwarded = request.forwarded.get_or_insert_default();
            append(
                &mut forwarded.x_forwarded_for,
                &String::from_utf8_lossy(value),
            );
        } else if is("forwarded") {
            let forwarded = request.forwarded.get_or_insert_default();
            append(&mut forwarded.forwarded, &String::from_utf8_lossy(value));
        } else if is("origin") {
            self.origins += 1;
            cross_origin(request).origin = text().to_owned();
        } else if is("access-control-request-method") {
            cross_origin(request).preflight = request.method == Method::Options;
        } else if is("access-control-request-headers") {
            let names = &mut cross_origin(request).names;
            if !names.is_empty() {
                names.push_str(", ");
            }
            names.push_str(text());
        } else if is("want-repr-digest") {
            request.integrity.digest.take(text());
        } else if is("x-amz-checksum-mode") {
            // As S3 has it (GetObject).
            request.integrity.checksum = text() == "ENABLED";
        } else if is("transfer-encoding") {
            // Chunks are a body. In another coding, its end can't be found.
            return Err(match text().eq_ignore_ascii_case("chunked") {
                true => BODY,
                false => (
                    Status::NotImplemented,
                    "this transfer coding is not supported, nor is a body",
                ),
            });
        } else if is("content-length") {
            self.take_length(text())?;
        }
        Ok(())
    }

    /// Takes a `Content-Length`. A body is refused whatever else the head says: one that is not read would be taken for
    /// the next request.
    fn take_length(&mut self, text: &str) -> Result<(), Fault> {
        // It may come several times, also in one field, if all are the same (RFC 9110 section 8.6).
        for element in text.split(',').map(field::trim) {
            if !field::is_number(element) {
                return Err((Status::BadRequest, "Content-Length is not a number"));
            }
            // Too long a number is a body too.
            let length = element.parse().unwrap_or(u64::MAX);
            if self.content_length.is_some_and(|other| other != length) {
                return Err((Status::BadRequest, "Content-Length comes twice and differs"));
            }
            self.content_length = Some(length);
        }
        match self.content_length {
            Some(0) | None => Ok(()),
            Some(_) => Err(BODY),
        }
    }
}

/// A list may come in several fields (RFC 9110 section 5.3).
fn append(list: &mut Option<String>, text: &str) {
    match list {
        Some(list) => {
            list.push_str(", ");
            list.push_str(text);
        }
        none => *none = Some(text.to_owned()),
    }
}

fn cross_origin(request: &mut Request) -> &mut CrossOrigin {
    request.cross_origin.get_or_insert_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Request(request, length) => {
                assert_eq!(length, text.len());
                *request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &str) -> Status {
        match parse(text.as_bytes()) {
            Parsed::Refused(refusal) => refusal.status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_plain_get() {
        let r = request("GET /a%20b/c%C3%A9?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((r.path.as_str(), r.query.as_str()), ("a b/cé", "x=1"));
        assert_eq!(r.method, Method::Get);
        assert!(r.keep_alive && !r.http10);
    }

    #[test]
    fn absolute_form_and_http10() {
        let r = request("HEAD http://h:80/x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert_eq!((r.path.as_str(), r.method), ("x", Method::Head));
        assert!(r.keep_alive && r.http10);
    }

    #[test]
    fn every_prefix_of_a_good_head_needs_more() {
        let text = "GET /k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Parsed::NeedMore, "{end}");
        }
    }

    #[test]
    fn refusals_have_the_right_status() {
        assert_eq!(
            refused("POST / HTTP/1.1\r\nHost: h\r\n\r\n"),
            Status::MethodNotAllowed
        );
        assert_eq!(
            refused("BREW / HTTP/1.1\r\nHost: h\r\n\r\n"),
            Status::NotImplemented
        );
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            Status::BadRequest
        );
        assert_eq!(
            refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
            Status::VersionNotSupported
        );
        assert_eq!(
            refused("GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n"),
            Status::BadRequest
        );
        assert_eq!(
            refused("GET x HTTP/1.1\r\nHost: h\r\n\r\n"),
            Status::BadRequest
        );
        assert_eq!(refused("\x16\x03\x01\x02\x00\x01\x00"), Status::BadRequest);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Status::BadRequest
        );
        let fields = "a: b\r\n".repeat(65);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")),
            Status::HeadersTooLarge
        );
        let long = "a".repeat(TARGET_BYTES_MAX + 100);
        assert_eq!(refused(&format!("GET /{long}")), Status::TargetTooLong);
        assert_eq!(
            refused(&format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n")),
            Status::TargetTooLong
        );
        let field = "a".repeat(REQUEST_HEAD_BYTES_MAX);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nx: {field}")),
            Status::HeadersTooLarge
        );
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nx: {field}\r\n\r\n")),
            Status::HeadersTooLarge
        );
    }

    /// A head of these lines, after a request line of `version`.
    fn head(version: &str, lines: &[&str]) -> String {
        format!("GET /k {version}\r\n{}\r\n\r\n", lines.join("\r\n"))
    }

    #[test]
    fn of_two_fields_that_may_come_once_none_counts() {
        let with = |lines: &[&str]| request(&head("HTTP/1.1", &[&["Host: h"], lines].concat()));
        let twice = with(&["Range: bytes=0-1", "Range: bytes=2-3"]);
        assert_eq!(twice.ranges, None);
        let twice = with(&["Range: bytes=0-1", "If-Range: \"a\"", "If-Range: \"b\""]);
        assert_eq!(twice.ranges, None);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let twice = with(&["Origin: https://a", "Origin: https://b"]);
        assert_eq!(twice.cross_origin, None);
        for name in ["If-Modified-Since", "If-Unmodified-Since"] {
            let line = format!("{name}: {date}");
            let conditions = |lines: &[&str]| with(lines).conditions;
            assert_ne!(conditions(&[&line]), Conditions::default());
            assert_eq!(conditions(&[&line, &line]), Conditions::default());
        }
    }

    /// A body that was not read was taken for the next request: behind HTTP/1.0 `Connection: keep-alive` that came after
    /// `Content-Length`, the connection stayed open.
    #[test]
    fn a_request_with_a_body_is_refused() {
        for (version, lines) in [
            ("HTTP/1.1", &["Content-Length: 3"][..]),
            (
                "HTTP/1.0",
                &["Content-Length: 34", "Connection: keep-alive"],
            ),
            (
                "HTTP/1.0",
                &["Connection: keep-alive", "Content-Length: 34"],
            ),
            ("HTTP/1.1", &["Content-Length: 0", "Content-Length: 3"]),
            ("HTTP/1.1", &["Content-Length: 3", "Content-Length: 0"]),
            ("HTTP/1.1", &["Content-Length: 0, 3"]),
            ("HTTP/1.1", &["Content-Length: +0"]),
            ("HTTP/1.1", &["Content-Length: -0"]),
            ("HTTP/1.1", &["Content-Length: 0x0"]),
            ("HTTP/1.1", &["Content-Length: "]),
            ("HTTP/1.1", &["Content-Length: 0,"]),
            ("HTTP/1.1", &["Content-Length: \u{a0}0"]),
            ("HTTP/1.1", &["Content-Length: \u{661}"]),
            ("HTTP/1.1", &["Content-Length: 99999999999999999999999"]),
            ("HTTP/1.1", &["Transfer-Encoding: chunked"]),
            (
                "HTTP/1.1",
                &["Content-Length: 0", "Transfer-Encoding: Chunked"],
            ),
        ] {
            let lines = [&["Host: h"], lines].concat();
            assert_eq!(
                refused(&head(version, &lines)),
                Status::BadRequest,
                "{lines:?}"
            );
        }
        for coding in [
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "xchunked",
            "identity",
        ] {
            let line = format!("Transfer-Encoding: {coding}");
            let status = refused(&head("HTTP/1.1", &["Host: h", &line]));
            assert_eq!(status, Status::NotImplemented, "{coding}");
        }
        let none = ["Host: h", "Content-Length: 0", "Content-Length: 0, 00"];
        assert!(request(&head("HTTP/1.1", &none)).keep_alive);
    }

    /// A client behind a trusted proxy hid its address: what was no text anywhere in the field was as if it were empty.
    #[test]
    fn what_proxies_added_is_read_whatever_stands_in_front() {
        let mut head =
            b"GET /k HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: \xff, 192.0.2.1\r\n".to_vec();
        head.extend_from_slice(b"Forwarded: for=\xff, for=192.0.2.2\r\n\r\n");
        let Parsed::Request(request, _) = parse(&head) else {
            panic!("refused");
        };
        let forwarded = request.forwarded.unwrap();
        let list = forwarded.x_forwarded_for.unwrap();
        assert!(list.ends_with(", 192.0.2.1"), "{list}");
        let list = forwarded.forwarded.unwrap();
        assert!(list.ends_with(", for=192.0.2.2"), "{list}");
    }

    #[test]
    fn which_connections_stay() {
        let stays = |version: &str, lines: &[&str]| {
            request(&head(version, &[&["Host: h"], lines].concat())).keep_alive
        };
        assert!(stays("HTTP/1.1", &[]) && !stays("HTTP/1.0", &[]));
        assert!(stays("HTTP/1.0", &["Connection: x, Keep-Alive"]));
        // Whatever else is said, and in any order.
        for lines in [
            &["Connection: close"][..],
            &["Connection: close, keep-alive"],
            &["Connection: keep-alive", "Connection: ,CLOSE"],
            &["Connection: close", "Connection: keep-alive"],
        ] {
            assert!(
                !stays("HTTP/1.1", lines) && !stays("HTTP/1.0", lines),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        for host in ["a/b@c", "[::1", "x:y", "a b", "\u{e9}", "a\tb"] {
            let line = format!("Host: {host}");
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                assert_eq!(
                    refused(&head(version, &[&line])),
                    Status::BadRequest,
                    "{host}"
                );
            }
        }
        assert!(matches!(
            parse(b"GET /k HTTP/1.1\r\nHost: \xff\r\n\r\n"),
            Parsed::Refused(_)
        ));
    }

    #[test]
    fn a_line_feed_alone_ends_no_line() {
        for text in [
            "GET /k HTTP/1.1\nHost: h\r\n\r\n",
            "GET /k HTTP/1.1\r\nHost: h\n\r\n",
            "GET /k HTTP/1.1\r\nHost: h\r\n\n",
            "GET /k HTTP/1.1\r\nHost: h\n",
            "\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n",
        ] {
            assert_eq!(refused(text), Status::BadRequest, "{text:?}");
        }
        let text = "\r\n\r\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(request(text).path, "k");
    }

    #[test]
    fn a_later_minor_version_is_served_as_1_1() {
        let lines = ["Host: h", "Connection: keep-alive"];
        for version in ["HTTP/1.2", "HTTP/1.9"] {
            let later = request(&head(version, &lines));
            assert_eq!(later, request(&head("HTTP/1.1", &lines)), "{version}");
        }
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/9.9"] {
            let status = refused(&head(version, &lines));
            assert_eq!(status, Status::VersionNotSupported, "{version}");
        }
        // The rest of it may still come.
        assert_eq!(refused("GET /k HTTP/2"), Status::VersionNotSupported);
        for version in [
            "HTTP/1.",
            "HTTP/1.a",
            "HTTP/2",
            "HTTP/11",
            "HTTP/01.1",
            "HTTP/-1.1",
            "HTTP/2.00",
            "HTTP/2.0x",
            "http/2.0",
        ] {
            let status = refused(&head(version, &lines));
            assert_eq!(status, Status::BadRequest, "{version}");
        }
    }

    #[test]
    fn options_and_pages_of_other_origins() {
        let text = "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(request(text).method, Method::Options);
        assert_eq!(request(text).cross_origin, None);
        let lines = "Host: h\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\
                     Access-Control-Request-Headers: range\r\nAccess-Control-Request-Headers: x-a";
        for (method, preflight) in [("OPTIONS", true), ("GET", false)] {
            let asked = request(&format!("{method} /k HTTP/1.1\r\n{lines}\r\n\r\n"));
            let expected = CrossOrigin {
                origin: "https://a".into(),
                preflight,
                names: "range, x-a".into(),
            };
            assert_eq!(asked.cross_origin.as_deref(), Some(&expected));
        }
        assert_eq!(
            refused("GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
            Status::BadRequest
        );
    }

    /// The answers to refused HEAD requests had bodies, which a client took for the next response.
    #[test]
    fn a_refusal_knows_whether_it_may_have_a_body() {
        let long = "a".repeat(TARGET_BYTES_MAX + 100);
        for (rest, status) in [
            ("/ HTTP/1.1\r\n\r\n", Status::BadRequest),
            (&format!("/{long}"), Status::TargetTooLong),
            ("/ HTTP/3.0\r\n\r\n", Status::VersionNotSupported),
        ] {
            for (method, expected) in [("HEAD", true), ("GET", false), ("HEADER", false)] {
                let Parsed::Refused(refusal) = parse(format!("{method} {rest}").as_bytes()) else {
                    panic!("{method} {rest}");
                };
                assert_eq!(refusal.head_only, expected, "{method} {rest}");
                if method != "HEADER" {
                    assert_eq!(refusal.status, status);
                }
            }
        }
    }
}
