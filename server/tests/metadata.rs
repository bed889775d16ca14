//! What a put says of an object: sent with it, checked on the way in, and gone when it has expired.

mod common;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::cli::{expect, on};
use common::stores::{BLOCK, header};
use common::{
    Backend, Client, KEY, Noise, PATH, Response, Server, Stores, assert_same, get, secure,
};
use decode_kernel::share::{Header, LeafChecksum, Metadata, object_dir};
use sha2::{Digest, Sha256};

on_both_backends! {
    all_of_it_is_sent
    digests_are_those_of_the_bytes
    want_repr_digest_is_honoured
    checksums_are_for_those_that_ask
    nosniff_is_on_everything
    an_expired_object_is_not_found_but_downloads_finish
    caches_do_not_outlive_an_object
    shares_from_before_there_was_metadata_are_served
    a_hostile_header_adds_no_line
    long_fields_are_served
}

/// RFC 4648 section 4, by the book.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = 0;
        for i in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..4 {
            text.push(match i <= chunk.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]),
                false => '=',
            });
        }
    }
    text
}

/// CRC-64/NVME bit by bit: polynomial 0xad93d23594c93659, reflected, all ones before and after.
fn crc64nvme(bytes: &[u8]) -> u64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1
                ^ if crc & 1 == 1 {
                    0x9a6c_9329_ac4b_c9b5
                } else {
                    0
                };
        }
    }
    !crc
}

fn repr_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", base64(&Sha256::digest(bytes)))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Six stores with an object of 4+2 that was put with these options.
fn put(content: &[u8], options: &[&str]) -> Stores {
    let stores = Stores::new(6);
    let file = stores.file("content");
    fs::write(&file, content).unwrap();
    let usual = ["--data", "4", "--parity", "2", "--key", KEY];
    let options = [&usual[..], options, &[file.to_str().unwrap()]].concat();
    expect(on(&stores, "put", &options), 0, &["sha256"]);
    stores
}

const SAID: [&str; 16] = [
    "--content-type",
    "text/plain; charset=utf-8",
    "--content-disposition",
    "attachment; filename=\"a b.txt\"",
    "--cache-control",
    "public, max-age=60",
    "--content-encoding",
    "br",
    "--content-language",
    "de, en",
    "--header",
    "X-Zone: 9",
    "--header",
    "x-amz-meta-mtime:1.5",
    "--expires",
    "30d",
];

#[track_caller]
fn expect_fields(answer: &Response, expected: &[(&str, Option<&str>)]) {
    for (name, value) in expected {
        assert_eq!(answer.field(name), *value, "{name} of {}", answer.status());
    }
}

fn all_of_it_is_sent(io: Backend) {
    let content = Noise::new(1).bytes(300_000);
    let stores = put(&content, &SAID);
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    let digest = repr_digest(&content);
    // What a 304 has too (RFC 9110 section 15.4.5), and what it hasn't.
    let always = [
        ("Repr-Digest", Some(&*digest)),
        ("Cache-Control", Some("public, max-age=60")),
        ("Expires", None),
        ("X-Content-Type-Options", Some("nosniff")),
    ];
    let content_fields = [
        ("Content-Disposition", "attachment; filename=\"a b.txt\""),
        ("Content-Encoding", "br"),
        ("Content-Language", "de, en"),
        ("X-Zone", "9"),
        ("X-Amz-Meta-Mtime", "1.5"),
        ("Content-Type", "text/plain; charset=utf-8"),
    ];
    let sent = content_fields.map(|(name, value)| (name, Some(value)));
    let not_sent = content_fields.map(|(name, _)| (name, None));
    let whole = client.request("GET", PATH, &[]);
    assert_eq!(whole.status(), 200);
    assert_same(&whole.body, &content, "whole");
    let head = client.request("HEAD", PATH, &[]);
    assert_eq!(head.status(), 200);
    let part = client.request("GET", PATH, &["Range: bytes=5-9"]);
    assert_eq!(part.status(), 206);
    for answer in [&whole, &head, &part] {
        expect_fields(answer, &always);
        expect_fields(answer, &sent);
    }
    let etag = whole.field("ETag").unwrap();
    let same = client.request("GET", PATH, &[&format!("If-None-Match: {etag}")]);
    assert_eq!(same.status(), 304);
    expect_fields(&same, &always);
    expect_fields(&same, &not_sent);
    let wrong = client.request("GET", PATH, &["Range: bytes=300000-"]);
    assert_eq!(wrong.status(), 416);
    expect_fields(&wrong, &[("Repr-Digest", None), ("X-Zone", None)]);
    // What the command line shows.
    let words = [
        "x-zone: 9",
        "Content-Language: de, en",
        "expires  ",
        "crc64nvme",
    ];
    expect(on(&stores, "stat", &[KEY]), 0, &words);
    expect(
        on(&stores, "ls", &["--long"]),
        0,
        &["(x-zone: 9)", "(expires "],
    );
    expect(on(&stores, "ls", &["--json"]), 0, &["\"x-zone\":\"9\""]);
    let bad: [(&[&str], &str); 8] = [
        (&["--content-type", "text"], "charset=utf-8"),
        (&["--cache-control", "max-age 5"], "max-age=86400"),
        (
            &["--content-disposition", "a\r\nX-Evil: 1"],
            "printable ASCII",
        ),
        (&["--header", "Set-Cookie: a=b"], "begin with X-"),
        (&["--header", "X-Accel-Redirect: /etc"], "reserved"),
        (&["--header", "X-A: 1", "--header", "x-a: 2"], "twice"),
        (&["--expires", "2001-01-01T00:00:00Z"], "has passed"),
        (&["--expires", "soon"], "30d"),
    ];
    let file = stores.file("content");
    for (options, word) in bad {
        let usual = ["--data", "4", "--parity", "2", "--key", "other"];
        let options = [&usual[..], options, &[file.to_str().unwrap()]].concat();
        let output = on(&stores, "put", &options);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(word), "{text}");
    }
}

fn digests_are_those_of_the_bytes(io: Backend) {
    let stores = Stores::new(6);
    let noise = Noise::new(7);
    let sizes = [0, 1, 9, 4096, 4 * BLOCK as usize, 1_000_001];
    for size in sizes {
        stores.put(&size.to_string(), &mut noise.reader(size as u64), 4, BLOCK);
    }
    // Degraded: the digest does not depend on which shares are there.
    stores.remove_store(1);
    let server = Server::start(&stores, io, &[]);
    for size in sizes {
        let asked = ["x-amz-checksum-mode: ENABLED"];
        let answer = get(server.objects, &format!("/{size}"), &asked);
        let content = noise.bytes(size);
        assert_same(&answer.body, &content, "content");
        assert_eq!(answer.field("Repr-Digest"), Some(&*repr_digest(&content)));
        let crc = base64(&crc64nvme(&content).to_be_bytes());
        assert_eq!(answer.field("x-amz-checksum-crc64nvme"), Some(&*crc));
    }
}

fn want_repr_digest_is_honoured(io: Backend) {
    let stores = put(b"123456789", &[]);
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    // As sha256sum and base64 print it.
    let digest = "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:";
    for (wanted, sent) in [
        (&[][..], true),
        (&["Want-Repr-Digest: sha-256=1"], true),
        (&["Want-Repr-Digest: sha-512=9, unixsum=1"], true),
        (&["Want-Repr-Digest: sha-256=0"], false),
        (&["want-repr-digest: sha-512=9, sha-256=0;a"], false),
        (
            &["Want-Repr-Digest: sha-256=0", "Want-Repr-Digest: sha-256=5"],
            true,
        ),
        (&["Want-Repr-Digest: sha-256=0,"], true),
    ] {
        for (method, more, status) in [
            ("GET", "X-Nothing: 1", 200),
            ("HEAD", "X-Nothing: 1", 200),
            ("GET", "Range: bytes=0-1", 206),
            ("GET", "If-None-Match: *", 304),
        ] {
            let fields = [wanted, &[more]].concat();
            let answer = client.request(method, PATH, &fields);
            assert_eq!(answer.status(), status);
            let expected = sent.then_some(digest);
            assert_eq!(answer.field("Repr-Digest"), expected, "{fields:?}");
        }
    }
}

fn checksums_are_for_those_that_ask(io: Backend) {
    let stores = put(b"123456789", &[]);
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    // The check value that the catalogue of CRCs has, in the words of S3.
    let crc = [
        ("x-amz-checksum-crc64nvme", Some("rosUhgp5mIg=")),
        ("x-amz-checksum-type", Some("FULL_OBJECT")),
    ];
    let none = crc.map(|(name, _)| (name, None));
    let mode = "x-amz-checksum-mode: ENABLED";
    expect_fields(&client.request("GET", PATH, &[mode]), &crc);
    expect_fields(&client.request("HEAD", PATH, &[mode]), &crc);
    expect_fields(&client.request("GET", PATH, &[]), &none);
    // A client would check the part against the checksum of the whole.
    let part = client.request("GET", PATH, &[mode, "Range: bytes=0-1"]);
    assert_eq!(part.status(), 206);
    expect_fields(&part, &none);
    let same = client.request("GET", PATH, &[mode, "If-None-Match: *"]);
    expect_fields(&same, &none);
}

fn nosniff_is_on_everything(io: Backend) {
    let stores = put(b"123456789", &[]);
    let server = Server::start(&stores, io, &["--max-connections", "2"]);
    let sent = |answer: &Response, status: u16| {
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
    };
    let mut client = Client::connect(server.objects);
    sent(&client.request("GET", PATH, &[]), 200);
    sent(&client.request("GET", PATH, &["Range: bytes=1-2"]), 206);
    sent(&client.request("GET", PATH, &["If-None-Match: *"]), 304);
    sent(&client.request("GET", "/nothing", &[]), 404);
    sent(&client.request("GET", PATH, &["Range: bytes=9-"]), 416);
    sent(&client.request("HEAD", "/nothing", &[]), 404);
    let mut second = Client::connect(server.objects);
    second.expect_open(PATH);
    // Without a seat there is no handshake, and no answer.
    if !secure::is_on() {
        let mut third = Client::connect(server.objects);
        sent(&third.response("GET"), 503);
    }
    client.send("GET / HTTP/1.1\r\nHost: h\r\nnot a field\r\n\r\n");
    sent(&client.response("GET"), 400);
}

fn an_expired_object_is_not_found_but_downloads_finish(io: Backend) {
    const BYTES: u64 = 8 << 20;
    let noise = Noise::new(3);
    // The time to begin in may be too short on a busy machine.
    for seconds in [4, 16, 64] {
        let stores = Stores::new(6);
        let expires = now() + seconds;
        stores.put_said(KEY, &mut noise.reader(BYTES), expires, &[]);
        stores.put_said("past", &mut &b"x"[..], 1, &[]);
        let server = Server::start(&stores, io, &[]);
        assert_eq!(get(server.objects, "/past", &[]).status(), 404);
        let mut stalled = Client::connect_small(server.objects);
        stalled.ask("GET", PATH, &[]);
        let head = stalled.head();
        let begun = head.status == 200;
        if !begun {
            assert!(now() >= expires, "not found before its time");
            continue;
        }
        let mut client = Client::connect(server.objects);
        while now() < expires {
            let answer = client.request("HEAD", PATH, &[]);
            assert!(answer.status() == 200 || now() >= expires);
            std::thread::sleep(Duration::from_millis(100));
        }
        for _ in 0..2 {
            assert_eq!(client.request("GET", PATH, &[]).status(), 404);
            let part = client.request("GET", PATH, &["Range: bytes=0-0", "If-None-Match: *"]);
            assert_eq!(part.status(), 404);
        }
        // The stores are swept under the download.
        expect(
            on(&stores, "repair", &[]),
            0,
            &["removed an expired object"],
        );
        let body = stalled.body(BYTES as usize);
        assert_same(&body, &noise.bytes(BYTES as usize), "the download");
        assert_eq!(get(server.objects, PATH, &[]).status(), 404);
        expect(on(&stores, "get", &[KEY]), 1, &["no object"]);
        return;
    }
    panic!("no download began before its object expired");
}

fn caches_do_not_outlive_an_object(io: Backend) {
    let stores = Stores::new(6);
    let expires = now() + 3600;
    let said = [("Cache-Control", "public, max-age=86400, s-maxage=5")];
    stores.put_said("said", &mut &b"x"[..], expires, &said);
    stores.put_said("unsaid", &mut &b"x"[..], expires, &[]);
    let server = Server::start(&stores, io, &[]);
    for fields in [&[][..], &["If-None-Match: *"]] {
        let answer = get(server.objects, "/said", fields);
        let text = answer.field("Cache-Control").unwrap();
        let rest = text.strip_prefix("public, max-age=").unwrap();
        let seconds = rest.strip_suffix(", s-maxage=5").unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        assert!(seconds <= 3600 && now() + seconds <= expires + 60, "{text}");
        let answer = get(server.objects, "/unsaid", fields);
        assert_eq!(answer.field("Cache-Control"), Some("no-cache"));
    }
}

/// Made by the last release before there was metadata, with `--data 1 --no-redundancy`.
const VERSION_1: &[u8] = include_bytes!("data/version-1.share");

fn shares_from_before_there_was_metadata_are_served(io: Backend) {
    assert_eq!(VERSION_1[8..10], [1, 0]);
    let stores = Stores::new(1);
    let written = Header::decode(&VERSION_1[..4096]).unwrap();
    assert_eq!(written.metadata, Metadata::default());
    assert_eq!(written.encode()[..], VERSION_1[..4096]);
    let dir = stores.paths[0]
        .join("objects")
        .join(object_dir(&written.key));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{}.share", written.generation));
    fs::write(&path, VERSION_1).unwrap();
    let server = Server::start(&stores, io, &[]);
    let answer = get(
        server.objects,
        "/old.txt",
        &["x-amz-checksum-mode: ENABLED"],
    );
    assert_eq!(answer.text(), "What was put before there was metadata.\n");
    let digest = repr_digest(&answer.body);
    expect_fields(
        &answer,
        &[
            ("Content-Type", Some("text/plain; charset=utf-8")),
            ("Repr-Digest", Some(&digest)),
            ("Cache-Control", None),
            ("x-amz-checksum-crc64nvme", None),
        ],
    );
    expect(on(&stores, "verify", &[]), 0, &["1 healthy"]);
    expect(on(&stores, "repair", &[]), 0, &["1 healthy"]);
    assert_eq!(fs::read(&path).unwrap(), VERSION_1);
}

/// Whoever can write shares can't write to clients but bodies: a field that would end its line makes a bad header.
fn a_hostile_header_adds_no_line(io: Backend) {
    let stores = Stores::new(6);
    let said = [("X-Zone", "9aX-Evil: 1")];
    for key in ["all", "one"] {
        stores.put_said(key, &mut &b"content"[..], 0, &said);
    }
    for (key, count) in [("all", 6), ("one", 1)] {
        for store in 0..count {
            let path = stores.share(key, store);
            let mut bytes = fs::read(&path).unwrap();
            let value = b"9aX-Evil: 1";
            let at = bytes.windows(value.len()).position(|part| part == value);
            let at = at.unwrap();
            bytes[at..at + 2].copy_from_slice(b"\r\n");
            let sum = LeafChecksum::Crc64Nvme.compute(&bytes[..4088]);
            bytes[4088..4096].copy_from_slice(&sum.to_le_bytes());
            fs::write(&path, bytes).unwrap();
        }
    }
    let server = Server::start(&stores, io, &[]);
    let one = get(server.objects, "/one", &[]);
    assert_eq!((one.status(), one.text()), (200, "content"));
    assert_eq!(one.field("X-Zone"), Some("9aX-Evil: 1"));
    let all = get(server.objects, "/all", &[]);
    assert_eq!(all.status(), 500);
    for answer in [one, all] {
        assert_eq!(answer.field("X-Evil"), None);
    }
    expect(on(&stores, "verify", &["one"]), 1, &["bad header fields"]);
    expect(on(&stores, "repair", &["one"]), 0, &["rebuilt share"]);
    let repaired = header(&stores.share("one", 0));
    assert_eq!(repaired.metadata.fields.get("x-zone"), Some("9aX-Evil: 1"));
}

fn long_fields_are_served(io: Backend) {
    let stores = Stores::new(6);
    let value = "v".repeat(1300);
    let said = [("X-A", &*value), ("X-B", &*value)];
    stores.put_said(KEY, &mut Noise::new(5).reader(100_000), 0, &said);
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    // Many at once: each response head is more than a connection's state pays for.
    for _ in 0..20 {
        client.ask("GET", PATH, &["Range: bytes=0-9"]);
    }
    for _ in 0..20 {
        let answer = client.response("GET");
        assert_eq!(answer.status(), 206);
        expect_fields(&answer, &[("X-A", Some(&value)), ("X-B", Some(&value))]);
    }
    drop(client);
    server.wait_for_status("what was claimed came back", |status| {
        common::number(status, &["memory", "memory_credit_lent_bytes"]) == 0
    });
}
