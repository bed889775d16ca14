//! The server's HTTP: methods, ranges, conditions, keys, connections. Requests that it refuses are in `refusals.rs`.

mod common;

use common::stores::BLOCK;
use common::{
    Backend, Client, KEY, Noise, PATH, Response, SIZE, Server, Stores, assert_same, served, sha256,
};
use decode_kernel::share::{Header, PAGE_BYTES};

on_both_backends! {
    every_size_whole_and_in_parts
    one_range
    unsupported_and_malformed_ranges_are_ignored
    head_is_get_without_the_body
    entity_tags_and_dates
    if_range_compares_the_version_of_the_client
    an_object_of_the_future_was_modified_now
    one_connection_serves_many_requests
    pipelined_requests_are_answered_in_order
    connections_end_when_asked
    http10
    keys_are_percent_decoded
}

fn every_size_whole_and_in_parts(io: Backend) {
    let stores = Stores::new(6);
    let (leaf, block, segment) = (4096, BLOCK as usize, 4 * BLOCK as usize);
    let mut sizes = vec![0, 1, 2, 5 * segment + block + leaf + 77];
    for edge in [leaf, block, segment, 2 * segment, 3 * segment + block] {
        sizes.extend([edge - 1, edge, edge + 1]);
    }
    let noise = Noise::new(2);
    for &size in &sizes {
        stores.put(&format!("{size}"), &mut noise.reader(size as u64), 4, BLOCK);
    }
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    for &size in &sizes {
        let path = format!("/{size}");
        let content = noise.bytes(size);
        let whole = client.request("GET", &path, &[]);
        assert_eq!(whole.status(), 200, "{size}");
        assert_same(&whole.body, &content, &path);
        for edge in [0, 1, leaf, block, segment, size / 2, size] {
            let first = edge.saturating_sub(1).min(size);
            let last = (edge + 1).min(size);
            if first >= last {
                continue;
            }
            let range = format!("Range: bytes={first}-{}", last - 1);
            let part = client.request("GET", &path, &[&range]);
            assert_eq!(part.status(), 206, "{size} {range}");
            assert_same(&part.body, &content[first..last], &range);
        }
    }
}

fn one_range(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    let last = SIZE - 1;
    for (asked, first, end) in [
        ("0-0".to_owned(), 0, 1),
        ("0-".to_owned(), 0, SIZE),
        (format!("0-{last}"), 0, SIZE),
        ("5-70000".to_owned(), 5, 70_001),
        (format!("{last}-"), last, SIZE),
        (format!("{last}-{last}"), last, SIZE),
        ("-1".to_owned(), last, SIZE),
        ("-70000".to_owned(), SIZE - 70_000, SIZE),
        // A range that reaches beyond the end is cut off there, however far it reaches.
        (format!("7-{SIZE}"), 7, SIZE),
        ("7-99999999999999999999999999".to_owned(), 7, SIZE),
        (format!("-{}", SIZE + 1), 0, SIZE),
        ("-99999999999999999999999999".to_owned(), 0, SIZE),
    ] {
        let answer = client.request("GET", PATH, &[&format!("Range: bytes={asked}")]);
        assert_eq!(answer.status(), 206, "{asked}");
        let range = format!("bytes {first}-{}/{SIZE}", end - 1);
        assert_eq!(
            answer.field("Content-Range"),
            Some(range.as_str()),
            "{asked}"
        );
        assert_same(&answer.body, &content[first..end], &asked);
    }
    for asked in [
        format!("{SIZE}-"),
        format!("{SIZE}-{SIZE}"),
        "-0".into(),
        "9999999-".into(),
    ] {
        let answer = client.request("GET", PATH, &[&format!("Range: bytes={asked}")]);
        assert_eq!(answer.status(), 416, "{asked}");
        assert_eq!(
            answer.field("Content-Range"),
            Some(format!("bytes */{SIZE}").as_str())
        );
        assert!(answer.text().starts_with("416 "), "{}", answer.text());
    }
}

fn unsupported_and_malformed_ranges_are_ignored(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    // Unknown units need not be served (RFC 9110 section 14.2); a malformed range is no range at all.
    for asked in ["lines=0-1", "bytes=5-1", "bytes=a-", "bytes=-"] {
        let answer = client.request("GET", PATH, &[&format!("Range: {asked}")]);
        assert_eq!(answer.status(), 200, "{asked}");
        assert_eq!(answer.field("Content-Range"), None, "{asked}");
        assert_same(&answer.body, &content, asked);
    }
}

fn head_is_get_without_the_body(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut client = Client::connect(server.objects);
    let described = |r: &Response| {
        [
            "Content-Length",
            "Content-Type",
            "ETag",
            "Last-Modified",
            "Accept-Ranges",
        ]
        .map(|name| {
            r.field(name)
                .unwrap_or_else(|| panic!("no {name}"))
                .to_owned()
        })
    };
    let head = client.request("HEAD", PATH, &[]);
    let get = client.request("GET", PATH, &[]);
    assert_eq!((head.status(), get.status()), (200, 200));
    assert_eq!(described(&head), described(&get));
    // RFC 9110 section 14.2: range handling is defined for GET only.
    let head = client.request("HEAD", PATH, &["Range: bytes=0-9"]);
    assert_eq!(head.status(), 200);
    assert_eq!(described(&head), described(&get));

    let head = client.request("HEAD", "/nothing", &[]);
    assert_eq!(head.status(), 404);
    assert!(head.head.length() > 0, "as long as the GET's");
    client.expect_open(PATH);
}

fn entity_tags_and_dates(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    let first = client.request("GET", PATH, &[]);
    let tag = first.field("ETag").unwrap().to_owned();
    assert_eq!(
        tag,
        format!("\"{}\"", sha256(&content)),
        "the tag is the digest, quoted"
    );
    assert_eq!(
        first.field("Content-Type"),
        Some("application/octet-stream")
    );
    let modified = first.field("Last-Modified").unwrap().to_owned();
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();

    let none_match = |list: &str| format!("If-None-Match: {list}");
    let since = |date: &str| format!("If-Modified-Since: {date}");
    for (fields, status) in [
        (vec![none_match(&tag)], 304),
        (vec![none_match(&format!("W/{tag}"))], 304),
        (vec![none_match(&format!("\"a\", {tag} , \"b\""))], 304),
        (vec![none_match("\"a\""), none_match(&tag)], 304),
        (vec![none_match("*")], 304),
        (vec![none_match("\"other\"")], 200),
        (vec![since(&modified)], 304),
        (vec![since(&long_ago)], 200),
        (vec![since("the other day")], 200),
        // If there is a tag, it decides alone (RFC 9110 section 13.2.2).
        (vec![none_match("\"other\""), since(&modified)], 200),
        (vec![none_match(&tag), since(&long_ago)], 304),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        for method in ["GET", "HEAD"] {
            let answer = client.request(method, PATH, &fields);
            assert_eq!(answer.status(), status, "{method} {fields:?}");
            assert_eq!(answer.field("ETag"), Some(tag.as_str()));
            if (method, status) == ("GET", 200) {
                assert_same(&answer.body, &content, "the object");
            }
        }
    }
    client.expect_open(PATH);
}

fn if_range_compares_the_version_of_the_client(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    let first = client.request("HEAD", PATH, &[]);
    let tag = first.field("ETag").unwrap();
    for (condition, status) in [
        (tag.to_owned(), 206),
        (format!("W/{tag}"), 200),
        ("\"other\"".to_owned(), 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
    ] {
        let condition = format!("If-Range: {condition}");
        let answer = client.request("GET", PATH, &["Range: bytes=100-199", &condition]);
        assert_eq!(answer.status(), status, "{condition}");
        let wanted = if status == 206 {
            &content[100..200]
        } else {
            &content
        };
        assert_same(&answer.body, wanted, &condition);
    }
}

/// The clock of the machine that put it was ahead.
fn an_object_of_the_future_was_modified_now(io: Backend) {
    let stores = Stores::new(6);
    stores.put_bytes(b"from the future");
    for store in 0..6 {
        let share = stores.share(KEY, store);
        let mut bytes = std::fs::read(&share).unwrap();
        let mut header = Header::decode(&bytes[..PAGE_BYTES]).unwrap();
        header.created += 10 * 365 * 86_400;
        bytes[..PAGE_BYTES].copy_from_slice(&header.encode()[..]);
        std::fs::write(&share, bytes).unwrap();
    }
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    let answer = client.request("GET", PATH, &[]);
    assert_eq!(answer.text(), "from the future");
    let date = answer.field("Date").expect("every response has one");
    assert_eq!(answer.field("Last-Modified"), Some(date));
}

fn one_connection_serves_many_requests(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    for round in 0..20 {
        let whole = client.request("GET", PATH, &[]);
        assert_same(&whole.body, &content, "the object");
        assert_eq!(client.request("GET", "/nothing", &[]).status(), 404);
        assert_eq!(
            client
                .request("GET", PATH, &["Range: bytes=9999999-"])
                .status(),
            416
        );
        assert_eq!(
            client.request("GET", PATH, &["If-None-Match: *"]).status(),
            304
        );
        let range = format!("Range: bytes={round}-{}", round + 9000);
        let part = client.request("GET", PATH, &[&range]);
        assert_same(&part.body, &content[round..round + 9001], &range);
    }
    assert_eq!(server.total("accepted_connections"), 1);
}

fn pipelined_requests_are_answered_in_order(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut text = String::new();
    for i in 0..40 {
        let path = if i % 8 == 7 { "/nothing" } else { PATH };
        text += &format!(
            "GET {path} HTTP/1.1\r\nHost: t\r\nRange: bytes={i}-{}\r\n\r\n",
            i * 3000
        );
    }
    // All at once, and in parts that end at any byte.
    for chunk in [text.len(), 1000, 61] {
        let mut client = Client::connect(server.objects);
        for part in text.as_bytes().chunks(chunk) {
            client.send(part);
        }
        for i in 0..40 {
            let answer = client.response("GET");
            if i % 8 == 7 {
                assert_eq!(answer.status(), 404, "{i}");
            } else {
                assert_eq!(answer.status(), 206, "{i}");
                assert_same(&answer.body, &content[i..SIZE.min(i * 3000 + 1)], "a part");
            }
        }
        client.expect_open(PATH);
    }
}

fn connections_end_when_asked(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    let answer = client.request("GET", PATH, &["Connection: close"]);
    assert_eq!(answer.field("Connection"), Some("close"));
    assert_same(&answer.body, &content, "the object");
    client.expect_close();

    // The client may shut down sending before it has the response.
    let mut client = Client::connect(server.objects);
    client.ask("GET", PATH, &[]);
    client.finish();
    assert_same(&client.response("GET").body, &content, "the object");
    client.expect_close();

    // The server does not read this body, so the bytes after it can't be taken for a request.
    let mut client = Client::connect(server.objects);
    client.ask("GET", PATH, &["Content-Length: 38"]);
    client.send("GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n.");
    let answer = client.response("GET");
    assert_eq!(
        (answer.status(), answer.field("Connection")),
        (400, Some("close"))
    );
    client.expect_close();
}

fn http10(io: Backend) {
    let (_stores, server, content) = served(io);
    let mut client = Client::connect(server.objects);
    client.send(format!("GET {PATH} HTTP/1.0\r\n\r\n"));
    let answer = client.response("GET");
    assert_eq!(answer.field("Connection"), Some("close"));
    assert_same(&answer.body, &content, "the object");
    client.expect_close();

    let mut client = Client::connect(server.objects);
    for _ in 0..2 {
        client.send(format!(
            "GET {PATH} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
        ));
        let answer = client.response("GET");
        assert_eq!(answer.field("Connection"), Some("keep-alive"));
        assert_same(&answer.body, &content, "the object");
    }
    client.send("GET /nothing HTTP/1.0\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response("GET").status(), 404);
    client.expect_close();
}

fn keys_are_percent_decoded(io: Backend) {
    let stores = Stores::new(2);
    let keys = [
        "plain",
        "a b/c",
        "ü/ñ.txt",
        "100%",
        "q?x#y",
        "a+b",
        "deep/er/and/deeper",
    ];
    for key in keys {
        stores.put(key, &mut key.as_bytes(), 1, 4096);
    }
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    for (path, key) in [
        ("/plain", "plain"),
        ("/%70l%61in", "plain"),
        ("/plain?query=1", "plain"),
        ("http://elsewhere:1234/plain", "plain"),
        ("/a%20b/c", "a b/c"),
        ("/a%20b%2Fc", "a b/c"),
        ("/a%20b%2fc", "a b/c"),
        ("/%C3%BC/%c3%b1.txt", "ü/ñ.txt"),
        ("/100%25", "100%"),
        ("/q%3Fx%23y", "q?x#y"),
        ("/a+b", "a+b"),
        ("/deep/er/and/deeper", "deep/er/and/deeper"),
    ] {
        let answer = client.request("GET", path, &[]);
        assert_eq!((answer.status(), answer.text()), (200, key), "{path}");
    }
    let long = format!("/{}", "k".repeat(1100));
    for path in ["/", "/plain/", "//plain", "/PLAIN", "/a%00", &long] {
        assert_eq!(client.request("GET", path, &[]).status(), 404, "{path}");
    }
    assert_eq!(server.total("accepted_connections"), 1);
}
