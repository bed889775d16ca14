//! One connection's state machine: events in, the next action out.
//!
//! It knows no socket and no clock. The connection's driver performs the actions and reports what happened, so
//! faults, slow peers and tiny limits are tested here with bytes and numbers.
//!
//! ```text
//! Reading -> Opening -> Sending -> Reading | Lingering -> Closed
//! ```
//!
//! While the peer does nothing, each state holds little, and none holds a pool buffer:
//!
//! - `Reading`: the bytes of an incomplete head; none between requests.
//! - `Opening`: one request.
//! - `Sending`: the unsent rest of a head, and a handle on the object.
//! - `Lingering`: nothing.

#[cfg(test)]
mod tests;

use super::glimpse;
use super::method::Method;
use super::outgoing::{Current, Finished, Outgoing};
use super::parse::{self, Parsed};
use super::record::{self, Noted, Record};
use super::redirect;
use super::request::{Refusal, Request};
use super::respond;
use super::response::{Context, Representation, Response};
use super::status::Status;
use crate::memory::limits::{PENDING_BYTES_FREE, REQUEST_HEAD_BYTES_MAX};
use crate::s3::error::Error;
use crate::stats::Phase;

/// What the driver must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait for bytes of a request, then call [`Protocol::received`] or [`Protocol::peer_closed`].
    Receive,
    /// Look an object up, then call [`Protocol::opened`] or [`Protocol::open_failed`].
    Open,
    /// Wait for send credit, produce at most that much of the response, send it, then call [`Protocol::sent`].
    Send,
    /// Tell the peer that no more will come, then discard what it sends until it closes.
    Linger,
    /// Close the descriptor.
    Close,
}

#[derive(Debug)]
enum State<O> {
    Reading,
    Opening(Box<Request>),
    Sending(Outgoing<O>),
    Lingering,
    Closed,
}

/// The HTTP/1.1 state of one connection, whose bodies come from objects `O`.
#[derive(Debug)]
pub struct Protocol<O> {
    state: State<O>,
    /// Received bytes that are not yet a whole head. Empty, and without an allocation, between requests.
    pending: Vec<u8>,
    /// The request that is being looked up.
    current: Current,
    /// A request began.
    begun: bool,
    /// A response was cut off.
    cut: Option<Finished>,
    /// Whether requests come without TLS, and are redirected where the site has it so.
    is_plain: bool,
}

impl<O> Default for Protocol<O> {
    fn default() -> Self {
        Protocol {
            state: State::Reading,
            pending: Vec::new(),
            current: Current::default(),
            begun: false,
            cut: None,
            is_plain: true,
        }
    }
}

impl<O> Protocol<O> {
    /// A connection with TLS.
    pub fn secured() -> Protocol<O> {
        Protocol {
            is_plain: false,
            ..Protocol::default()
        }
    }

    /// A connection that is refused: it gets this response and ends.
    pub fn refusing(response: Response) -> Protocol<O> {
        let mut protocol = Protocol {
            begun: true,
            ..Protocol::default()
        };
        protocol.send(response, None, None);
        protocol
    }

    /// Bytes of an incomplete head held so far.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// What to do next.
    pub fn next(&self) -> Action {
        match &self.state {
            State::Reading => Action::Receive,
            State::Opening(_) => Action::Open,
            State::Sending(_) => Action::Send,
            State::Lingering => Action::Linger,
            State::Closed => Action::Close,
        }
    }

    /// The state, for deadlines and metrics.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Reading if self.pending.is_empty() => Phase::Idle,
            State::Reading => Phase::Head,
            State::Opening(_) => Phase::Opening,
            State::Sending(_) => Phase::Sending,
            State::Lingering | State::Closed => Phase::Lingering,
        }
    }

    /// Bytes of user memory that this connection holds beyond its own size.
    pub fn held_bytes(&self) -> usize {
        let state = match &self.state {
            State::Opening(request) => request.held_bytes(),
            State::Sending(out) => out.held_bytes(),
            _ => 0,
        };
        self.pending.capacity() + state
    }

    /// Bytes arrived. `bytes` is never longer than a head may be.
    pub fn received(&mut self, bytes: &[u8], context: &Context) {
        if !matches!(self.state, State::Reading) {
            return;
        }
        if self.pending.is_empty() {
            // The usual case: a whole head at once, parsed where it lies.
            match parse::parse(bytes) {
                Parsed::NeedMore => keep(&mut self.pending, bytes),
                parsed => self.begin(parsed, bytes, context),
            }
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            keep(&mut pending, bytes);
            self.parse_pending(pending, context);
        }
    }

    fn parse_pending(&mut self, pending: Vec<u8>, context: &Context) {
        match parse::parse(&pending) {
            Parsed::NeedMore => self.pending = pending,
            parsed => self.begin(parsed, &pending, context),
        }
    }

    fn begin(&mut self, parsed: Parsed, bytes: &[u8], context: &Context) {
        match parsed {
            Parsed::NeedMore => {}
            Parsed::Request(mut request, length) => {
                self.note(Some(&mut request), bytes, context);
                // What follows is the next request of a pipeline, or a body that is never read.
                self.pending = if request.keep_alive {
                    bytes[length..].to_vec()
                } else {
                    Vec::new()
                };
                if self.is_plain
                    && request.method != Method::Options
                    && let Some(port) = context.site.redirect
                {
                    let response = match redirect::location(&bytes[..length], port) {
                        Some(location) => respond::redirect(&location, &request, context),
                        None => {
                            let reason =
                                "only https is served, and without Host nobody knows where";
                            respond::error(Status::BadRequest, reason, &request, context)
                        }
                    };
                    return self.send(response, None, None);
                }
                match request.method {
                    Method::Get | Method::Head => self.state = State::Opening(request),
                    Method::Options => self.send(respond::options(&request, context), None, None),
                }
            }
            Parsed::Refused(refusal) => {
                self.note(None, bytes, context);
                self.refuse(&refusal, context);
            }
        }
    }

    /// Notes a request that begins, or a head in `bytes` that is none.
    fn note(&mut self, request: Option<&mut Request>, bytes: &[u8], context: &Context) {
        self.begun = true;
        self.current = Current::default();
        let noted = request.as_ref().map_or(Noted::default(), |it| it.noted);
        let given = noted.id(bytes).map(Box::from);
        let id = given.or_else(|| context.request_id.map(record::made_id));
        let method = request.as_ref().map(|it| (it.method, it.http10));
        self.current.method = method.map(|(method, _)| method);
        if let (Some(_), Some(id)) = (context.request_id, &id) {
            let record = Record::new(bytes, &noted, method, id, context.now);
            self.current.record = Some(Box::new(record));
        }
        if let Some(request) = request {
            request.id = id;
        }
    }

    /// Whether a request began since this was asked last.
    pub fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// The response that was cut off since this was asked last.
    pub fn take_cut(&mut self) -> Option<Finished> {
        self.cut.take()
    }

    /// Notes that the response under way, if there is one, won't be finished.
    fn cut(&mut self) {
        if let State::Sending(out) = &mut self.state {
            self.cut = Some(out.end());
        }
    }

    /// Answers a head that is refused. The connection ends with it.
    fn refuse(&mut self, refusal: &Refusal, context: &Context) {
        self.pending = Vec::new();
        self.send(respond::refuse(refusal, context), None, None);
    }

    /// The peer will send no more. Between requests that is the usual end.
    pub fn peer_closed(&mut self) {
        self.state = State::Closed;
    }

    /// The peer will send no more, but has not acknowledged all of the last response yet.
    pub fn linger(&mut self) {
        self.pending = Vec::new();
        self.state = State::Lingering;
    }

    /// The head did not arrive in time: 408 if it had begun, else just close (RFC 9110 section 15.5.9).
    pub fn head_timeout(&mut self, context: &Context) {
        if self.phase() == Phase::Head {
            let pending = std::mem::take(&mut self.pending);
            self.note(None, &pending, context);
            let refusal = Refusal {
                status: Status::RequestTimeout,
                reason: "the request head did not arrive in time",
                head_only: glimpse::is_head(&pending),
                path: glimpse::path(&pending),
                signed: glimpse::is_signed(&pending),
            };
            self.refuse(&refusal, context);
        } else {
            self.state = State::Closed;
        }
    }

    /// There is no memory for what this connection holds beyond its share. It lets go of something: of pipelined requests
    /// first, and the response under way becomes the connection's last; then of a request or a response that is
    /// too large by itself, for a short 503. Returns whether it holds less now.
    pub fn memory_refused(&mut self, context: &Context) -> bool {
        let pending = std::mem::take(&mut self.pending);
        let is_pipelined = !pending.is_empty();
        let head_only = match &mut self.state {
            State::Opening(request) if is_pipelined => {
                request.keep_alive = false;
                return true;
            }
            State::Sending(out) if is_pipelined => {
                out.keep_alive = false;
                return true;
            }
            State::Opening(request) => request.method == Method::Head,
            State::Reading => {
                self.note(None, &pending, context);
                glimpse::is_head(&pending)
            }
            State::Sending(out) if !out.begun => {
                self.current = std::mem::take(&mut out.current);
                out.head_only
            }
            State::Sending(_) | State::Lingering | State::Closed => return false,
        };
        let refusal = Refusal {
            status: Status::Unavailable,
            reason: "this server is short of memory for long heads",
            head_only,
            // As short as can be, whoever asked.
            path: None,
            signed: false,
        };
        self.refuse(&refusal, context);
        true
    }

    /// The request whose object is being looked up.
    pub fn request(&self) -> Option<&Request> {
        match &self.state {
            State::Opening(request) => Some(request),
            _ => None,
        }
    }

    /// The object is open. The response's head says what `described` says of it.
    pub fn opened(&mut self, described: &impl Representation, object: O, context: &Context) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            let response = respond::respond(&request, described, context);
            let object = (!response.body.is_empty()).then_some(object);
            self.send(response, object, Some(without_signature(request)));
        }
    }

    /// What was asked for is a document of `length` bytes, made for this request.
    pub fn opened_document(&mut self, length: u64, fields: &str, document: O, context: &Context) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            let response = respond::document(length, fields, &request, context);
            let document = (!response.body.is_empty()).then_some(document);
            self.send(response, document, Some(without_signature(request)));
        }
    }

    /// The request is refused for a reason of S3's.
    pub fn open_refused(&mut self, error: &Error, context: &Context) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            self.send(respond::s3_error(error, &request, context), None, None);
        }
    }

    /// The object can't be served.
    pub fn open_failed(&mut self, status: Status, reason: &'static str, context: &Context) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            let response = respond::error(status, reason, &request, context);
            self.send(response, None, None);
        }
    }

    fn send(&mut self, response: Response, object: Option<O>, request: Option<Box<Request>>) {
        let current = std::mem::take(&mut self.current);
        self.state = State::Sending(Outgoing::new(response, object, request, current));
    }

    /// The response under way.
    pub fn outgoing(&self) -> Option<&Outgoing<O>> {
        match &self.state {
            State::Sending(out) => Some(out),
            _ => None,
        }
    }

    /// The kernel took `bytes` of the response: of its head first, then of its body. Returns what
    /// is known of the response when this finished it.
    ///
    /// `ending` says whether every response is now its connection's last; the `context` is for the next request of a
    /// pipeline.
    pub fn sent(
        &mut self,
        bytes: u64,
        ending: bool,
        context: impl FnOnce() -> Context,
    ) -> Option<Finished> {
        let State::Sending(out) = &mut self.state else {
            return None;
        };
        out.took(bytes);
        if out.remaining() > 0 {
            return None;
        }
        let finished = out.end();
        if out.keep_alive && !ending {
            self.state = State::Reading;
            if !self.pending.is_empty() {
                let pending = std::mem::take(&mut self.pending);
                self.parse_pending(pending, &context());
            }
        } else {
            self.pending = Vec::new();
            self.state = State::Lingering;
        }
        Some(finished)
    }

    /// The body can't be produced. Before the first byte that is an error; later only a reset tells the client that
    /// the body is incomplete. Returns whether the driver must reset the connection.
    #[must_use]
    pub fn body_failed(&mut self, status: Status, reason: &'static str, context: &Context) -> bool {
        let State::Sending(out) = &mut self.state else {
            return true;
        };
        let Some(request) = out.request.take() else {
            self.cut();
            self.state = State::Closed;
            return true;
        };
        self.current = std::mem::take(&mut out.current);
        let response = respond::error(status, reason, &request, context);
        self.send(response, None, None);
        false
    }

    /// The connection is over: the peer is gone, a deadline passed, or lingering is done.
    pub fn closed(&mut self) {
        self.cut();
        self.pending = Vec::new();
        self.state = State::Closed;
    }
}

/// A request whose signature was judged: what it was made of is held no longer.
fn without_signature(mut request: Box<Request>) -> Box<Request> {
    request.signed = None;
    request
}

/// Keeps bytes of an incomplete head. There is room for what a connection's state pays for, and then for the longest head,
/// which is what is claimed: not whatever doubling comes to.
fn keep(pending: &mut Vec<u8>, bytes: &[u8]) {
    let length = pending.len() + bytes.len();
    if length > pending.capacity() {
        let room = match length {
            0..=PENDING_BYTES_FREE => PENDING_BYTES_FREE,
            _ => length.max(REQUEST_HEAD_BYTES_MAX),
        };
        pending.reserve_exact(room - pending.len());
    }
    pending.extend_from_slice(bytes);
}
