//! Which response follows from a request and from what is known of an object (RFC 9110 sections 8, 14, 15).

use std::time::{Duration, SystemTime};

use super::conditions::{Outcome, Validators};
use super::cors;
use super::date::{seconds_of, whole_seconds};
use super::head::{Head, Recipient};
use super::method::{METHODS, Method};
use super::multipart::Parts;
use super::range::Selected;
use super::request::{Refusal, Request};
use super::response::{Context, Representation, Response};
use super::status::Status;
use crate::s3;
use crate::s3::error::Code;

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
    // No range has the nothing that an empty object is.
    let whole = match object.is_part() && size > 0 {
        true => Selected::One(0..size),
        false => Selected::Whole,
    };
    let selected = ranges.map_or(whole, |ranges| ranges.select(size));
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
    let site = &context.site;
    let s3 = match refusal.path.as_deref() {
        Some(path) => {
            // Who signs may ask for a bucket that is none, for instance to have it made.
            let signed = refusal.signed && !site.buckets.all().is_empty();
            site.errors_are_s3(signed || site.buckets.own(path))
                .then_some(path)
        }
        None => site.errors_are_s3(false).then_some(""),
    };
    head.text(&about(refusal.status, refusal.reason), s3, recipient)
}

#[cfg(test)]
mod tests {
    use super::super::conditions::{Conditions, IfRange};
    use super::super::cors::{Cors, CrossOrigin};
    use super::super::digest::Integrity;
    use super::super::range;
    use super::super::site::Site;
    use super::*;
    use std::rc::Rc;

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

    /// An object of this size that was asked for as its only part.
    struct Part(u64);
    impl Representation for Part {
        fn size(&self) -> u64 {
            self.0
        }
        fn etag(&self) -> &str {
            "\"abc\""
        }
        fn content_type(&self) -> &str {
            "video/mp4"
        }
        fn modified(&self) -> Option<u64> {
            None
        }
        fn is_part(&self) -> bool {
            true
        }
    }

    #[test]
    fn the_only_part_is_a_range() {
        let to = |size: u64, request: &Request| {
            let response = respond(request, &Part(size), &context(NOW, Site::default()));
            let text = String::from_utf8(response.head).unwrap();
            let range = text.contains(&format!("Content-Range: bytes 0-999/{size}\r\n"));
            (response.status, range, response.body)
        };
        let head = Request {
            method: Method::Head,
            ..get()
        };
        assert_eq!(to(1000, &get()), (Status::PartialContent, true, 0..1000));
        assert_eq!(to(1000, &head), (Status::PartialContent, true, 0..0));
        // Of nothing there is no range.
        assert_eq!(to(0, &get()), (Status::Ok, false, 0..0));
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
            signed: false,
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
