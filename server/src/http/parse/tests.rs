//! Heads of all kinds, right and wrong.

use super::*;

fn request(text: &str) -> Request {
    match parse(text.as_bytes()) {
        Parsed::Request(request, length) => {
            assert_eq!(length, text.len());
            *request
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refused(text: &str) -> Status {
    match parse(text.as_bytes()) {
        Parsed::Refused(refusal) => refusal.status,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn a_plain_get() {
    let r = request("GET /a%20b/c%C3%A9?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((r.path.as_str(), r.query.as_str()), ("a b/cé", "x=1"));
    assert_eq!(r.method, Method::Get);
    assert!(r.keep_alive && !r.http10);
}

#[test]
fn absolute_form_and_http10() {
    let r = request("HEAD http://h:80/x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    assert_eq!((r.path.as_str(), r.method), ("x", Method::Head));
    assert!(r.keep_alive && r.http10);
}

#[test]
fn every_prefix_of_a_good_head_needs_more() {
    let text = "GET /k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..end]), Parsed::NeedMore, "{end}");
    }
}

#[test]
fn refusals_have_the_right_status() {
    assert_eq!(
        refused("POST / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Status::MethodNotAllowed
    );
    assert_eq!(
        refused("BREW / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Status::NotImplemented
    );
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        Status::BadRequest
    );
    assert_eq!(
        refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
        Status::VersionNotSupported
    );
    assert_eq!(
        refused("GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n"),
        Status::BadRequest
    );
    assert_eq!(
        refused("GET x HTTP/1.1\r\nHost: h\r\n\r\n"),
        Status::BadRequest
    );
    assert_eq!(refused("\x16\x03\x01\x02\x00\x01\x00"), Status::BadRequest);
    assert_eq!(
        refused("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Status::BadRequest
    );
    let fields = "a: b\r\n".repeat(65);
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")),
        Status::HeadersTooLarge
    );
    let long = "a".repeat(TARGET_BYTES_MAX + 100);
    assert_eq!(refused(&format!("GET /{long}")), Status::TargetTooLong);
    assert_eq!(
        refused(&format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n")),
        Status::TargetTooLong
    );
    let field = "a".repeat(REQUEST_HEAD_BYTES_MAX);
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\nx: {field}")),
        Status::HeadersTooLarge
    );
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nx: {field}\r\n\r\n")),
        Status::HeadersTooLarge
    );
}

/// A head of these lines, after a request line of `version`.
fn head(version: &str, lines: &[&str]) -> String {
    format!("GET /k {version}\r\n{}\r\n\r\n", lines.join("\r\n"))
}

#[test]
fn of_two_fields_that_may_come_once_none_counts() {
    let with = |lines: &[&str]| request(&head("HTTP/1.1", &[&["Host: h"], lines].concat()));
    let twice = with(&["Range: bytes=0-1", "Range: bytes=2-3"]);
    assert_eq!(twice.ranges, None);
    let twice = with(&["Range: bytes=0-1", "If-Range: \"a\"", "If-Range: \"b\""]);
    assert_eq!(twice.ranges, None);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let twice = with(&["Origin: https://a", "Origin: https://b"]);
    assert_eq!(twice.cross_origin, None);
    for name in ["If-Modified-Since", "If-Unmodified-Since"] {
        let line = format!("{name}: {date}");
        let conditions = |lines: &[&str]| with(lines).conditions;
        assert_ne!(conditions(&[&line]), Conditions::default());
        assert_eq!(conditions(&[&line, &line]), Conditions::default());
    }
}

/// A body that was not read was taken for the next request: behind HTTP/1.0 `Connection: keep-alive` that came after
/// `Content-Length`, the connection stayed open.
#[test]
fn a_request_with_a_body_is_refused() {
    for (version, lines) in [
        ("HTTP/1.1", &["Content-Length: 3"][..]),
        (
            "HTTP/1.0",
            &["Content-Length: 34", "Connection: keep-alive"],
        ),
        (
            "HTTP/1.0",
            &["Connection: keep-alive", "Content-Length: 34"],
        ),
        ("HTTP/1.1", &["Content-Length: 0", "Content-Length: 3"]),
        ("HTTP/1.1", &["Content-Length: 3", "Content-Length: 0"]),
        ("HTTP/1.1", &["Content-Length: 0, 3"]),
        ("HTTP/1.1", &["Content-Length: +0"]),
        ("HTTP/1.1", &["Content-Length: -0"]),
        ("HTTP/1.1", &["Content-Length: 0x0"]),
        ("HTTP/1.1", &["Content-Length: "]),
        ("HTTP/1.1", &["Content-Length: 0,"]),
        ("HTTP/1.1", &["Content-Length: \u{a0}0"]),
        ("HTTP/1.1", &["Content-Length: \u{661}"]),
        ("HTTP/1.1", &["Content-Length: 99999999999999999999999"]),
        ("HTTP/1.1", &["Transfer-Encoding: chunked"]),
        (
            "HTTP/1.1",
            &["Content-Length: 0", "Transfer-Encoding: Chunked"],
        ),
    ] {
        let lines = [&["Host: h"], lines].concat();
        assert_eq!(
            refused(&head(version, &lines)),
            Status::BadRequest,
            "{lines:?}"
        );
    }
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "xchunked",
        "identity",
    ] {
        let line = format!("Transfer-Encoding: {coding}");
        let status = refused(&head("HTTP/1.1", &["Host: h", &line]));
        assert_eq!(status, Status::NotImplemented, "{coding}");
    }
    let none = ["Host: h", "Content-Length: 0", "Content-Length: 0, 00"];
    assert!(request(&head("HTTP/1.1", &none)).keep_alive);
}

/// A client behind a trusted proxy hid its address: what was no text anywhere in the field was as if it were empty.
#[test]
fn what_proxies_added_is_read_whatever_stands_in_front() {
    let mut head = b"GET /k HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: \xff, 192.0.2.1\r\n".to_vec();
    head.extend_from_slice(b"Forwarded: for=\xff, for=192.0.2.2\r\n\r\n");
    let Parsed::Request(request, _) = parse(&head) else {
        panic!("refused");
    };
    let forwarded = request.forwarded.unwrap();
    let list = forwarded.x_forwarded_for.unwrap();
    assert!(list.ends_with(", 192.0.2.1"), "{list}");
    let list = forwarded.forwarded.unwrap();
    assert!(list.ends_with(", for=192.0.2.2"), "{list}");
}

#[test]
fn which_connections_stay() {
    let stays = |version: &str, lines: &[&str]| {
        request(&head(version, &[&["Host: h"], lines].concat())).keep_alive
    };
    assert!(stays("HTTP/1.1", &[]) && !stays("HTTP/1.0", &[]));
    assert!(stays("HTTP/1.0", &["Connection: x, Keep-Alive"]));
    // Whatever else is said, and in any order.
    for lines in [
        &["Connection: close"][..],
        &["Connection: close, keep-alive"],
        &["Connection: keep-alive", "Connection: ,CLOSE"],
        &["Connection: close", "Connection: keep-alive"],
    ] {
        assert!(
            !stays("HTTP/1.1", lines) && !stays("HTTP/1.0", lines),
            "{lines:?}"
        );
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for host in ["a/b@c", "[::1", "x:y", "a b", "\u{e9}", "a\tb"] {
        let line = format!("Host: {host}");
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            assert_eq!(
                refused(&head(version, &[&line])),
                Status::BadRequest,
                "{host}"
            );
        }
    }
    assert!(matches!(
        parse(b"GET /k HTTP/1.1\r\nHost: \xff\r\n\r\n"),
        Parsed::Refused(_)
    ));
}

#[test]
fn a_line_feed_alone_ends_no_line() {
    for text in [
        "GET /k HTTP/1.1\nHost: h\r\n\r\n",
        "GET /k HTTP/1.1\r\nHost: h\n\r\n",
        "GET /k HTTP/1.1\r\nHost: h\r\n\n",
        "GET /k HTTP/1.1\r\nHost: h\n",
        "\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        assert_eq!(refused(text), Status::BadRequest, "{text:?}");
    }
    let text = "\r\n\r\nGET /k HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(request(text).path, "k");
}

#[test]
fn a_later_minor_version_is_served_as_1_1() {
    let lines = ["Host: h", "Connection: keep-alive"];
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        let later = request(&head(version, &lines));
        assert_eq!(later, request(&head("HTTP/1.1", &lines)), "{version}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/9.9"] {
        let status = refused(&head(version, &lines));
        assert_eq!(status, Status::VersionNotSupported, "{version}");
    }
    // The rest of it may still come.
    assert_eq!(refused("GET /k HTTP/2"), Status::VersionNotSupported);
    for version in [
        "HTTP/1.",
        "HTTP/1.a",
        "HTTP/2",
        "HTTP/11",
        "HTTP/01.1",
        "HTTP/-1.1",
        "HTTP/2.00",
        "HTTP/2.0x",
        "http/2.0",
    ] {
        let status = refused(&head(version, &lines));
        assert_eq!(status, Status::BadRequest, "{version}");
    }
}

#[test]
fn options_and_pages_of_other_origins() {
    let text = "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(request(text).method, Method::Options);
    assert_eq!(request(text).cross_origin, None);
    let lines = "Host: h\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\
                     Access-Control-Request-Headers: range\r\nAccess-Control-Request-Headers: x-a";
    for (method, preflight) in [("OPTIONS", true), ("GET", false)] {
        let asked = request(&format!("{method} /k HTTP/1.1\r\n{lines}\r\n\r\n"));
        let expected = CrossOrigin {
            origin: "https://a".into(),
            preflight,
            names: "range, x-a".into(),
        };
        assert_eq!(asked.cross_origin.as_deref(), Some(&expected));
    }
    assert_eq!(
        refused("GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
        Status::BadRequest
    );
}

/// The answers to refused HEAD requests had bodies, which a client took for the next response.
#[test]
fn a_refusal_knows_whether_it_may_have_a_body() {
    let long = "a".repeat(TARGET_BYTES_MAX + 100);
    for (rest, status) in [
        ("/ HTTP/1.1\r\n\r\n", Status::BadRequest),
        (&format!("/{long}"), Status::TargetTooLong),
        ("/ HTTP/3.0\r\n\r\n", Status::VersionNotSupported),
    ] {
        for (method, expected) in [("HEAD", true), ("GET", false), ("HEADER", false)] {
            let Parsed::Refused(refusal) = parse(format!("{method} {rest}").as_bytes()) else {
                panic!("{method} {rest}");
            };
            assert_eq!(refusal.head_only, expected, "{method} {rest}");
            if method != "HEADER" {
                assert_eq!(refusal.status, status);
            }
        }
    }
}
