//! Response heads, as they are written: status line, fields, and the text of an error behind them.

use std::fmt;
use std::io::Write as _;
use std::ops::Range;
use std::time::SystemTime;

use super::cache_control;
use super::conditions::Validators;
use super::cors;
use super::date::{date_text, seconds_of};
use super::method::Method;
use super::request::Request;
use super::response::{Context, Representation, Response};
use super::status::Status;
use crate::memory::limits::RESPONSE_HEAD_BYTES_USUAL;
use crate::s3;
use crate::s3::error::Code;

/// What a response's end depends on.
#[derive(Clone, Copy)]
pub(super) struct Recipient {
    pub(super) has_body: bool,
    pub(super) keep_alive: bool,
    pub(super) http10: bool,
}

impl Recipient {
    pub(super) fn of(request: &Request, context: &Context) -> Recipient {
        Recipient {
            has_body: request.method != Method::Head,
            keep_alive: request.keep_alive && !context.draining,
            http10: request.http10,
        }
    }
}

/// The seconds in `Retry-After`. On a busy edge, connections end within seconds.
const RETRY_AFTER_SECONDS: u32 = 2;

/// A head under construction.
pub(super) struct Head {
    status: Status,
    bytes: Vec<u8>,
}

impl Head {
    pub(super) fn new(status: Status, context: &Context, request: Option<&Request>) -> Head {
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

    pub(super) fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn put_formatted(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a Vec does not fail.
        let _ = self.bytes.write_fmt(text);
    }

    pub(super) fn field(&mut self, name: &str, value: &str) {
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
    pub(super) fn content_length(&mut self, length: u64) {
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

    pub(super) fn formatted(&mut self, name: &str, value: impl fmt::Display) {
        self.put_formatted(format_args!("{name}: {value}\r\n"));
    }

    /// The fields that identify the object's bytes, those for caches, and its own.
    pub(super) fn describe(
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

    pub(super) fn explain(
        self,
        error: &s3::error::Error,
        request: &Request,
        context: &Context,
    ) -> Response {
        // A client of S3 may ask for a bucket that is none.
        let is_s3 = context.site.is_s3(request) || error.code == Code::NoSuchBucket;
        let is_s3 = context.site.errors_are_s3(is_s3);
        let path = is_s3.then_some(request.path.as_str());
        self.text(error, path, Recipient::of(request, context))
    }

    /// Ends with the text of an error: S3's document, if the path is S3's.
    pub(super) fn text(
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

    pub(super) fn finish(mut self, body: Range<u64>, recipient: Recipient) -> Response {
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
