//! The state machine, with bytes and numbers.

use std::rc::Rc;
use std::time::SystemTime;

use super::*;

#[derive(Debug)]
struct Object(u64);
impl Representation for Object {
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

fn context() -> Context {
    Context {
        now: SystemTime::UNIX_EPOCH,
        draining: false,
        site: Rc::default(),
        request_id: None,
    }
}
const GET: &[u8] = b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n";

fn received(bytes: &[u8]) -> Protocol<Object> {
    let mut protocol = Protocol::default();
    protocol.received(bytes, &context());
    protocol
}

/// Takes the whole response `step` bytes at a time; returns its length.
fn take_all(protocol: &mut Protocol<Object>, step: u64) -> u64 {
    let mut total = 0;
    while let Some(out) = protocol.outgoing() {
        let bytes = out.unsent_bytes().min(step);
        total += bytes;
        if protocol.sent(bytes, false, context).is_some() {
            break;
        }
    }
    total
}

#[test]
fn a_request_byte_by_byte_then_keep_alive() {
    for step in [1, 7, 1000] {
        let mut protocol = Protocol::default();
        for byte in GET {
            assert_eq!(protocol.next(), Action::Receive);
            protocol.received(&[*byte], &context());
        }
        assert_eq!(protocol.next(), Action::Open);
        assert_eq!(protocol.request().unwrap().path, "k");
        protocol.opened(&Object(100), Object(100), &context());
        let head = protocol.outgoing().unwrap().head().len() as u64;
        assert_eq!(take_all(&mut protocol, step), head + 100);
        assert_eq!(
            (protocol.next(), protocol.phase()),
            (Action::Receive, Phase::Idle)
        );
        assert_eq!(protocol.held_bytes(), 0, "an idle connection holds nothing");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let two = [GET, GET, b"GET /x"].concat();
    let mut protocol = received(&two);
    for _ in 0..2 {
        assert_eq!(protocol.next(), Action::Open);
        protocol.opened(&Object(1), Object(1), &context());
        take_all(&mut protocol, u64::MAX);
    }
    assert_eq!(
        (protocol.next(), protocol.phase()),
        (Action::Receive, Phase::Head)
    );
}

#[test]
fn a_refused_head_is_answered_then_lingers() {
    let mut protocol = received(b"nonsense\r\n\r\n");
    assert_eq!(protocol.next(), Action::Send);
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Linger);
}

#[test]
fn draining_ends_the_connection_after_the_response_under_way() {
    let mut protocol = received(GET);
    protocol.opened(&Object(10), Object(10), &context());
    let left = protocol.outgoing().unwrap().remaining();
    protocol.sent(left - 1, false, context);
    protocol.sent(1, true, context);
    assert_eq!(protocol.next(), Action::Linger);
}

#[test]
fn failing_before_the_first_byte_is_a_500_and_after_it_a_reset() {
    let mut protocol = received(GET);
    protocol.opened(&Object(10), Object(10), &context());
    assert!(!protocol.body_failed(Status::InternalError, "lost", &context()));
    assert!(
        protocol
            .outgoing()
            .unwrap()
            .head()
            .starts_with(b"HTTP/1.1 500 ")
    );
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Receive, "the connection lives on");

    let mut protocol = received(GET);
    protocol.opened(&Object(10), Object(10), &context());
    protocol.sent(1, false, context);
    assert!(protocol.body_failed(Status::InternalError, "lost", &context()));
    assert_eq!(protocol.next(), Action::Close);
}

#[test]
fn without_memory_a_request_is_refused_and_a_response_ends_the_connection() {
    for bytes in [&GET[..20], GET] {
        let mut protocol = received(bytes);
        protocol.memory_refused(&context());
        assert!(
            protocol
                .outgoing()
                .unwrap()
                .head()
                .starts_with(b"HTTP/1.1 503 ")
        );
    }
    // With another request behind it, that one is what goes.
    for opened_before in [true, false] {
        let mut protocol = received(&[GET, GET].concat());
        if opened_before {
            protocol.opened(&Object(10), Object(10), &context());
            protocol.memory_refused(&context());
        } else {
            protocol.memory_refused(&context());
            protocol.opened(&Object(10), Object(10), &context());
        }
        assert_eq!(protocol.pending_bytes(), 0);
        let head = protocol.outgoing().unwrap().head();
        assert!(head.starts_with(b"HTTP/1.1 200 "));
        take_all(&mut protocol, u64::MAX);
        assert_eq!(protocol.next(), Action::Linger);
    }
}

/// An object with so many fields that its head is more than a connection's state pays for.
struct ManyFields(String);
impl Representation for ManyFields {
    fn size(&self) -> u64 {
        10
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
    fn content_fields(&self) -> &str {
        &self.0
    }
}

#[test]
fn without_memory_a_long_response_head_becomes_an_error() {
    let long = ManyFields(format!("X-A: {}\r\n", "v".repeat(2500)));
    let mut protocol = received(GET);
    protocol.opened(&long, Object(10), &context());
    assert!(protocol.held_bytes() > 2500);
    protocol.memory_refused(&context());
    let head = protocol.outgoing().unwrap().head().to_vec();
    assert!(head.starts_with(b"HTTP/1.1 503 "));
    assert!(protocol.held_bytes() <= PENDING_BYTES_FREE);
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Linger);
    // Once a byte was sent it is too late for another answer.
    let mut protocol = received(GET);
    protocol.opened(&long, Object(10), &context());
    protocol.sent(1, false, context);
    protocol.memory_refused(&context());
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Receive);
}

#[test]
fn an_empty_object_is_its_head_alone() {
    let mut protocol = received(GET);
    protocol.opened(&Object(0), Object(0), &context());
    assert!(protocol.outgoing().unwrap().object().is_none());
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Receive);
}

#[test]
fn a_late_head_is_a_408_only_if_it_began() {
    let mut protocol = received(b"GET /");
    protocol.head_timeout(&context());
    assert!(
        protocol
            .outgoing()
            .unwrap()
            .head()
            .starts_with(b"HTTP/1.1 408 ")
    );
    let mut protocol = Protocol::<Object>::default();
    protocol.head_timeout(&context());
    assert_eq!(protocol.next(), Action::Close);
}

#[test]
fn several_ranges_are_sent_one_after_the_other() {
    for step in [1, 7, 1000] {
        let mut protocol =
            received(b"GET /k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-2,50-59,-1\r\n\r\n");
        protocol.opened(&Object(100), Object(100), &context());
        let (mut text, mut bytes) = (String::new(), 0..0);
        let mut ranges = Vec::new();
        loop {
            let out = protocol.outgoing().unwrap();
            let head = out.head().to_vec();
            let left = out.remaining();
            if !out.body().is_empty() && out.body().end != bytes.end {
                ranges.push(out.body());
            }
            bytes = out.body();
            let sent = out.unsent_bytes().min(step);
            let of_head = sent.min(head.len() as u64) as usize;
            text.push_str(str::from_utf8(&head[..of_head]).unwrap());
            if protocol.sent(sent, false, context).is_some() {
                break;
            }
            assert_eq!(protocol.outgoing().unwrap().remaining(), left - sent);
        }
        assert_eq!(ranges, [0..3, 50..60, 99..100]);
        assert!(text.ends_with("--\r\n"), "{text}");
        assert_eq!(text.matches("Content-Range: bytes ").count(), 3);
        assert_eq!(protocol.next(), Action::Receive);
        assert_eq!(protocol.held_bytes(), 0);
    }
}

#[test]
fn options_is_answered_without_an_object() {
    let mut protocol = received(b"OPTIONS /k HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = protocol.outgoing().unwrap().head();
    assert!(head.starts_with(b"HTTP/1.1 204 "), "{head:?}");
    take_all(&mut protocol, u64::MAX);
    assert_eq!(protocol.next(), Action::Receive);
}
