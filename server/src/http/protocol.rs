//! One connection's state machine: events in, the next action out.
//!
//! It knows no descriptor, ring or clock: [`drive`](crate::connection::driver) performs the actions and reports
//! what happened, so faults, slow peers and tiny limits are tested here with bytes and numbers.
//!
//! ```text
//! Reading -> Opening -> Sending -> Reading | Lingering -> Closed
//! ```
//!
//! What each state holds while its peer does nothing: `Reading` the bytes of an incomplete head (none
//! between requests), `Opening` one request, `Sending` the unsent rest of a head and a handle on the
//! object, `Lingering` nothing. None holds a pool buffer.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

use crate::http::head::{self, Answer, Entity};
use crate::http::parse::{self, Parsed, Request};
use crate::http::status::Status;
use crate::stats::Phase;

/// What the driver must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait for bytes of a request, then call [`Conn::received`] or [`Conn::peer_closed`].
    Receive,
    /// Look an object up, then call [`Conn::opened`] or [`Conn::open_failed`].
    Open,
    /// Wait for credit, produce at most that much of the response, send it, then call
    /// [`Conn::sent`].
    Send,
    /// Tell the peer that no more will come, then throw away what it sends until it closes.
    Linger,
    /// Close the descriptor.
    Close,
}

/// The part of a response that is still to be sent.
#[derive(Debug)]
pub struct Outgoing<O> {
    status: Status,
    /// The unsent rest of the head (and of an error's text).
    head: Bytes,
    /// The unsent bytes of the object.
    body: Range<u64>,
    object: Option<O>,
    keep_alive: bool,
    /// Kept until the first byte is sent: until then the answer can still become an error.
    request: Option<Box<Request>>,
}

impl<O> Outgoing<O> {
    /// The unsent rest of the head.
    pub fn head(&self) -> &Bytes {
        &self.head
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
    pub fn is_untouched(&self) -> bool {
        self.request.is_some()
    }
    /// Bytes left, head included.
    pub fn remaining(&self) -> u64 {
        self.head.len() as u64 + (self.body.end - self.body.start)
    }
}

#[derive(Debug)]
enum State<O> {
    Reading,
    Opening(Box<Request>),
    Sending(Outgoing<O>),
    Lingering,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Conn<O> {
    state: State<O>,
    /// Received bytes that are not yet a whole head. Empty, and without an allocation, between requests.
    pending: Vec<u8>,
    draining: bool,
}

impl<O> Default for Conn<O> {
    fn default() -> Self {
        Conn {
            state: State::Reading,
            pending: Vec::new(),
            draining: false,
        }
    }
}

impl<O> Conn<O> {
    /// A connection that is refused: it gets this answer and ends.
    pub fn refusing(answer: Answer) -> Conn<O> {
        let mut conn = Conn::default();
        conn.send(answer, None, None);
        conn
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
            State::Sending(out) => {
                out.head.len()
                    + out
                        .request
                        .as_ref()
                        .map_or(0, |request| request.held_bytes())
            }
            _ => 0,
        };
        self.pending.capacity() + state
    }

    /// From now on every response ends its connection.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Bytes arrived. `bytes` is never longer than a head may be.
    pub fn received(&mut self, bytes: &[u8], now: SystemTime) {
        if !matches!(self.state, State::Reading) {
            return;
        }
        if self.pending.is_empty() {
            // The usual case: a whole head at once, parsed where it lies.
            match parse::parse(bytes) {
                Parsed::NeedMore => self.pending = bytes.to_vec(),
                parsed => self.begin(parsed, bytes, now),
            }
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(bytes);
            self.parse_pending(pending, now);
        }
    }

    fn parse_pending(&mut self, pending: Vec<u8>, now: SystemTime) {
        match parse::parse(&pending) {
            Parsed::NeedMore => self.pending = pending,
            parsed => self.begin(parsed, &pending, now),
        }
    }

    fn begin(&mut self, parsed: Parsed, bytes: &[u8], now: SystemTime) {
        match parsed {
            Parsed::NeedMore => {}
            Parsed::Request(request, length) => {
                // What follows is the next request of a pipeline, or a body that is never read.
                self.pending = if request.keep_alive {
                    bytes[length..].to_vec()
                } else {
                    Vec::new()
                };
                self.state = State::Opening(request);
            }
            Parsed::Refused(refusal) => {
                self.send(
                    head::error(refusal.status, refusal.reason, None, now, true),
                    None,
                    None,
                );
            }
        }
    }

    /// The peer will send no more. Between requests that is the usual end.
    pub fn peer_closed(&mut self) {
        self.state = State::Closed;
    }

    /// The peer will send no more, and has not taken all of the last response yet.
    pub fn see_out(&mut self) {
        self.pending = Vec::new();
        self.state = State::Lingering;
    }

    /// The head did not arrive in time: 408 if it had begun, else just close (RFC 9110 section 15.5.9).
    pub fn head_timeout(&mut self, now: SystemTime) {
        if self.phase() == Phase::Head {
            let reason = "the request head did not arrive in time";
            self.pending = Vec::new();
            self.send(
                head::error(Status::RequestTimeout, reason, None, now, true),
                None,
                None,
            );
        } else {
            self.state = State::Closed;
        }
    }

    /// There is no memory for what this connection holds beyond its part. What is pipelined goes first: then
    /// the response under way is the connection's last. A request that is too much by itself gets 503.
    pub fn overloaded(&mut self, now: SystemTime) {
        let pipelined = !std::mem::take(&mut self.pending).is_empty();
        match &mut self.state {
            State::Opening(request) if pipelined => request.keep_alive = false,
            State::Reading | State::Opening(_) => {
                let reason = "this server is short of memory for long requests";
                let answer = head::error(Status::Unavailable, reason, None, now, true);
                self.send(answer, None, None);
            }
            State::Sending(out) => out.keep_alive &= !pipelined,
            State::Lingering | State::Closed => {}
        }
    }

    /// The request whose object is being looked up.
    pub fn opening(&self) -> Option<&Request> {
        match &self.state {
            State::Opening(request) => Some(request),
            _ => None,
        }
    }

    /// The object is open, and described by `entity`, of which only the response's head is kept.
    pub fn opened(&mut self, entity: &impl Entity, object: O, now: SystemTime) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            let answer = head::answer(&request, entity, now, self.draining);
            let object = (!answer.body.is_empty()).then_some(object);
            self.send(answer, object, Some(request));
        }
    }

    /// The object can't be served.
    pub fn open_failed(&mut self, status: Status, reason: &str, now: SystemTime) {
        if let State::Opening(request) = std::mem::replace(&mut self.state, State::Closed) {
            let answer = head::error(status, reason, Some(&request), now, self.draining);
            self.send(answer, None, None);
        }
    }

    fn send(&mut self, answer: Answer, object: Option<O>, request: Option<Box<Request>>) {
        let Answer {
            status,
            head,
            body,
            keep_alive,
        } = answer;
        let head = Bytes::from(head);
        self.state = State::Sending(Outgoing {
            status,
            head,
            body,
            object,
            keep_alive,
            request,
        });
    }

    /// The response under way.
    pub fn outgoing(&self) -> Option<&Outgoing<O>> {
        match &self.state {
            State::Sending(out) => Some(out),
            _ => None,
        }
    }

    /// The kernel took `bytes` of the response: of its head first, then of its body. Returns the
    /// status when this finished the response.
    pub fn sent(&mut self, bytes: u64, now: SystemTime) -> Option<Status> {
        let State::Sending(out) = &mut self.state else {
            return None;
        };
        debug_assert!(bytes <= out.remaining(), "more was sent than there was");
        if bytes > 0 {
            out.request = None;
        }
        let of_head = bytes.min(out.head.len() as u64);
        let _ = out.head.split_to(of_head as usize);
        if out.head.is_empty() {
            out.head = Bytes::new();
        }
        out.body.start = (out.body.start + (bytes - of_head)).min(out.body.end);
        if out.remaining() > 0 {
            return None;
        }
        let status = out.status;
        if out.keep_alive && !self.draining {
            self.state = State::Reading;
            if !self.pending.is_empty() {
                let pending = std::mem::take(&mut self.pending);
                self.parse_pending(pending, now);
            }
        } else {
            self.pending = Vec::new();
            self.state = State::Lingering;
        }
        Some(status)
    }

    /// The body can't be produced: fewer than k good shares are left for some range. Before the
    /// first byte that is an error; later only a reset tells the client that the body is not whole.
    /// Returns whether the driver must reset the connection.
    #[must_use]
    pub fn produce_failed(&mut self, status: Status, reason: &str, now: SystemTime) -> bool {
        let State::Sending(out) = &mut self.state else {
            return true;
        };
        let Some(request) = out.request.take() else {
            self.state = State::Closed;
            return true;
        };
        let answer = head::error(status, reason, Some(&request), now, self.draining);
        self.send(answer, None, None);
        false
    }

    /// The connection is over: the peer is gone, a deadline passed, or lingering is done.
    pub fn closed(&mut self) {
        self.pending = Vec::new();
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Object(u64);
    impl Entity for Object {
        fn size(&self) -> u64 {
            self.0
        }
        fn etag(&self) -> &str {
            "\"e\""
        }
        fn content_type(&self) -> &str {
            "a/b"
        }
        fn modified(&self) -> Option<u64> {
            None
        }
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const GET: &[u8] = b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n";

    fn conn_with(bytes: &[u8]) -> Conn<Object> {
        let mut conn = Conn::default();
        conn.received(bytes, NOW);
        conn
    }

    /// Takes the whole response `step` bytes at a time; returns its length.
    fn take_all(conn: &mut Conn<Object>, step: u64) -> u64 {
        let mut total = 0;
        while let Some(out) = conn.outgoing() {
            let bytes = out.remaining().min(step);
            total += bytes;
            if conn.sent(bytes, NOW).is_some() {
                break;
            }
        }
        total
    }

    #[test]
    fn a_request_byte_by_byte_then_keep_alive() {
        for step in [1, 7, 1000] {
            let mut conn = Conn::default();
            for byte in GET {
                assert_eq!(conn.next(), Action::Receive);
                conn.received(&[*byte], NOW);
            }
            assert_eq!(conn.next(), Action::Open);
            assert_eq!(conn.opening().unwrap().path, "k");
            conn.opened(&Object(100), Object(100), NOW);
            let head = conn.outgoing().unwrap().head().len() as u64;
            assert_eq!(take_all(&mut conn, step), head + 100);
            assert_eq!((conn.next(), conn.phase()), (Action::Receive, Phase::Idle));
            assert_eq!(conn.held_bytes(), 0, "an idle connection holds nothing");
        }
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let two = [GET, GET, b"GET /x"].concat();
        let mut conn = conn_with(&two);
        for _ in 0..2 {
            assert_eq!(conn.next(), Action::Open);
            conn.opened(&Object(1), Object(1), NOW);
            take_all(&mut conn, u64::MAX);
        }
        assert_eq!((conn.next(), conn.phase()), (Action::Receive, Phase::Head));
    }

    #[test]
    fn a_refused_head_is_answered_then_lingers() {
        let mut conn = conn_with(b"nonsense\r\n\r\n");
        assert_eq!(conn.next(), Action::Send);
        take_all(&mut conn, u64::MAX);
        assert_eq!(conn.next(), Action::Linger);
    }

    #[test]
    fn draining_ends_the_connection_after_the_response_under_way() {
        let mut conn = conn_with(GET);
        conn.opened(&Object(10), Object(10), NOW);
        conn.drain();
        take_all(&mut conn, 3);
        assert_eq!(conn.next(), Action::Linger);
    }

    #[test]
    fn failing_before_the_first_byte_is_a_500_and_after_it_a_reset() {
        let mut conn = conn_with(GET);
        conn.opened(&Object(10), Object(10), NOW);
        assert!(!conn.produce_failed(Status::InternalError, "lost", NOW));
        assert!(
            conn.outgoing()
                .unwrap()
                .head()
                .starts_with(b"HTTP/1.1 500 ")
        );
        take_all(&mut conn, u64::MAX);
        assert_eq!(conn.next(), Action::Receive, "the connection lives on");

        let mut conn = conn_with(GET);
        conn.opened(&Object(10), Object(10), NOW);
        conn.sent(1, NOW);
        assert!(conn.produce_failed(Status::InternalError, "lost", NOW));
        assert_eq!(conn.next(), Action::Close);
    }

    #[test]
    fn without_memory_a_request_is_refused_and_a_response_ends_the_connection() {
        for bytes in [&GET[..20], GET] {
            let mut conn = conn_with(bytes);
            conn.overloaded(NOW);
            assert!(
                conn.outgoing()
                    .unwrap()
                    .head()
                    .starts_with(b"HTTP/1.1 503 ")
            );
        }
        // With another request behind it, that one is what goes.
        for opened_before in [true, false] {
            let mut conn = conn_with(&[GET, GET].concat());
            if opened_before {
                conn.opened(&Object(10), Object(10), NOW);
                conn.overloaded(NOW);
            } else {
                conn.overloaded(NOW);
                conn.opened(&Object(10), Object(10), NOW);
            }
            assert_eq!(conn.pending_bytes(), 0);
            let head = conn.outgoing().unwrap().head();
            assert!(head.starts_with(b"HTTP/1.1 200 "));
            take_all(&mut conn, u64::MAX);
            assert_eq!(conn.next(), Action::Linger);
        }
    }

    #[test]
    fn an_empty_object_is_its_head_alone() {
        let mut conn = conn_with(GET);
        conn.opened(&Object(0), Object(0), NOW);
        assert!(conn.outgoing().unwrap().object().is_none());
        take_all(&mut conn, u64::MAX);
        assert_eq!(conn.next(), Action::Receive);
    }

    #[test]
    fn a_late_head_is_a_408_only_if_it_began() {
        let mut conn = conn_with(b"GET /");
        conn.head_timeout(NOW);
        assert!(
            conn.outgoing()
                .unwrap()
                .head()
                .starts_with(b"HTTP/1.1 408 ")
        );
        let mut conn = Conn::<Object>::default();
        conn.head_timeout(NOW);
        assert_eq!(conn.next(), Action::Close);
    }
}
