//! What a request head says, once it was parsed, and what is said of one that is refused.

use super::conditions::Conditions;
use super::cors::CrossOrigin;
use super::digest::Integrity;
use super::forwarded::Forwarded;
use super::method::Method;
use super::range::Ranges;
use super::record::Noted;
use super::status::Status;

/// What one request head asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Nothing but these gets this far.
    pub method: Method,
    /// The path, percent-decoded, without dot segments, without its leading slash and without a query.
    pub path: String,
    /// The query behind the path's `?`, not decoded.
    pub query: String,
    /// Byte ranges. Other units and malformed ones are as if absent (RFC 9110 section 14.2).
    pub ranges: Option<Ranges>,
    /// The conditions under which the object, or that range of it, is wanted.
    pub conditions: Conditions,
    /// What proxies say of the client's address.
    pub forwarded: Option<Box<Forwarded>>,
    /// What a page of another origin says of its request.
    pub cross_origin: Option<Box<CrossOrigin>>,
    /// What is to be said of the whole object's bytes.
    pub integrity: Integrity,
    /// The whole head, if it claims to be signed: what is signed is the bytes that came.
    pub signed: Option<Box<[u8]>>,
    /// Its name in logs, which its response repeats; set once the head was understood.
    pub id: Option<Box<str>>,
    /// Where in the head that is which the access log wants.
    pub noted: Noted,
    /// Whether the connection may serve another request after this one.
    pub keep_alive: bool,
    /// Whether the peer speaks HTTP/1.0 and must be told about keep-alive.
    pub http10: bool,
}

impl Request {
    /// Bytes of memory that a boxed request holds.
    pub fn held_bytes(&self) -> usize {
        let ranges = self.ranges.as_ref().map_or(0, Ranges::held_bytes);
        let cross_origin = self.cross_origin.as_ref().map_or(0, |it| it.held_bytes());
        let forwarded = self.forwarded.as_ref().map_or(0, |it| it.held_bytes());
        size_of::<Request>()
            + self.path.capacity()
            + self.query.capacity()
            + self.id.as_ref().map_or(0, |id| id.len())
            + self.conditions.held_bytes()
            + ranges
            + cross_origin
            + forwarded
            + self.signed.as_ref().map_or(0, |head| head.len())
    }
}

/// A head that is refused. The connection closes after the response, since what follows may not be a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with.
    pub status: Status,
    /// What was wrong and what to do, in one line for the body of the response.
    pub reason: &'static str,
    /// Whether the method is HEAD, so that the response has no body.
    pub head_only: bool,
    /// The path, if it can be told.
    pub path: Option<String>,
    /// Whether it claims to be signed as S3 clients sign.
    pub signed: bool,
}
