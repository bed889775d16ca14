//! A response, and what it depends on besides its request.

use std::ops::Range;
use std::rc::Rc;
use std::time::SystemTime;

use super::multipart::Parts;
use super::site::Site;
use super::status::Status;

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
    /// Whether all of it was asked for as a part, which is answered as a range is.
    fn is_part(&self) -> bool {
        false
    }
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
