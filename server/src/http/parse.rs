//! From bytes to a [`Request`]: one head, parsed by `httparse` and checked against the limits.
//!
//! Everything here comes from a peer. A head is either complete, incomplete, or refused with a
//! status that says why. "Need more bytes" is an outcome, not an error.

use percent_encoding::percent_decode;

use super::conditions::{Conditions, IfRange};
use super::range::{self, RangeSpec};
use super::status::Status;
use crate::memory::limits::{HEADER_FIELDS_MAX, REQUEST_HEAD_BYTES_MAX, TARGET_BYTES_MAX};

/// The methods that are answered with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// RFC 9110 section 9.3.1.
    Get,
    /// RFC 9110 section 9.3.2.
    Head,
}

/// What one request head asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET or HEAD; nothing else gets this far.
    pub method: Method,
    /// The path, percent-decoded, without its leading slash and without a query.
    pub path: String,
    /// The query behind the path's `?`, not decoded.
    pub query: String,
    /// One byte range. Several, other units and malformed ones are as if absent (RFC 9110 14.2).
    pub range: Option<RangeSpec>,
    /// The conditions under which the object, or that range of it, is wanted.
    pub conditions: Conditions,
    /// Whether the connection may serve another request after this one.
    pub keep_alive: bool,
    /// Whether the peer speaks HTTP/1.0 and must be told about keep-alive.
    pub http10: bool,
}

impl Request {
    /// Bytes of memory that a boxed request holds.
    pub fn held_bytes(&self) -> usize {
        let list = &self.conditions.if_none_match;
        let list = list.as_ref().map_or(0, String::capacity);
        size_of::<Request>() + self.path.capacity() + self.query.capacity() + list
    }
}

/// A head that is refused. The connection closes after the response, since what follows may not be a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with.
    pub status: Status,
    /// What was wrong and what to do, in one line for the body of the response.
    pub reason: &'static str,
}

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

fn refuse(status: Status, reason: &'static str) -> Parsed {
    Parsed::Refused(Refusal { status, reason })
}

/// Looks for one request head at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > REQUEST_HEAD_BYTES_MAX => refuse(
            Status::HeadersTooLarge,
            "the request head is larger than 8 KiB",
        ),
        Ok(httparse::Status::Complete(length)) => match understand(&head) {
            Ok(request) => Parsed::Request(Box::new(request), length),
            Err(refusal) => Parsed::Refused(refusal),
        },
        Ok(httparse::Status::Partial) => incomplete(&head, bytes),
        Err(httparse::Error::TooManyHeaders) => refuse(
            Status::HeadersTooLarge,
            "the request has more than 64 header fields",
        ),
        Err(httparse::Error::Version) if claims_http(bytes) => refuse(
            Status::VersionNotSupported,
            "only HTTP/1.1 and HTTP/1.0 are supported",
        ),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            refuse(Status::BadRequest, "a header field is malformed")
        }
        Err(_) => refuse(Status::BadRequest, "this is not an HTTP request"),
    }
}

/// An incomplete head may already be too long.
fn incomplete(head: &httparse::Request<'_, '_>, bytes: &[u8]) -> Parsed {
    // The request line is what precedes the first line feed; leading empty lines are allowed.
    let start = bytes
        .iter()
        .position(|&b| b != b'\r' && b != b'\n')
        .unwrap_or(bytes.len());
    let line_open = !bytes[start..].contains(&b'\n');
    if line_open && bytes.len() - start > TARGET_BYTES_MAX + 64 {
        return refuse(
            Status::TargetTooLong,
            "the request target is longer than 4 KiB",
        );
    }
    if bytes.len() >= REQUEST_HEAD_BYTES_MAX {
        return match head.path {
            Some(path) if path.len() > TARGET_BYTES_MAX => refuse(
                Status::TargetTooLong,
                "the request target is longer than 4 KiB",
            ),
            _ => refuse(
                Status::HeadersTooLarge,
                "the request head is larger than 8 KiB",
            ),
        };
    }
    Parsed::NeedMore
}

/// Whether the first line names a version of HTTP: then it is the version that is unknown.
fn claims_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    line.windows(5).any(|w| w == b"HTTP/")
}

fn understand(head: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
    let bad = |reason| Refusal {
        status: Status::BadRequest,
        reason,
    };
    let method = match head.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            return Err(Refusal {
                status: Status::MethodNotAllowed,
                reason: "objects can only be read: use GET or HEAD",
            });
        }
        _ => {
            return Err(Refusal {
                status: Status::NotImplemented,
                reason: "this method is not supported: use GET or HEAD",
            });
        }
    };
    let target = head.path.unwrap_or_default();
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal {
            status: Status::TargetTooLong,
            reason: "the request target is longer than 4 KiB",
        });
    }
    let (path, query) = path_and_query(target).ok_or(bad(
        "the request target must be an absolute path (or an http URL) that decodes to UTF-8",
    ))?;

    let http10 = head.version == Some(0);
    let mut request = Request {
        method,
        path,
        query,
        range: None,
        conditions: Conditions::default(),
        keep_alive: !http10,
        http10,
    };
    let (mut hosts, mut ranges, mut if_ranges) = (0, 0, 0);
    for field in head.headers.iter() {
        let name = field.name;
        let text = std::str::from_utf8(field.value)
            .map(str::trim)
            .unwrap_or_default();
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in text.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    request.keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") && http10 {
                    request.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("range") {
            ranges += 1;
            request.range = range::parse(text);
        } else if name.eq_ignore_ascii_case("if-range") {
            if_ranges += 1;
            request.conditions.if_range = Some(match httpdate::parse_http_date(text) {
                Ok(date) => IfRange::Date(date),
                Err(_) => IfRange::Tag(text.to_owned()),
            });
        } else if name.eq_ignore_ascii_case("if-none-match") {
            // A list may come in several fields (RFC 9110 section 5.3).
            match &mut request.conditions.if_none_match {
                Some(list) => {
                    list.push_str(", ");
                    list.push_str(text);
                }
                none => *none = Some(text.to_owned()),
            }
        } else if name.eq_ignore_ascii_case("if-modified-since") {
            request.conditions.if_modified_since = httpdate::parse_http_date(text).ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // A request body in a coding we don't decode: its end can't be found.
            return Err(Refusal {
                status: Status::NotImplemented,
                reason: "requests with a body are not supported",
            });
        } else if name.eq_ignore_ascii_case("content-length") {
            match text.parse::<u64>() {
                Ok(0) => {}
                // The body is not read: what follows this head isn't a request.
                Ok(_) => request.keep_alive = false,
                Err(_) => return Err(bad("Content-Length is not a number")),
            }
        }
    }
    if hosts > 1 || (hosts == 0 && !http10) {
        return Err(bad("an HTTP/1.1 request needs exactly one Host field"));
    }
    // Nothing says which of several counts, so none does.
    if ranges > 1 {
        request.range = None;
    }
    if if_ranges > 1 {
        request.conditions.if_range = None;
        request.range = None;
    }
    Ok(request)
}

/// The path of a target in origin form or absolute form (RFC 9112 section 3.2), decoded, and its query.
fn path_and_query(target: &str) -> Option<(String, String)> {
    let target = if target.starts_with('/') {
        target
    } else {
        let scheme_end = target.find("://")?;
        let scheme = &target[..scheme_end];
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let rest = &target[scheme_end + 3..];
        &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..]
    };
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decoded = percent_decode(path.strip_prefix('/').unwrap_or_default().as_bytes());
    Some((decoded.decode_utf8().ok()?.into_owned(), query.to_owned()))
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
        assert_eq!(request("GET http://h HTTP/1.0\r\n\r\n").path, "");
        assert_eq!(request("GET http://h?a/b HTTP/1.0\r\n\r\n").path, "");
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
            Status::NotImplemented
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

    #[test]
    fn two_ranges_fields_or_a_list_count_as_none() {
        let r =
            request("GET /k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n");
        assert_eq!(r.range, None);
        let r = request("GET /k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,4-5\r\n\r\n");
        assert_eq!(r.range, None);
    }

    #[test]
    fn a_body_ends_the_connection() {
        let r = request("GET /k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
        assert!(!r.keep_alive);
    }
}
