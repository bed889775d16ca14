//! A response on its way: what of it is still to be sent.

use std::ops::Range;

use super::method::Method;
use super::multipart::Parts;
use super::record::Record;
use super::request::Request;
use super::response::Response;
use super::status::Status;
use crate::memory::limits::RESPONSE_HEAD_BYTES_USUAL;

/// What is known of a request until its response ends.
#[derive(Debug, Default)]
pub(super) struct Current {
    pub(super) method: Option<Method>,
    pub(super) record: Option<Box<Record>>,
}

/// A response that ended.
#[derive(Debug)]
pub struct Finished {
    /// Its status.
    pub status: Status,
    /// The method of its request, if that could be understood.
    pub method: Option<Method>,
    /// What the access log says of the request, if requests are logged.
    pub record: Option<Box<Record>>,
}

/// The part of a response that is still to be sent.
#[derive(Debug)]
pub struct Outgoing<O> {
    status: Status,
    /// The head (and an error's text), or the lines before a range; freed with the last byte of it.
    head: Vec<u8>,
    /// Bytes of it that were sent.
    head_sent: usize,
    /// The unsent bytes of the object that follow it.
    body: Range<u64>,
    /// What follows those, if several ranges were asked for.
    parts: Option<Box<Parts>>,
    object: Option<O>,
    /// Whether a byte was sent.
    pub(super) begun: bool,
    /// Whether it may have no body.
    pub(super) head_only: bool,
    pub(super) keep_alive: bool,
    /// Kept until the first byte is sent: until then the response can still become an error.
    pub(super) request: Option<Box<Request>>,
    pub(super) current: Current,
}

impl<O> Outgoing<O> {
    /// All of a response, whose body comes from this object. `request` is what it answers, if it can still become an error.
    pub(super) fn new(
        response: Response,
        object: Option<O>,
        request: Option<Box<Request>>,
        current: Current,
    ) -> Outgoing<O> {
        let Response {
            status,
            mut head,
            body,
            parts,
            head_only,
            keep_alive,
        } = response;
        if head.len() > RESPONSE_HEAD_BYTES_USUAL {
            head.shrink_to_fit();
        }
        Outgoing {
            status,
            head,
            head_sent: 0,
            body,
            parts,
            object,
            begun: false,
            head_only,
            keep_alive,
            request,
            current,
        }
    }

    /// The unsent rest of the head.
    pub fn head(&self) -> &[u8] {
        &self.head[self.head_sent..]
    }
    /// The unsent range of the object; empty when only the head is left.
    pub fn body(&self) -> Range<u64> {
        self.body.clone()
    }
    /// The object that the body comes from.
    pub fn object(&self) -> Option<&O> {
        self.object.as_ref()
    }
    /// Whether no byte of the response has been sent.
    pub fn is_unsent(&self) -> bool {
        self.request.is_some()
    }
    /// Bytes left, head included.
    pub fn remaining(&self) -> u64 {
        let parts = self.parts.as_ref().map_or(0, |parts| parts.remaining());
        self.unsent_bytes() + parts
    }
    /// Bytes of the head and the range that are being sent.
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.head().len() as u64 + (self.body.end - self.body.start)
    }
    /// Begins the next part of a body of several ranges, if the present one is sent.
    fn advance(&mut self) {
        if self.unsent_bytes() > 0 {
            return;
        }
        if let Some(part) = self.parts.as_mut().and_then(|parts| parts.next()) {
            self.head = part.lines.into_bytes();
            self.head_sent = 0;
            self.body = part.range;
        }
    }
    /// The kernel took so many bytes: of the head first, then of the body.
    pub(super) fn took(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.unsent_bytes(), "more was sent than there was");
        if bytes > 0 {
            self.request = None;
            self.begun = true;
        }
        let of_head = bytes.min(self.head().len() as u64);
        self.head_sent += of_head as usize;
        if self.head().is_empty() {
            self.head = Vec::new();
            self.head_sent = 0;
        }
        self.body.start = (self.body.start + (bytes - of_head)).min(self.body.end);
        self.advance();
    }
    /// It ends here.
    pub(super) fn end(&mut self) -> Finished {
        let Current { method, record } = std::mem::take(&mut self.current);
        Finished {
            status: self.status,
            method,
            record,
        }
    }
    /// Bytes of user memory that it holds beyond its own size.
    pub(super) fn held_bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |it| it.held_bytes());
        let parts = self.parts.as_ref().map_or(0, |it| it.held_bytes());
        self.head.capacity() + request + parts
    }
}
