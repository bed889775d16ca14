//! What the RFCs say of a server that only reads, case by case with the section; and the same heads to hyper, as a second
//! opinion on which of them are requests at all.

mod common;

use std::net::{SocketAddr, TcpListener};

use common::{Backend, Client, PATH, SIZE, Server, Stores, assert_same, served};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

on_both_backends! {
    heads
    head_has_the_fields_of_get_and_no_body
    preconditions
    preconditions_of_ranges
    preconditions_of_what_is_not_there
    ranges
    several_ranges
    ranges_of_an_empty_object
    options_and_allow
    pages_of_other_origins
    dot_segments
    index_files
}

/// What hyper makes of a head, compared with what we must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hyper {
    /// Both take it, or neither does.
    Agrees,
    /// We refuse what it takes, for this reason.
    Stricter(&'static str),
    /// It refuses what we take, for this reason.
    Laxer(&'static str),
}
use Hyper::{Agrees, Laxer, Stricter};

/// A head to send, and the statuses of all responses until the connection is closed or idle.
struct Case {
    /// Where it is written.
    section: &'static str,
    head: Vec<u8>,
    statuses: &'static [u16],
    /// Whether the connection stays.
    stays: bool,
    hyper: Hyper,
}

const READS_ONLY: &str = "a server that only reads takes no bodies and no other methods";
const ONE_READING: &str = "what can be read in two ways is refused";

/// One case: section, status, whether the connection stays, opinion of hyper, request line and other lines.
fn case(
    section: &'static str,
    statuses: &'static [u16],
    stays: bool,
    hyper: Hyper,
    lines: &[&str],
) -> Case {
    let head = lines.join("\r\n") + "\r\n\r\n";
    Case {
        section,
        head: head.into_bytes(),
        statuses,
        stays,
        hyper,
    }
}

const GET: &str = "GET /dir/object.bin HTTP/1.1";
const GET10: &str = "GET /dir/object.bin HTTP/1.0";
/// A request behind a body that must not be answered.
const SMUGGLED: &str = "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n";

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let mut cases = vec![
        // Message format: lines.
        case("9112 2.2 empty lines before the request line", &[200], true, Agrees, &["", "", GET, "Host: h"]),
        case("9112 2.2 bare LF behind the request line", &[400], false, Stricter(ONE_READING), &["GET /dir/object.bin HTTP/1.1\nHost: h"]),
        case("9112 2.2 bare LF behind a field", &[400], false, Stricter(ONE_READING), &[GET, "Host: h\nX: y"]),
        case("9112 2.2 bare CR in a value", &[400], false, Agrees, &[GET, "Host: h", "X: a\rb"]),
        case("9112 2.2 white space before the first field", &[400], false, Agrees, &[GET, " Host: h"]),
        // Version.
        case("9110 2.5 a later minor version", &[200], true, Laxer("minor versions are compatible"), &["GET /dir/object.bin HTTP/1.2", "Host: h"]),
        case("9110 2.5 another major version", &[505], false, Agrees, &["GET /dir/object.bin HTTP/3.0", "Host: h"]),
        case("9112 2.3 lower case", &[400], false, Agrees, &["GET /dir/object.bin http/1.1", "Host: h"]),
        case("9112 2.3 no version", &[400], false, Agrees, &["GET /dir/object.bin"]),
        case("9112 2.3 a version that is none", &[400], false, Agrees, &["GET /dir/object.bin HTTP/01.1", "Host: h"]),
        // Request line.
        case("9112 3 two spaces", &[400], false, Agrees, &["GET  /dir/object.bin HTTP/1.1", "Host: h"]),
        case("9112 3 a tab", &[400], false, Agrees, &["GET\t/dir/object.bin HTTP/1.1", "Host: h"]),
        case("9112 3 a space in the target", &[400], false, Agrees, &["GET /dir/object .bin HTTP/1.1", "Host: h"]),
        case("9112 3.1 a method is case-sensitive", &[501], false, Stricter(READS_ONLY), &["get /dir/object.bin HTTP/1.1", "Host: h"]),
        case("9110 15.5.6 a method that changes things", &[405], false, Stricter(READS_ONLY), &["DELETE /dir/object.bin HTTP/1.1", "Host: h"]),
        case("9110 15.6.2 an unknown method", &[501], false, Stricter(READS_ONLY), &["BREW /dir/object.bin HTTP/1.1", "Host: h"]),
        // Target.
        case("9112 3.2.2 absolute form", &[200], true, Agrees, &["GET http://h:80/dir/object.bin HTTP/1.1", "Host: h"]),
        case("9112 3.2.2 absolute form, another scheme", &[400], false, Stricter("it is no proxy"), &["GET ftp://h/dir/object.bin HTTP/1.1", "Host: h"]),
        case("9110 4.2.4 user information", &[400], false, Stricter("deprecated, and used to deceive"), &["GET http://u@h/dir/object.bin HTTP/1.1", "Host: h"]),
        case("9112 3.2.3 authority form", &[405], false, Stricter(READS_ONLY), &["CONNECT h:80 HTTP/1.1", "Host: h"]),
        case("9112 3.2.4 asterisk form", &[204], true, Agrees, &["OPTIONS * HTTP/1.1", "Host: h"]),
        case("9112 3.2.4 asterisk form of GET", &[400], false, Stricter("OPTIONS only"), &["GET * HTTP/1.1", "Host: h"]),
        case("9112 3.2 a fragment", &[400], false, Stricter("what judges the path before us may read on"), &["GET /dir/object.bin#x HTTP/1.1", "Host: h"]),
        case("3986 2.2 a dot segment behind an escaped slash", &[400], false, Stricter("what judges the path before us sees no dots"), &["GET /x/..%2fdir/object.bin HTTP/1.1", "Host: h"]),
        case("3986 2.1 an escape that is no UTF-8", &[400], false, Stricter("keys are UTF-8"), &["GET /dir/%ff HTTP/1.1", "Host: h"]),
        case("3986 2.1 a broken escape", &[400], false, Stricter(ONE_READING), &["GET /dir/%zz HTTP/1.1", "Host: h"]),
        case("3986 2.1 an escape that ends early", &[400], false, Stricter(ONE_READING), &["GET /dir/object.bin%4 HTTP/1.1", "Host: h"]),
        // Host.
        case("9112 3.2 none", &[400], false, Stricter("hyper leaves it to the application"), &[GET]),
        case("9112 3.2 none in HTTP/1.0", &[200], false, Agrees, &[GET10]),
        case("9112 3.2 two", &[400], false, Stricter("hyper leaves it to the application"), &[GET, "Host: h", "Host: h"]),
        case("9112 3.2 a path", &[400], false, Stricter("hyper leaves it to the application"), &[GET, "Host: a/b@c"]),
        case("9112 3.2 an open bracket", &[400], false, Stricter("hyper leaves it to the application"), &[GET, "Host: [::1"]),
        case("9112 3.2 a port that is none", &[400], false, Stricter("hyper leaves it to the application"), &[GET, "Host: x:y"]),
        case("9112 3.2 IPv6 and port", &[200], true, Agrees, &[GET, "Host: [::1]:8080"]),
        case("9110 5.1 any case", &[200], true, Agrees, &[GET, "hOsT:h"]),
        // Fields.
        case("9112 5.1 white space before the colon", &[400], false, Agrees, &[GET, "Host : h"]),
        case("9112 5.1 no name", &[400], false, Agrees, &[GET, "Host: h", ": x"]),
        case("9112 5.1 no colon", &[400], false, Agrees, &[GET, "Host: h", "x"]),
        case("9112 5.2 a folded line", &[400], false, Agrees, &[GET, "Host: h", "X: a", " b"]),
        case("9110 5.5 NUL", &[400], false, Agrees, &[GET, "Host: h", "X: a\0b"]),
        case("9110 5.5 bytes beyond ASCII", &[200], true, Agrees, &[GET, "Host: h", "X: \u{e9}"]),
        case("9110 5.5 white space around a value", &[200], true, Agrees, &[GET, "Host: \t h \t"]),
        // Persistence.
        case("9112 9.3 close", &[200], false, Agrees, &[GET, "Host: h", "Connection: close"]),
        case("9112 9.3 close counts more than keep-alive", &[200], false, Agrees, &[GET, "Host: h", "Connection: close, keep-alive"]),
        case("9112 9.3 HTTP/1.0 closes", &[200], false, Agrees, &[GET10, "Host: h"]),
        case("9112 9.3 HTTP/1.0 that stays", &[200], true, Agrees, &[GET10, "Host: h", "Connection: keep-alive"]),
    ];
    // Bodies: whatever announces one is the last that is answered, and what follows is never a request.
    for (section, version, lines) in [
        ("9112 6.3 a length", GET, &["Content-Length: 34"][..]),
        ("9112 6.3 a length before keep-alive", GET10, &["Content-Length: 34", "Connection: keep-alive"]),
        ("9112 6.3 a length behind keep-alive", GET10, &["Connection: keep-alive", "Content-Length: 34"]),
        ("9112 6.3 two lengths", GET, &["Content-Length: 0", "Content-Length: 34"]),
        ("9112 6.3 two lengths in a list", GET, &["Content-Length: 34, 0"]),
        ("9110 8.6 a sign", GET, &["Content-Length: +0"]),
        ("9110 8.6 a blank beyond ASCII", GET, &["Content-Length: \u{a0}0"]),
        ("9110 8.6 hexadecimal", GET, &["Content-Length: 0x22"]),
        ("9110 8.6 nothing", GET, &["Content-Length:"]),
        ("9112 7.1 chunked", GET, &["Transfer-Encoding: chunked"]),
        ("9112 6.1 chunked and a length", GET, &["Transfer-Encoding: chunked", "Content-Length: 0"]),
        ("9112 6.1 a length and chunked", GET, &["Content-Length: 0", "Transfer-Encoding: chunked"]),
    ] {
        let lines = [&[version, "Host: h"], lines].concat();
        let mut case = case(section, &[400], false, Stricter(READS_ONLY), &lines);
        case.head.extend_from_slice(SMUGGLED.as_bytes());
        cases.push(case);
    }
    for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked\u{b}", "\"chunked\""] {
        let line = format!("Transfer-Encoding: {coding}");
        let status: &[u16] = if coding.ends_with('\u{b}') { &[400] } else { &[501] };
        let mut case = case("9112 6.1 a coding that is unknown", status, false, Stricter(READS_ONLY), &[GET, "Host: h", &line]);
        case.head.extend_from_slice(SMUGGLED.as_bytes());
        cases.push(case);
    }
    // No body at all: the next request is one.
    for lines in [&["Content-Length: 0"][..], &["Content-Length: 0", "Content-Length: 0"]] {
        let lines = [&[GET, "Host: h"], lines].concat();
        let mut case = case("9110 8.6 no bytes", &[200, 404], true, Agrees, &lines);
        case.head.extend_from_slice(SMUGGLED.as_bytes());
        cases.push(case);
    }
    cases
}

/// Sends the case and reads what comes: the statuses, and whether the connection stays.
fn answers(address: SocketAddr, head: &[u8], count: usize) -> (Vec<u16>, bool) {
    let mut client = Client::connect(address);
    client.send(head);
    let statuses: Vec<u16> = (0..count)
        .map(|_| client.response("GET").status())
        .collect();
    // What else it answers, and whether it waits for more, is seen by asking for the end.
    client.finish();
    let (rest, _) = client.until_end();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert_eq!(rest, "", "more was answered than {statuses:?}");
    // A connection that stays answers another request.
    let mut client = Client::connect(address);
    client.send(head);
    for _ in 0..count {
        client.response("GET");
    }
    let asked = client.try_send("HEAD /dir/object.bin HTTP/1.1\r\nHost: h\r\n\r\n");
    let (rest, _) = client.rest(9);
    (statuses, asked.is_ok() && rest == b"HTTP/1.1 ")
}

fn heads(io: Backend) {
    let (_stores, server, _) = served(io);
    let hyper = hyper_server();
    for case in cases() {
        let shown = format!(
            "{}: {:?}",
            case.section,
            String::from_utf8_lossy(&case.head)
        );
        let (statuses, stays) = answers(server.objects, &case.head, case.statuses.len());
        assert_eq!(statuses, case.statuses, "{shown}");
        assert_eq!(stays, case.stays, "{shown}");
        // A head that is a request, found or not.
        let ours = matches!(case.statuses[0], 200 | 204 | 404);
        let theirs = taken_by_hyper(hyper, &case.head);
        match case.hyper {
            Agrees => assert_eq!(theirs, ours, "hyper, of {shown}"),
            Stricter(why) => assert!(!ours, "{why}: {shown}"),
            Laxer(why) => assert!(ours && !theirs, "{why}: {shown}"),
        }
    }
}

/// A server of hyper's that answers every request with 200.
fn hyper_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = async |_: Request<Incoming>| {
                    Ok::<_, std::convert::Infallible>(Response::new(String::new()))
                };
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(connection);
            }
        });
    });
    address
}

/// Whether hyper takes the head for a request.
fn taken_by_hyper(address: SocketAddr, head: &[u8]) -> bool {
    let mut client = Client::connect(address);
    client.send(head);
    // Enough for the first status line; it may also close without one.
    let (bytes, _) = client.rest(12);
    bytes == b"HTTP/1.1 200" || bytes == b"HTTP/1.0 200"
}

/// RFC 9110 section 9.3.2, also for errors.
fn head_has_the_fields_of_get_and_no_body(io: Backend) {
    let (_stores, server, _) = served(io);
    let long = format!("/{}", "x".repeat(5000));
    for (path, fields, status) in [
        (PATH, &[][..], 200),
        ("/nothing", &[], 404),
        (PATH, &["If-Match: \"other\""], 412),
        (PATH, &["Host: again"], 400),
        (PATH, &["Transfer-Encoding: gzip"], 501),
        (&long, &[], 414),
    ] {
        let mut client = Client::connect(server.objects);
        let get = client.request("GET", path, fields);
        let mut client = Client::connect(server.objects);
        client.ask("HEAD", path, fields);
        let head = client.head();
        assert_eq!((get.status(), head.status), (status, status), "{path}");
        assert_eq!(head.field("Content-Length"), get.field("Content-Length"));
        // Nothing follows the head.
        client.finish();
        client.expect_close();
    }
    let mut client = Client::connect(server.objects);
    let line = format!("X: {}", "y".repeat(9000));
    let _ = client.try_send(format!("HEAD {PATH} HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n"));
    assert_eq!(client.head().status, 431);
    client.expect_close();
}

/// The tag and the date of the object.
fn validators(client: &mut Client) -> (String, String) {
    let head = client.request("HEAD", PATH, &[]);
    let field = |name| head.field(name).unwrap().to_owned();
    (field("ETag"), field("Last-Modified"))
}

const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// RFC 9110 section 13.2.2: what follows from which conditions, for GET and HEAD.
fn preconditions(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut client = Client::connect(server.objects);
    let (tag, date) = validators(&mut client);
    let is = |tag: &str| format!("If-Match: {tag}");
    let is_none = |tag: &str| format!("If-None-Match: {tag}");
    let unmodified = |date: &str| format!("If-Unmodified-Since: {date}");
    let modified = |date: &str| format!("If-Modified-Since: {date}");
    for (section, fields, status) in [
        ("13.1.1", vec![is(&tag)], 200),
        ("13.1.1", vec![is("*")], 200),
        ("13.1.1", vec![is(&format!("\"x\", {tag}"))], 200),
        ("13.1.1", vec![is("\"x\""), is(&tag)], 200),
        ("13.1.1", vec![is("\"x\"")], 412),
        (
            "13.1.1 strong comparison",
            vec![is(&format!("W/{tag}"))],
            412,
        ),
        ("13.1.4", vec![unmodified(&date)], 200),
        ("13.1.4", vec![unmodified(LONG_AGO)], 412),
        ("13.1.4 no date", vec![unmodified("yesterday")], 200),
        (
            "13.2.2 tag before date",
            vec![is(&tag), unmodified(LONG_AGO)],
            200,
        ),
        (
            "13.2.2 tag before date",
            vec![is("\"x\""), unmodified(&date)],
            412,
        ),
        ("13.1.2", vec![is_none(&tag)], 304),
        (
            "13.1.2 weak comparison",
            vec![is_none(&format!("W/{tag}"))],
            304,
        ),
        (
            "8.8.3 a comma in a tag",
            vec![is_none(&format!("\"a,b\",{tag}"))],
            304,
        ),
        ("13.1.2", vec![is_none("\"x\"")], 200),
        ("13.1.3", vec![modified(&date)], 304),
        ("13.1.3", vec![modified(LONG_AGO)], 200),
        (
            "13.2.2 tag before date",
            vec![is_none("\"x\""), modified(&date)],
            200,
        ),
        (
            "13.2.2 412 before 304",
            vec![is("\"x\""), is_none(&tag)],
            412,
        ),
        (
            "13.2.2 412 before 304",
            vec![unmodified(LONG_AGO), is_none(&tag)],
            412,
        ),
        ("13.2.2 both hold", vec![is(&tag), is_none(&tag)], 304),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        for method in ["GET", "HEAD"] {
            let answer = client.request(method, PATH, &fields);
            assert_eq!(answer.status(), status, "{section}: {method} {fields:?}");
            // Section 15.4.5: what the 200 would have said.
            if status == 304 {
                assert_eq!(answer.field("ETag"), Some(&*tag));
                assert!(answer.field("Date").is_some());
                assert_eq!(answer.field("Content-Length"), None);
            }
        }
    }
    client.expect_open(PATH);
}

/// A client that went on with its download after the object was replaced got a part of the new one.
fn preconditions_of_ranges(io: Backend) {
    let (stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    let (tag, date) = validators(&mut client);
    let part = "Range: bytes=100-199";
    for (condition, status) in [
        (format!("If-Match: {tag}"), 206),
        ("If-Match: \"old\"".to_owned(), 412),
        (format!("If-Unmodified-Since: {date}"), 206),
        (format!("If-Unmodified-Since: {LONG_AGO}"), 412),
        (format!("If-None-Match: {tag}"), 304),
        (format!("If-Range: {tag}"), 206),
        (format!("If-Range: W/{tag}"), 200),
        (format!("If-Range: {LONG_AGO}"), 200),
        ("If-Range: old".to_owned(), 200),
    ] {
        let answer = client.request("GET", PATH, &[part, &condition]);
        assert_eq!(answer.status(), status, "{condition}");
        match status {
            200 => assert_same(&answer.body, &content, &condition),
            206 => assert_same(&answer.body, &content[100..200], &condition),
            _ => {}
        }
    }
    // If-Range takes a date only if it is a second older than the response: 8.8.2.2.
    common::wait_until(|| {
        let answer = client.request("GET", PATH, &[part, &format!("If-Range: {date}")]);
        match answer.status() {
            206 => Ok(()),
            status => Err(format!("still {status}")),
        }
    });
    stores.put_bytes(b"another");
    common::wait_until(|| {
        let answer = client.request(
            "GET",
            PATH,
            &["Range: bytes=0-1", &format!("If-Match: {tag}")],
        );
        match answer.status() {
            412 => Ok(()),
            status => Err(format!("still {status}")),
        }
    });
    let answer = client.request(
        "GET",
        PATH,
        &["Range: bytes=0-1", &format!("If-Range: {tag}")],
    );
    assert_eq!((answer.status(), answer.text()), (200, "another"));
}

/// RFC 9110 section 13.2.1: conditions don't count where the answer would be an error without them.
fn preconditions_of_what_is_not_there(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut client = Client::connect(server.objects);
    for field in ["If-Match: *", "If-None-Match: *", "If-Match: \"x\""] {
        let answer = client.request("GET", "/nothing", &[field]);
        assert_eq!(answer.status(), 404, "{field}");
    }
}

/// RFC 9110 section 14: one range.
fn ranges(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    for (section, value, expected) in [
        ("14.1.2", "bytes=0-4", Some(0..5)),
        ("5.6.1 empty elements", "bytes=0-4,", Some(0..5)),
        ("5.6.1 empty elements", "bytes=,, 0-4 , ,", Some(0..5)),
        ("14.1 any case", "BYTES=0-4", Some(0..5)),
        (
            "14.1.2 the rest can't be satisfied",
            "bytes=9999999-,-0,7-8",
            Some(7..9),
        ),
        ("14.1.1 not a number", "bytes=+0-4", None),
        ("14.1.1 white space", "bytes=0 -4", None),
        ("14.1.1 white space", "bytes =0-4", None),
        ("14.1.1 the other way round", "bytes=4-0", None),
        ("14.1.1 one of them is wrong", "bytes=0-4,x", None),
        ("14.1 another unit", "lines=0-4", None),
    ] {
        let answer = client.request("GET", PATH, &[&format!("Range: {value}")]);
        match expected {
            Some(range) => {
                assert_eq!(answer.status(), 206, "{section}: {value}");
                let said = format!("bytes {}-{}/{SIZE}", range.start, range.end - 1);
                assert_eq!(answer.field("Content-Range"), Some(&*said), "{value}");
                assert_same(&answer.body, &content[range], value);
            }
            None => {
                assert_eq!(answer.status(), 200, "{section}: {value}");
                assert_same(&answer.body, &content, value);
            }
        }
    }
    // Section 15.5.17.
    for value in ["bytes=9999999-", "bytes=-0", "bytes=9999999-,-0"] {
        let answer = client.request("GET", PATH, &[&format!("Range: {value}")]);
        assert_eq!(answer.status(), 416, "{value}");
        let said = format!("bytes */{SIZE}");
        assert_eq!(answer.field("Content-Range"), Some(&*said));
    }
}

/// Reads a body of several ranges: the ranges that it says it has, and their bytes.
fn parts(body: &[u8], content_type: &str) -> Vec<(String, Vec<u8>)> {
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{content_type}"));
    let delimiter = format!("--{boundary}").into_bytes();
    let mut parts = Vec::new();
    let mut rest = body.strip_prefix(&delimiter[..]).expect("a first part");
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let lines = part.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = str::from_utf8(&part[..lines]).unwrap();
        let field = |name: &str| {
            let mut lines = head.split("\r\n");
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.unwrap_or_else(|| panic!("no {name} in {head}"))
        };
        assert_eq!(field("Content-Type"), "application/octet-stream");
        let range = field("Content-Range").to_owned();
        let bytes = &part[lines + 4..];
        let end = [&b"\r\n"[..], &delimiter].concat();
        let at = bytes.windows(end.len()).position(|w| w == end).unwrap();
        parts.push((range, bytes[..at].to_vec()));
        rest = &bytes[at + end.len()..];
    }
    assert_eq!(rest, b"--\r\n", "the last line");
    parts
}

/// RFC 9110 section 14.6, on the way that bodies of one range take: across leaves, blocks and segments, with a share
/// lost, and pipelined.
fn several_ranges(io: Backend) {
    let (stores, server, content) = served(io);
    let block = common::stores::BLOCK as usize;
    let last = SIZE - 1;
    let asked = [
        (0, 0),
        (4095, 4097),
        (block - 1, block + 5),
        (4 * block - 10, 4 * block + 70_000),
        (last - 100, last),
    ];
    let list: Vec<String> = asked.iter().map(|(a, b)| format!("{a}-{b}")).collect();
    let field = format!("Range: bytes={}", list.join(","));
    let check = |answer: &common::Response| {
        assert_eq!(answer.status(), 206);
        assert_eq!(answer.field("Content-Range"), None);
        let parts = parts(&answer.body, answer.field("Content-Type").unwrap());
        assert_eq!(parts.len(), asked.len());
        for ((first, last), (range, bytes)) in asked.into_iter().zip(parts) {
            assert_eq!(range, format!("bytes {first}-{last}/{SIZE}"));
            assert_same(&bytes, &content[first..=last], &range);
        }
    };
    let mut client = Client::connect(server.objects);
    check(&client.request("GET", PATH, &[&field]));
    // Read a few bytes at a time.
    let mut slow = Client::connect_small(server.objects);
    slow.ask("GET", PATH, &[&field]);
    check(&slow.response("GET"));
    for _ in 0..3 {
        client.ask("GET", PATH, &[&field]);
    }
    for _ in 0..3 {
        check(&client.response("GET"));
    }
    stores.remove_store(1);
    check(&client.request("GET", PATH, &[&field]));
    // HEAD has no ranges (section 14.2).
    let head = client.request("HEAD", PATH, &[&field]);
    assert_eq!((head.status(), head.head.length()), (200, SIZE as u64));
    // The policy: beyond it the whole object.
    let value = |ranges: Vec<String>| format!("Range: bytes={}", ranges.join(","));
    for (what, field) in [
        (
            "51 ranges",
            value((0..51).map(|i| format!("{}-{}", 10 * i, 10 * i)).collect()),
        ),
        (
            "overlapping",
            value((0..4).map(|i| format!("{i}-10")).collect()),
        ),
        (
            "backwards",
            value((0..10).rev().map(|i| format!("{0}-{0}", 10 * i)).collect()),
        ),
        (
            "more than the object",
            value(vec!["0-".into(), "0-0".into()]),
        ),
    ] {
        let answer = client.request("GET", PATH, &[&field]);
        assert_eq!(answer.status(), 200, "{what}");
        assert_same(&answer.body, &content, what);
    }
    client.expect_open(PATH);
}

/// Other servers answer 200 with nothing.
fn ranges_of_an_empty_object(io: Backend) {
    let stores = Stores::new(6);
    stores.put_bytes(b"");
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    for value in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-6,8-9"] {
        let answer = client.request("GET", PATH, &[&format!("Range: {value}")]);
        assert_eq!((answer.status(), answer.text()), (200, ""), "{value}");
        assert_eq!(answer.field("Content-Range"), None);
    }
}

/// RFC 9110 sections 9.3.7 and 10.2.1.
fn options_and_allow(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut client = Client::connect(server.objects);
    for target in [PATH, "/nothing", "*"] {
        client.ask("OPTIONS", target, &[]);
        let head = client.head();
        assert_eq!(head.status, 204, "{target}");
        assert_eq!(head.field("Allow"), Some("GET, HEAD, OPTIONS"));
        // Section 8.6: a 204 has no length, and nothing follows.
        assert_eq!(head.field("Content-Length"), None);
    }
    client.expect_open(PATH);
    let refused = client.request("POST", PATH, &[]);
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.field("Allow"), Some("GET, HEAD, OPTIONS"));
}

/// The Fetch standard, section 3.2.
fn pages_of_other_origins(io: Backend) {
    let (stores, _, _) = served(io);
    let server = Server::start(&stores, io, &["--cors-origin", "https://a.example"]);
    let mut client = Client::connect(server.objects);
    let allowed =
        |head: &common::client::Head| head.field("Access-Control-Allow-Origin").map(str::to_owned);
    for (path, fields) in [
        (PATH, &["Origin: https://a.example"][..]),
        (PATH, &["Origin: https://a.example", "Range: bytes=0-4"]),
        (PATH, &["Origin: https://a.example", "If-None-Match: *"]),
        ("/nothing", &["Origin: https://a.example"]),
    ] {
        let answer = client.request("GET", path, fields);
        assert_eq!(
            allowed(&answer.head).as_deref(),
            Some("https://a.example"),
            "{fields:?}"
        );
        let exposed = answer.field("Access-Control-Expose-Headers").unwrap();
        for name in ["ETag", "Content-Range", "Repr-Digest"] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
        assert_eq!(answer.field("Vary"), Some("Origin"));
    }
    for fields in [&[][..], &["Origin: https://b.example"], &["Origin: null"]] {
        let answer = client.request("GET", PATH, fields);
        assert_eq!((answer.status(), allowed(&answer.head)), (200, None));
        // A cache must not give this to a page that may read it.
        assert_eq!(answer.field("Vary"), Some("Origin"));
    }
    let method = "Access-Control-Request-Method: GET";
    let names = "Access-Control-Request-Headers: range,if-match";
    client.ask(
        "OPTIONS",
        PATH,
        &["Origin: https://a.example", method, names],
    );
    let granted = client.head();
    assert_eq!(granted.status, 204);
    assert_eq!(allowed(&granted).as_deref(), Some("https://a.example"));
    let field = |name| granted.field(name).unwrap();
    assert_eq!(field("Access-Control-Allow-Methods"), "GET, HEAD, OPTIONS");
    assert_eq!(field("Access-Control-Allow-Headers"), "range,if-match");
    client.ask(
        "OPTIONS",
        PATH,
        &["Origin: https://b.example", method, names],
    );
    let refused = client.head();
    assert_eq!(allowed(&refused), None);
    assert_eq!(refused.field("Access-Control-Allow-Methods"), None);
    client.expect_open(PATH);
}

/// RFC 3986 section 5.2.4. apt asks for `/flat/./Packages`.
fn dot_segments(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    for path in [
        "/dir/./object.bin",
        "/./dir/object.bin",
        "/x/../dir/object.bin",
        "/../../dir/object.bin",
        "/dir/%2E/object.bin",
        "/x/%2e%2e/dir/object.bin",
        "http://h/x/../dir/object.bin",
    ] {
        let answer = client.request("GET", path, &[]);
        assert_eq!(answer.status(), 200, "{path}");
        assert_same(&answer.body, &content, path);
    }
    for path in [
        "/dir/../object.bin",
        "/dir//object.bin",
        "/dir/object.bin/.",
    ] {
        assert_eq!(client.request("GET", path, &[]).status(), 404, "{path}");
    }
}

fn index_files(io: Backend) {
    let stores = Stores::new(2);
    for key in ["index.html", "docs/index.html"] {
        stores.put(key, &mut key.as_bytes(), 1, 4096);
    }
    let server = Server::start(&stores, io, &["--index", "index.html"]);
    let mut client = Client::connect(server.objects);
    for (path, key) in [
        ("/", "index.html"),
        ("/docs/", "docs/index.html"),
        ("/docs/.", "docs/index.html"),
    ] {
        let answer = client.request("GET", path, &[]);
        assert_eq!((answer.status(), answer.text()), (200, key), "{path}");
    }
    assert_eq!(client.request("GET", "/docs", &[]).status(), 404);
    let server = Server::start(&stores, io, &[]);
    assert_eq!(
        Client::connect(server.objects)
            .request("GET", "/", &[])
            .status(),
        404
    );
}
