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
mod tests;
