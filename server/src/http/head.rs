//! Response heads: what follows from a request and from what is known of an object (RFC 9110 sections 8, 14, 15).

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::cache_control;
use super::conditions::{Outcome, Validators};
use super::cors;
use super::method::{METHODS, Method};
use super::multipart::Parts;
use super::range::Selected;
use super::request::{Refusal, Request};
use super::site::Site;
use super::status::Status;
use crate::memory::limits::RESPONSE_HEAD_BYTES_USUAL;
use crate::s3;
use crate::s3::error::Code;

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
    /// More fields, of the content: 304 goes without them (RFC 9110 section 15.4.5). Whole lines.
    fn content_fields(&self) -> &str {
        ""
    }
    /// `Repr-Digest` of the whole object, as a whole line; empty if no digest is known.
    fn digest(&self) -> &str {
        ""
    }
    /// The checksum of the whole object as S3 says it, as whole lines; empty if it is not known.
    fn checksum(&self) -> &str {
        ""
    }
    /// What its put says to caches.
    fn cache_control(&self) -> Option<&str> {
        None
    }
    /// When it expires, in seconds since 1970.
    fn expires(&self) -> Option<u64> {
        None
    }
}

/// What a response depends on besides its request and its object.
#[derive(Clone, Debug)]
pub struct Context {
    /// The present time.
    pub now: SystemTime,
    /// Whether the server stops: every response is then its connection's last.
    pub draining: bool,
    /// What the operator says of all objects.
    pub site: Rc<Site>,
    /// The id of a request that has none, if requests are logged.
    pub request_id: Option<u64>,
}

/// A response: its head, with the short text of an error behind it, and what follows of the object.
#[derive(Debug)]
pub struct Response {
    /// For the counters.
    pub status: Status,
    /// Status line, fields and empty line; behind them the text of an error.
    pub head: Vec<u8>,
    /// The bytes of the object to send behind the head; empty for HEAD, 304 and errors.
    pub body: Range<u64>,
    /// What follows, if several ranges were asked for.
    pub parts: Option<Box<Parts>>,
    /// Whether the request was HEAD: no response to it has a body.
    pub head_only: bool,
    /// Whether the connection serves another request after this response.
    pub keep_alive: bool,
}

/// The response to a request for an object that was found.
pub fn respond(request: &Request, object: &impl Representation, context: &Context) -> Response {
    let validators = Validators {
        etag: object.etag(),
        modified: object
            .modified()
            .map(|seconds| last_modified(seconds, context.now)),
        date: whole_seconds(context.now),
    };
    let recipient = Recipient::of(request, context);
    match request.conditions.evaluate(&validators) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            let mut head = Head::new(Status::NotModified, context, Some(request));
            head.describe(object, request, &validators);
            return head.finish(0..0, recipient);
        }
        Outcome::Failed => {
            let reason = "the object isn't the one that the request's conditions ask for";
            return error(Status::PreconditionFailed, reason, request, context);
        }
    }
    let size = object.size();
    // Range handling is defined for GET only; elsewhere the field must be ignored (RFC 9110 section 14.2).
    let counts = request.method == Method::Get && request.conditions.range_counts(&validators);
    let ranges = request.ranges.as_ref().filter(|_| counts);
    let selected = ranges.map_or(Selected::Whole, |ranges| ranges.select(size));
    let status = match selected {
        Selected::Whole => Status::Ok,
        Selected::One(_) | Selected::Several(_) => Status::PartialContent,
        Selected::Unsatisfiable => {
            let mut head = Head::new(Status::RangeNotSatisfiable, context, Some(request));
            head.formatted("Content-Range", format_args!("bytes */{size}"));
            let reason = "the range starts at or past the end of the object";
            return head.explain(
                &about(Status::RangeNotSatisfiable, reason),
                request,
                context,
            );
        }
    };
    let mut head = Head::new(status, context, Some(request));
    let mut parts = None;
    let body = match selected {
        Selected::Several(ranges) => {
            let several = Parts::new(ranges, object.content_type(), size);
            head.formatted(
                "Content-Type",
                format_args!("multipart/byteranges; boundary={}", several.boundary()),
            );
            head.formatted("Content-Length", several.remaining());
            parts = Some(Box::new(several));
            0..0
        }
        selected => {
            head.field("Content-Type", object.content_type());
            let body = match selected {
                Selected::One(range) => range,
                _ => 0..size,
            };
            head.content_length(body.end - body.start);
            if status == Status::PartialContent {
                head.formatted(
                    "Content-Range",
                    format_args!("bytes {}-{}/{size}", body.start, body.end - 1),
                );
            }
            body
        }
    };
    head.put("Accept-Ranges: bytes\r\n");
    head.describe(object, request, &validators);
    head.put(object.content_fields());
    // Clients check the body against it, so it goes with the whole alone.
    if request.integrity.checksum && status == Status::Ok {
        head.put(object.checksum());
    }
    let body = match request.method {
        Method::Get => body,
        _ => 0..0,
    };
    let mut response = head.finish(body, recipient);
    // The first part leaves with the head.
    if let Some(part) = parts.as_mut().and_then(|parts| parts.next()) {
        response.head.extend_from_slice(part.lines.as_bytes());
        response.body = part.range;
    }
    response.parts = parts;
    response
}

/// When an object that was put at `seconds` was last modified. A store's clock may be ahead of ours, and no date may be
/// later than the response's own (RFC 9110 section 8.8.2.1). In whole seconds, as in the field, which conditions repeat.
fn last_modified(seconds: u64, now: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(seconds_of(now)))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds_of(time))
}

/// Seconds since 1970.
fn seconds_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The response to OPTIONS: which methods there are, and whether a page of another origin may use them.
pub fn options(request: &Request, context: &Context) -> Response {
    let mut head = Head::new(Status::NoContent, context, Some(request));
    head.field("Allow", METHODS);
    if let Some(asked) = &request.cross_origin
        && asked.preflight
        && context.site.cors.allowed(&asked.origin).is_some()
    {
        head.field("Access-Control-Allow-Methods", METHODS);
        if let Some(names) = asked.allowed_names() {
            head.field("Access-Control-Allow-Headers", names);
        }
        head.formatted("Access-Control-Max-Age", cors::MAX_AGE_SECONDS);
    }
    head.finish(0..0, Recipient::of(request, context))
}

/// The response to a request that belongs elsewhere.
pub fn redirect(location: &str, request: &Request, context: &Context) -> Response {
    let mut head = Head::new(Status::PermanentRedirect, context, Some(request));
    head.field("Location", location);
    head.field("Content-Length", "0");
    head.finish(0..0, Recipient::of(request, context))
}

/// An error with a short text as its body.
pub fn error(
    status: Status,
    reason: &'static str,
    request: &Request,
    context: &Context,
) -> Response {
    let head = Head::new(status, context, Some(request));
    head.explain(&about(status, reason), request, context)
}

/// An error as S3 has it. Requests that are not S3's get its text alone.
pub fn s3_error(error: &s3::error::Error, request: &Request, context: &Context) -> Response {
    let head = Head::new(Status::of(error.code.status()), context, Some(request));
    head.explain(error, request, context)
}

/// What S3 has for a status.
fn about(status: Status, reason: &'static str) -> s3::error::Error {
    s3::error::Error::new(Code::of_status(status.code()), reason)
}

/// The response with a document that was made for the request, of `length` bytes. It is no object: there are no ranges,
/// and nothing to compare it with.
pub fn document(length: u64, fields: &str, request: &Request, context: &Context) -> Response {
    let mut head = Head::new(Status::Ok, context, Some(request));
    if length > 0 {
        head.field("Content-Type", s3::xml::MEDIA_TYPE);
    }
    head.formatted("Content-Length", length);
    head.put(fields);
    let body = match request.method {
        Method::Get => 0..length,
        _ => 0..0,
    };
    head.finish(body, Recipient::of(request, context))
}

/// The answer to a head that is refused. The connection then closes, since nobody knows where the next request starts.
pub fn refuse(refusal: &Refusal, context: &Context) -> Response {
    let mut head = Head::new(refusal.status, context, None);
    if refusal.status == Status::MethodNotAllowed {
        head.field("Allow", METHODS);
    }
    let recipient = Recipient {
        has_body: !refusal.head_only,
        keep_alive: false,
        http10: false,
    };
    let path = refusal.path.as_deref();
    let s3 = path.filter(|path| context.site.buckets.own(path));
    head.text(&about(refusal.status, refusal.reason), s3, recipient)
}

/// What a response's end depends on.
#[derive(Clone, Copy)]
struct Recipient {
    has_body: bool,
    keep_alive: bool,
    http10: bool,
}

impl Recipient {
    fn of(request: &Request, context: &Context) -> Recipient {
        Recipient {
            has_body: request.method != Method::Head,
            keep_alive: request.keep_alive && !context.draining,
            http10: request.http10,
        }
    }
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
    let seconds = seconds_of(date);
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
    fn new(status: Status, context: &Context, request: Option<&Request>) -> Head {
        let mut head = Head {
            status,
            bytes: Vec::with_capacity(RESPONSE_HEAD_BYTES_USUAL),
        };
        match status {
            // The most frequent line does without formatting.
            Status::Ok => head.put("HTTP/1.1 200 OK\r\n"),
            _ => head.put_formatted(format_args!("HTTP/1.1 {status}\r\n")),
        }
        head.put(concat!(
            "Server: penstock/",
            env!("CARGO_PKG_VERSION"),
            "\r\n"
        ));
        head.date("Date: ", context.now);
        // Whoever puts says what an object is, and no browser shall guess otherwise.
        head.put("X-Content-Type-Options: nosniff\r\n");
        if let Some(id) = request.and_then(|request| request.id.as_deref()) {
            head.field("X-Request-Id", id);
        }
        if context.site.cors.varies() {
            head.field("Vary", "Origin");
        }
        let page = request.and_then(|request| request.cross_origin.as_deref());
        if let Some(allowed) = page.and_then(|page| context.site.cors.allowed(&page.origin)) {
            head.field("Access-Control-Allow-Origin", allowed);
            head.field("Access-Control-Expose-Headers", cors::EXPOSED);
        }
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

    /// A field whose value is a date, by its name with the colon.
    fn date(&mut self, name: &str, date: SystemTime) {
        self.put(name);
        self.bytes.extend_from_slice(&date_text(date));
        self.put("\r\n");
    }

    /// The most frequent field with a number does without formatting too.
    fn content_length(&mut self, length: u64) {
        // A number of 64 bits has 20 digits at most.
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut left = length;
        loop {
            start -= 1;
            digits[start] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.put("Content-Length: ");
        self.bytes.extend_from_slice(&digits[start..]);
        self.put("\r\n");
    }

    fn formatted(&mut self, name: &str, value: impl fmt::Display) {
        self.put_formatted(format_args!("{name}: {value}\r\n"));
    }

    /// The fields that identify the object's bytes, those for caches, and its own.
    fn describe(
        &mut self,
        object: &impl Representation,
        request: &Request,
        validators: &Validators<'_>,
    ) {
        self.field("ETag", object.etag());
        if let Some(modified) = validators.modified {
            self.date("Last-Modified: ", modified);
        }
        if request.integrity.digest.wanted() {
            self.put(object.digest());
        }
        match (object.cache_control(), object.expires()) {
            (None, None) => {}
            (Some(said), None) => self.field("Cache-Control", said),
            (said, Some(expires)) => {
                let left = expires.saturating_sub(seconds_of(validators.date));
                self.field("Cache-Control", &cache_control::until(said, left));
            }
        }
        self.put(object.fields());
    }

    fn retry_after(&mut self) {
        if self.status == Status::Unavailable {
            self.formatted("Retry-After", RETRY_AFTER_SECONDS);
        }
    }

    fn explain(self, error: &s3::error::Error, request: &Request, context: &Context) -> Response {
        // A client of S3 may ask for a bucket that is none.
        let is_s3 = context.site.is_s3(request) || error.code == Code::NoSuchBucket;
        let path = is_s3.then_some(request.path.as_str());
        self.text(error, path, Recipient::of(request, context))
    }

    /// Ends with the text of an error: S3's document, if the path is S3's.
    fn text(
        mut self,
        error: &s3::error::Error,
        s3: Option<&str>,
        recipient: Recipient,
    ) -> Response {
        self.retry_after();
        let body = match s3 {
            Some(path) => {
                self.field("Content-Type", s3::xml::MEDIA_TYPE);
                s3::xml::error(error, &format!("/{path}"))
            }
            None => {
                self.field("Content-Type", "text/plain; charset=utf-8");
                format!("{}: {}\n", self.status, error.message).into_bytes()
            }
        };
        self.formatted("Content-Length", body.len());
        let mut response = self.finish(0..0, recipient);
        if recipient.has_body {
            response.head.extend_from_slice(&body);
        }
        response
    }

    fn finish(mut self, body: Range<u64>, recipient: Recipient) -> Response {
        if !recipient.keep_alive {
            self.field("Connection", "close");
        } else if recipient.http10 {
            self.field("Connection", "keep-alive");
        }
        self.put("\r\n");
        if self.bytes.len() > RESPONSE_HEAD_BYTES_USUAL {
            // What it grew by is not left over.
            self.bytes.shrink_to_fit();
        }
        Response {
            status: self.status,
            head: self.bytes,
            body,
            parts: None,
            head_only: !recipient.has_body,
            keep_alive: recipient.keep_alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::{Conditions, IfRange};
    use super::super::cors::{Cors, CrossOrigin};
    use super::super::digest::Integrity;
    use super::super::range;
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
            ranges: None,
            conditions: Conditions::default(),
            forwarded: None,
            cross_origin: None,
            integrity: Integrity::default(),
            signed: None,
            id: None,
            noted: Default::default(),
            keep_alive: true,
            http10: false,
        }
    }

    /// A second after the object was put.
    const NOW: u64 = 784_111_778;

    /// That time and a half: dates have no halves.
    fn context(seconds: u64, site: Site) -> Context {
        Context {
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(500),
            draining: false,
            site: Rc::new(site),
            request_id: None,
        }
    }

    fn response_to(request: &Request) -> (Response, String) {
        response_at(NOW, request)
    }

    fn response_at(seconds: u64, request: &Request) -> (Response, String) {
        let response = respond(request, &Object, &context(seconds, Site::default()));
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

    /// An object of whose fields as many as possible are known.
    struct Described;
    impl Representation for Described {
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
        fn content_fields(&self) -> &str {
            "X-A: 1\r\n"
        }
        fn digest(&self) -> &str {
            "Repr-Digest: d\r\n"
        }
        fn checksum(&self) -> &str {
            "Checksum: c\r\n"
        }
        fn cache_control(&self) -> Option<&str> {
            Some("max-age=60")
        }
        fn expires(&self) -> Option<u64> {
            Some(NOW + 7)
        }
    }

    #[test]
    fn each_status_has_its_fields_of_the_object() {
        let lines = |request: &Request| {
            let response = respond(request, &Described, &context(NOW, Site::default()));
            let text = String::from_utf8(response.head).unwrap();
            let named = [
                "Repr-Digest: d",
                "Cache-Control: max-age=7",
                "X-A: 1",
                "Checksum: c",
            ];
            named.map(|line| text.matches(&format!("{line}\r\n")).count() == 1)
        };
        let all = Request {
            integrity: Integrity {
                checksum: true,
                ..Integrity::default()
            },
            ..get()
        };
        assert_eq!(lines(&get()), [true, true, true, false]);
        assert_eq!(lines(&all), [true, true, true, true]);
        let method = Method::Head;
        assert_eq!(
            lines(&Request {
                method,
                ..all.clone()
            }),
            [true; 4]
        );
        let ranges = range::parse("bytes=0-1");
        let part = Request {
            ranges,
            ..all.clone()
        };
        assert_eq!(lines(&part), [true, true, true, false]);
        let conditions = Conditions {
            if_none_match: Some("*".into()),
            ..Conditions::default()
        };
        let same = Request {
            conditions,
            ..all.clone()
        };
        assert_eq!(lines(&same), [true, true, false, false]);
        let mut none = all;
        none.integrity.digest.take("sha-256=0");
        assert_eq!(lines(&none), [false, true, true, true]);
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
        let ranges = range::parse("bytes=-10");
        let (response, text) = response_to(&Request { ranges, ..get() });
        assert_eq!(response.body, 990..1000);
        assert!(text.starts_with("HTTP/1.1 206 "));
        assert!(text.contains("Content-Range: bytes 990-999/1000\r\n"));
        assert!(text.contains("Content-Length: 10\r\n"));
        let ranges = range::parse("bytes=1000-");
        let (response, text) = response_to(&Request { ranges, ..get() });
        assert_eq!(
            (response.status, response.body),
            (Status::RangeNotSatisfiable, 0..0)
        );
        assert!(text.contains("Content-Range: bytes */1000\r\n"));
    }

    #[test]
    fn conditions() {
        let response_if = |conditions| {
            let ranges = range::parse("bytes=1-");
            response_to(&Request {
                ranges,
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
                ranges: range::parse("bytes=1-"),
                conditions: Conditions {
                    if_range,
                    ..Conditions::default()
                },
                ..get()
            };
            response_at(PAST, &request).0.status
        };
        // It is no second old, and may be replaced within this one: no strong validator.
        assert_eq!(range_if(PAST), Status::Ok);
        assert_eq!(range_if(Object.modified().unwrap()), Status::Ok);
    }

    #[test]
    fn refusals_close_and_errors_keep_the_connection() {
        let context = context(NOW, Site::default());
        let refusal = |head_only| Refusal {
            path: None,
            status: Status::BadRequest,
            reason: "no",
            head_only,
        };
        let response = refuse(&refusal(false), &context);
        let text = String::from_utf8(response.head).unwrap();
        assert!(!response.keep_alive && text.contains("Connection: close\r\n"));
        assert!(text.ends_with("\r\n\r\n400 Bad Request: no\n"));
        let response = refuse(&refusal(true), &context);
        assert!(response.head.ends_with(b"\r\n\r\n"));
        let response = error(Status::NotFound, "no", &get(), &context);
        assert!(response.keep_alive);
    }

    #[test]
    fn several_ranges() {
        let ranges = range::parse("bytes=0-0,10-19,-5");
        let (response, text) = response_to(&Request { ranges, ..get() });
        assert_eq!(response.status, Status::PartialContent);
        let (head, lines) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("Content-Range"), "{head}");
        let boundary = head.split_once("boundary=").unwrap().1;
        let boundary = boundary.split("\r\n").next().unwrap();
        let first = "Content-Type: video/mp4\r\nContent-Range: bytes 0-0/1000\r\n\r\n";
        assert_eq!(lines, format!("--{boundary}\r\n{first}"));
        let parts = response.parts.unwrap();
        let length = lines.len() as u64 + 1 + parts.remaining();
        assert!(
            head.contains(&format!("Content-Length: {length}\r\n")),
            "{head}"
        );
        let rest: Vec<_> = parts.map(|part| part.range).collect();
        assert_eq!((response.body, rest), (0..1, vec![10..20, 995..1000, 0..0]));
    }

    #[test]
    fn pages_of_other_origins() {
        let site = |origin: &str| Site {
            cors: Cors::new(vec![origin.parse().unwrap()]),
            ..Site::default()
        };
        let asked = |method, origin: &str| Request {
            method,
            cross_origin: Some(Box::new(CrossOrigin {
                origin: origin.into(),
                preflight: method == Method::Options,
                names: "range".into(),
            })),
            ..get()
        };
        let text = |response: Response| String::from_utf8(response.head).unwrap();
        let page = asked(Method::Get, "https://a");
        let allowed = context(NOW, site("https://a"));
        for response in [
            respond(&page, &Object, &allowed),
            error(Status::NotFound, "no", &page, &allowed),
        ] {
            let text = text(response);
            assert!(
                text.contains("Access-Control-Allow-Origin: https://a\r\n"),
                "{text}"
            );
            assert!(text.contains("Access-Control-Expose-Headers: "), "{text}");
            assert!(text.contains("Vary: Origin\r\n"), "{text}");
        }
        let other = text(respond(&page, &Object, &context(NOW, site("https://b"))));
        assert!(
            other.contains("Vary: Origin\r\n") && !other.contains("Access-"),
            "{other}"
        );
        let none = text(respond(&page, &Object, &context(NOW, Site::default())));
        assert!(
            !none.contains("Vary") && !none.contains("Access-"),
            "{none}"
        );

        let preflight = asked(Method::Options, "https://a");
        let response = options(&preflight, &allowed);
        assert_eq!(
            (response.status, &response.body),
            (Status::NoContent, &(0..0))
        );
        let granted = text(response);
        for field in [
            "Allow: GET, HEAD, OPTIONS\r\n",
            "Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n",
            "Access-Control-Allow-Headers: range\r\n",
            "Access-Control-Max-Age: 7200\r\n",
        ] {
            assert!(granted.contains(field), "{field} in {granted}");
        }
        let refused = text(options(&preflight, &context(NOW, site("https://b"))));
        assert!(
            refused.contains("Allow: GET") && !refused.contains("Access-"),
            "{refused}"
        );
    }
}
