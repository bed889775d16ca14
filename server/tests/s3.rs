//! Signed links, and what S3 clients see. The signatures are made here by hand, after the documents of AWS, and by real
//! clients where the machine has them.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use common::{
    Backend, Client, Noise, Response, Server, Stores, get, penstock, program, run, secure,
};
use sha2::{Digest as _, Sha256};

on_both_backends! {
    keys_are_changed_without_a_restart
    a_link_opens_one_object_for_a_while
    without_a_signature_nothing_is_answered_if_one_is_required
    a_wrong_signature_is_refused_where_none_is_needed
    a_link_may_be_slow
    a_key_opens_what_begins_with_its_prefix
    a_bucket_is_listed
    a_listing_sees_what_was_put_and_removed
    a_listing_says_if_objects_may_be_lacking
    objects_of_a_bucket
    what_is_not_reading_is_refused_in_the_form_of_s3
    real_clients
}

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const OTHER_SECRET: &str = "another-secret-of-the-example";

fn keys_file(stores: &Stores) -> String {
    let path = stores.file("keys.toml");
    let text = format!(
        "[[key]]\nid = \"{ID}\"\nsecret = \"{SECRET}\"\n\n\
         [[key]]\nid = \"NEXT\"\nsecret = \"{OTHER_SECRET}\"\n\n\
         [[key]]\nid = \"DIR\"\nsecret = \"{SECRET}\"\nprefix = \"media/dir/\"\n\n\
         [[key]]\nid = \"GONE\"\nsecret = \"{SECRET}\"\nnot_after = 2020-01-01T00:00:00Z\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

const KEYS: &[&str] = &[
    "media/a&b c.txt",
    "media/dir/1",
    "media/dir/2",
    "media/dir/sub/ü",
    "media/z",
    "other",
];

/// Stores with the objects of [`KEYS`], each of which holds its key.
fn stores() -> Stores {
    let stores = Stores::new(6);
    for key in KEYS {
        stores.put(key, &mut key.as_bytes(), 4, common::BLOCK);
    }
    stores
}

fn serve(stores: &Stores, io: Backend, options: &[&str]) -> Server {
    let keys = keys_file(stores);
    let all = [&["--keys-file", &keys, "--s3-bucket", "media"], options].concat();
    Server::start(stores, io, &all)
}

/// HMAC-SHA256 after RFC 2104.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        let key = key.iter().copied().chain(std::iter::repeat(0));
        key.take(64).map(|b| b ^ byte).collect()
    };
    let inner = Sha256::digest([&pad(0x36), text].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signature(secret: &str, time: &str, canonical_request: &str) -> String {
    let date = &time[..8];
    let hash = hex(&Sha256::digest(canonical_request));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{date}/eu-1/s3/aws4_request\n{hash}");
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, "eu-1", "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    hex(&hmac(&key, text.as_bytes()))
}

/// `seconds` from now, as signatures have it.
fn time(seconds: i64) -> String {
    let now = SystemTime::now();
    let by = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { now - by } else { now + by };
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(['-', ':'], "")
}

/// A link for a path that needs no escapes.
fn link(id: &str, secret: &str, method: &str, path: &str, time: &str, expires: u64) -> String {
    let date = &time[..8];
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F{date}%2Feu-1%2Fs3%2Faws4_request\
         &X-Amz-Date={time}&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host"
    );
    let canonical = format!("{method}\n{path}\n{query}\nhost:localhost\n\nhost\nUNSIGNED-PAYLOAD");
    let signature = signature(secret, time, &canonical);
    format!("{path}?{query}&X-Amz-Signature={signature}")
}

/// The fields of a request that is signed in them. The query must be sorted and escaped.
fn signed_fields(id: &str, secret: &str, path: &str, query: &str) -> [String; 3] {
    let (time, empty) = (time(0), hex(&Sha256::digest("")));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "GET\n{path}\n{query}\nhost:localhost\nx-amz-content-sha256:{empty}\nx-amz-date:{time}\n\n{names}\n{empty}"
    );
    let signature = signature(secret, &time, &canonical);
    let scope = format!("{}/eu-1/s3/aws4_request", &time[..8]);
    [
        format!("x-amz-date: {time}"),
        format!("x-amz-content-sha256: {empty}"),
        format!(
            "Authorization: AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
    ]
}

fn get_signed(server: &Server, id: &str, secret: &str, path: &str, query: &str) -> Response {
    let fields = signed_fields(id, secret, path, query);
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    get(server.objects, &format!("{path}?{query}"), &fields)
}

/// The texts of all elements with this name.
fn values(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = text.split(&open).skip(1);
    parts
        .map(|part| part.split(&close).next().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn expect_error(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status(), status, "{}", response.text());
    assert_eq!(response.field("Content-Type"), Some("application/xml"));
    assert_eq!(values(response.text(), "Code"), [code]);
}

fn a_link_opens_one_object_for_a_while(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &["--require-signature"]);
    let now = time(0);
    let good = link(ID, SECRET, "GET", "/other", &now, 3600);
    let answer = get(server.objects, &good, &[]);
    assert_eq!((answer.status(), answer.text()), (200, "other"));
    let answer = get(server.objects, &good, &["Range: bytes=1-2"]);
    assert_eq!((answer.status(), answer.text()), (206, "th"));
    // Two keys count at one time.
    let next = link("NEXT", OTHER_SECRET, "GET", "/other", &now, 3600);
    assert_eq!(get(server.objects, &next, &[]).status(), 200);
    let of_a_bucket = link(ID, SECRET, "GET", "/media/z", &now, 3600);
    assert_eq!(get(server.objects, &of_a_bucket, &[]).text(), "media/z");
    let refused = |target: &str, why: &str| {
        let answer = get(server.objects, target, &[]);
        assert_eq!(answer.status(), 403, "{target}");
        assert!(answer.text().contains(why), "{}", answer.text());
    };
    refused(&good.replace("/other", "/media%2Fz"), "signature");
    refused(&good.replace("=3600", "=3601"), "signature");
    refused(
        &link(ID, OTHER_SECRET, "GET", "/other", &now, 3600),
        "secret",
    );
    refused(
        &link("NOBODY", SECRET, "GET", "/other", &now, 3600),
        "unknown",
    );
    refused(
        &link("GONE", SECRET, "GET", "/other", &now, 3600),
        "unknown",
    );
    refused(
        &link(ID, SECRET, "GET", "/other", &time(-7200), 3600),
        "expired",
    );
    refused(
        &link(ID, SECRET, "GET", "/other", &time(7200), 3600),
        "not valid yet",
    );
    // A link for one method is none for another.
    let mut client = Client::connect(server.objects);
    assert_eq!(client.request("HEAD", &good, &[]).status(), 403);
    let head = link(ID, SECRET, "HEAD", "/other", &now, 3600);
    assert_eq!(client.request("HEAD", &head, &[]).status(), 200);
    client.expect_open(&head);
    // As the command makes it.
    let keys = stores.file("keys.toml").display().to_string();
    let arguments = [
        "sign",
        "other",
        "--keys-file",
        &keys,
        "--key-id",
        ID,
        "--url",
        "http://localhost",
    ];
    let url = run(penstock()
        .args(arguments)
        .args(["--rate", "1MiB", "--expires", "1min"]));
    let target = url.trim().strip_prefix("http://localhost").unwrap();
    assert_eq!(get(server.objects, target, &[]).text(), "other");
    assert!(!server.log().contains(SECRET), "{}", server.log());
}

/// However slow the machine is, it can only take longer.
fn a_link_may_be_slow(io: Backend) {
    let stores = stores();
    let content = Noise::new(3).bytes(1 << 20);
    stores.put("big", &mut &content[..], 4, common::BLOCK);
    let server = serve(&stores, io, &["--require-signature"]);
    let keys = stores.file("keys.toml").display().to_string();
    let sign = |more: &[&str]| {
        let arguments = ["sign", "big", "--keys-file", &keys, "--key-id", ID];
        let url = run(penstock()
            .args(arguments)
            .args(["--url", "http://localhost"])
            .args(more));
        url.trim()
            .strip_prefix("http://localhost")
            .unwrap()
            .to_owned()
    };
    let (slow, fast) = (sign(&["--rate", "512KiB"]), sign(&[]));
    let mut client = Client::connect(server.objects);
    let begun = Instant::now();
    common::assert_same(&client.request("GET", &slow, &[]).body, &content, "slow");
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    // The next request of the connection is another link's.
    common::assert_same(&client.request("GET", &fast, &[]).body, &content, "fast");
}

fn without_a_signature_nothing_is_answered_if_one_is_required(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &["--require-signature"]);
    // Nothing tells a bucket from what is none: neither the status, nor the form of the answer, nor its fields.
    let mut client = Client::connect(server.objects);
    for path in [
        "/media/z",
        "/media/nothing",
        "/media",
        "/media?location",
        "/",
        "/other",
        "/nothing",
        "/x",
    ] {
        expect_error(&get(server.objects, path, &[]), 403, "AccessDenied");
        let head = client.request("HEAD", path, &[]);
        assert_eq!(head.status(), 403, "{path}");
        assert_eq!(head.field("Content-Type"), Some("application/xml"));
        assert_eq!(head.field("x-amz-bucket-region"), None);
    }
    for path in ["/media", "/other"] {
        let answer = Client::connect(server.objects).request("PUT", path, &["Content-Length: 0"]);
        expect_error(&answer, 405, "MethodNotAllowed");
    }
    // There must be somebody who can sign, and nobody else may read the secrets.
    let launch = |options: &[&str]| {
        let error = Server::launch(Server::command(&stores, io, options));
        error.err().expect("it does not start")
    };
    let error = launch(&["--require-signature"]);
    assert!(error.contains("--keys-file"), "{error}");
    let keys = keys_file(&stores);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let error = launch(&["--keys-file", &keys]);
    assert!(
        error.contains("chmod 600") && !error.contains(SECRET),
        "{error}"
    );
}

fn a_wrong_signature_is_refused_where_none_is_needed(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &[]);
    assert_eq!(get(server.objects, "/other", &[]).text(), "other");
    let wrong = link(ID, "wrong", "GET", "/other", &time(0), 60);
    assert_eq!(get(server.objects, &wrong, &[]).status(), 403);
    assert_eq!(
        get(server.objects, "/other?X-Amz-Signature=x", &[]).status(),
        400
    );
    // What a proxy in front asks for is not ours.
    let answer = get(server.objects, "/other", &["Authorization: Basic QTpC"]);
    assert_eq!(answer.status(), 200);
    let answer = get_signed(&server, ID, SECRET, "/other", "");
    assert_eq!(answer.text(), "other");
    let answer = get_signed(&server, ID, "wrong", "/media", "list-type=2");
    expect_error(&answer, 403, "SignatureDoesNotMatch");
    // One that was cut off is no malformed request, but a wrong signature.
    let good = link(ID, SECRET, "GET", "/media/z", &time(0), 60);
    for bad in [
        &good[..good.len() - 1],
        &format!("{good}0"),
        &good.replace("Signature=", "Signature=z"),
    ] {
        expect_error(&get(server.objects, bad, &[]), 403, "SignatureDoesNotMatch");
    }
    let answer = get_signed(&server, "NOBODY", SECRET, "/media", "list-type=2");
    expect_error(&answer, 403, "InvalidAccessKeyId");
    let answer = get_signed(&server, ID, SECRET, "/nobucket", "list-type=2");
    expect_error(&answer, 404, "NoSuchBucket");
    // With a region of its own the server takes signatures for no other.
    let server = serve(&stores, io, &["--s3-region", "here-1"]);
    let answer = get_signed(&server, ID, SECRET, "/media", "list-type=2");
    expect_error(&answer, 400, "AuthorizationHeaderMalformed");
    assert_eq!(values(answer.text(), "Region"), ["here-1"]);
    let answer = get(server.objects, "/media?location", &[]);
    assert!(answer.text().contains(">here-1<"), "{}", answer.text());
}

fn a_key_opens_what_begins_with_its_prefix(io: Backend) {
    let stores = stores();
    let server = serve(
        &stores,
        io,
        &[
            "--require-signature",
            "--s3-bucket",
            "all=",
            "--s3-bucket",
            "elsewhere",
        ],
    );
    let get = |path: &str, query: &str| get_signed(&server, "DIR", SECRET, path, query);
    assert_eq!(get("/media/dir/1", "").text(), "media/dir/1");
    assert_eq!(get("/all/media/dir/1", "").text(), "media/dir/1");
    assert_eq!(get("/other", "").status(), 403);
    expect_error(&get("/media/z", ""), 403, "AccessDenied");
    expect_error(&get("/media", "list-type=2"), 403, "AccessDenied");
    let list = get("/media", "list-type=2&prefix=dir%2F");
    assert_eq!(values(list.text(), "Key"), ["dir/1", "dir/2", "dir/sub/ü"]);
    let buckets = get("/", "");
    assert_eq!(values(buckets.text(), "Name"), ["media", "all"]);
    expect_error(&get("/elsewhere", "location="), 403, "AccessDenied");
}

fn a_bucket_is_listed(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &["--s3-bucket", "all="]);
    let list = |target: &str| {
        let answer = get(server.objects, target, &[]);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.field("Content-Type"), Some("application/xml"));
        answer.text().to_owned()
    };
    let text = list("/media?list-type=2&delimiter=%2F");
    assert_eq!(values(&text, "Key"), ["a&amp;b c.txt", "z"]);
    assert_eq!(values(&text, "CommonPrefixes"), ["<Prefix>dir/</Prefix>"]);
    assert_eq!(values(&text, "KeyCount"), ["3"]);
    assert_eq!(values(&text, "Size"), ["15", "7"]);
    let head = Client::connect(server.objects).request("HEAD", "/media/z", &[]);
    let etag = head.field("ETag").unwrap().replace('"', "&quot;");
    assert_eq!(values(&text, "ETag")[1], etag);
    let text = list("/media/?list-type=2&prefix=dir/&encoding-type=url");
    assert_eq!(values(&text, "Key"), ["dir/1", "dir/2", "dir/sub/%C3%BC"]);
    // In pages, of both versions.
    for (first, behind, next) in [
        (
            "/all?list-type=2&max-keys=2",
            "continuation-token",
            "NextContinuationToken",
        ),
        ("/all?max-keys=2", "marker", "NextMarker"),
    ] {
        let (mut found, mut target) = (Vec::new(), first.to_owned());
        loop {
            let text = list(&target);
            found.extend(
                values(&text, "Key")
                    .iter()
                    .map(|key| key.replace("&amp;", "&")),
            );
            let Some(at) = values(&text, next).pop() else {
                break;
            };
            assert_eq!(values(&text, "IsTruncated"), ["true"]);
            let at = at.replace("&amp;", "%26").replace(' ', "%20");
            target = format!("{first}&{behind}={at}");
        }
        assert_eq!(found, KEYS);
    }
    let text = list("/media?list-type=2&start-after=dir/2");
    assert_eq!(values(&text, "Key"), ["dir/sub/ü", "z"]);
    assert_eq!(
        values(&list("/media?list-type=2&max-keys=0"), "KeyCount"),
        ["0"]
    );
    assert_eq!(
        values(&list("/media?list-type=2&prefix=x"), "KeyCount"),
        ["0"]
    );
    assert_eq!(values(&list("/"), "Name"), ["media", "all"]);
    assert!(list("/media?location").contains("<LocationConstraint"));
    // HeadBucket has no body, and the connection goes on.
    let mut client = Client::connect(server.objects);
    let head = client.request("HEAD", "/media", &[]);
    assert_eq!(head.field("x-amz-bucket-region"), Some("us-east-1"));
    client.expect_open("/media/z");
    for wrong in [
        "max-keys=x",
        "list-type=3",
        "encoding-type=x",
        "list-type=2&continuation-token=x",
    ] {
        let answer = get(server.objects, &format!("/media?{wrong}"), &[]);
        expect_error(&answer, 400, "InvalidArgument");
    }
}

fn a_listing_sees_what_was_put_and_removed(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &[]);
    let keys = || values(get(server.objects, "/media?prefix=n", &[]).text(), "Key");
    assert_eq!(keys(), [""; 0]);
    let expect = |wanted: &[&str]| {
        // A look at the stores counts for ten times as long as it took.
        common::wait_until(|| match keys() {
            keys if keys == wanted => Ok(()),
            keys => Err(format!("{keys:?}")),
        });
    };
    stores.put("media/new", &mut &b"x"[..], 4, common::BLOCK);
    stores.put("media/news", &mut &b"x"[..], 4, common::BLOCK);
    expect(&["new", "news"]);
    let flags = stores.flags();
    run(penstock().arg("rm").args(flags).arg("media/new"));
    expect(&["news"]);
}

fn a_listing_says_if_objects_may_be_lacking(io: Backend) {
    let stores = stores();
    // So many stores are missing that objects can't be read. They are there all the same.
    for store in 0..3 {
        stores.remove_store(store);
    }
    let server = serve(&stores, io, &[]);
    let answer = get(server.objects, "/media", &[]);
    assert_eq!(values(answer.text(), "Key").len(), 5, "{}", answer.text());
    expect_error(
        &get(server.objects, "/media/z", &[]),
        503,
        "ServiceUnavailable",
    );
    drop(server);
    // An object of one share may be in any of the stores that are away.
    let narrow = Stores::new(4);
    for key in ["media/a", "media/b"] {
        narrow.put(key, &mut &b"x"[..], 2, common::BLOCK);
    }
    let server = serve(&narrow, io, &[]);
    for store in 0..4 {
        narrow.remove_store(store);
    }
    let answer = common::wait_until(|| match get(server.objects, "/media", &[]) {
        answer if answer.status() == 503 => Ok(answer),
        answer => Err(answer.text().to_owned()),
    });
    expect_error(&answer, 503, "ServiceUnavailable");
    assert!(answer.field("Retry-After").is_some());
}

fn objects_of_a_bucket(io: Backend) {
    let stores = stores();
    let content = Noise::new(7).bytes(1 << 20);
    stores.put("archive/big", &mut &content[..], 4, common::BLOCK);
    let server = serve(&stores, io, &["--s3-bucket", "old=archive/"]);
    let answer = get_signed(&server, ID, SECRET, "/old/big", "");
    common::assert_same(&answer.body, &content, "the object");
    // The same object for all others.
    let plain = get(server.objects, "/archive/big", &[]);
    assert_eq!(plain.field("ETag"), answer.field("ETag"));
    assert_eq!(
        get(server.objects, "/media/a&b%20c.txt", &[]).text(),
        "media/a&b c.txt"
    );
    let mut client = Client::connect(server.objects);
    let head = client.request("HEAD", "/old/big?x-id=HeadObject", &[]);
    assert_eq!(head.head.length(), 1 << 20);
    assert_eq!(client.request("HEAD", "/old/nothing", &[]).status(), 404);
    let range = client.request("GET", "/old/big", &["Range: bytes=5-9"]);
    assert_eq!((range.status(), &range.body[..]), (206, &content[5..10]));
    expect_error(
        &client.request("GET", "/old/nothing", &[]),
        404,
        "NoSuchKey",
    );
    expect_error(&client.request("GET", "/old/a//b", &[]), 404, "NoSuchKey");
    let behind = client.request("GET", "/old/big", &["Range: bytes=1048576-"]);
    expect_error(&behind, 416, "InvalidRange");
    let other = client.request("GET", "/old/big", &["If-Match: \"x\""]);
    expect_error(&other, 412, "PreconditionFailed");
    // What a signed request says of its response, and only a signed one.
    let query = "response-cache-control=no-store&response-content-type=a%2Fb";
    let said = get_signed(&server, ID, SECRET, "/old/big", query);
    assert_eq!(said.field("Content-Type"), Some("a/b"));
    assert_eq!(said.field("Cache-Control"), Some("no-store"));
    let unsigned = client.request("GET", &format!("/old/big?{query}"), &[]);
    expect_error(&unsigned, 400, "InvalidRequest");
    let query = "response-expires=Sun%2C%2001%20Dec%202030%2000%3A00%3A00%20GMT";
    let said = get_signed(&server, ID, SECRET, "/old/big", query);
    let date = Some("Sun, 01 Dec 2030 00:00:00 GMT");
    assert_eq!((said.status(), said.field("Expires")), (200, date));
    let bad = get_signed(&server, ID, SECRET, "/old/big", "response-expires=%0A");
    expect_error(&bad, 400, "InvalidArgument");
    // Some clients ask for the first part, to learn how many there are.
    for method in ["GET", "HEAD"] {
        let part = client.request(method, "/old/big?partNumber=1", &[]);
        assert_eq!(part.status(), 206);
        let range = Some("bytes 0-1048575/1048576");
        assert_eq!(part.field("Content-Range"), range);
        assert_eq!(part.field("Content-Length"), Some("1048576"));
    }
    let part = client.request("GET", "/old/big?partNumber=2", &[]);
    expect_error(&part, 416, "InvalidPartNumber");
    let part = client.request("GET", "/old/big?partNumber=0", &[]);
    expect_error(&part, 400, "InvalidArgument");
    let both = client.request("GET", "/old/big?partNumber=1", &["Range: bytes=0-1"]);
    expect_error(&both, 400, "InvalidRequest");
    // Outside of the buckets nothing has changed.
    let answer = client.request("GET", "/nothing", &[]);
    assert_eq!(answer.text(), "404 Not Found: no such object\n");
}

fn what_is_not_reading_is_refused_in_the_form_of_s3(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &[]);
    for (method, target, status, code) in [
        ("PUT", "/media/x", 405, "MethodNotAllowed"),
        ("DELETE", "/media/z", 405, "MethodNotAllowed"),
        ("POST", "/media?delete", 405, "MethodNotAllowed"),
        ("GET", "/media/z?acl", 501, "NotImplemented"),
        ("GET", "/media/z?uploadId=1", 501, "NotImplemented"),
        ("GET", "/media?versions", 501, "NotImplemented"),
        ("GET", "/media?policy", 501, "NotImplemented"),
        ("BREW", "/media/z", 501, "NotImplemented"),
    ] {
        let answer = Client::connect(server.objects).request(method, target, &[]);
        expect_error(&answer, status, code);
    }
    assert_eq!(get(server.objects, "/media/z", &[]).text(), "media/z");
    let answer = Client::connect(server.objects).request("PUT", "/other", &[]);
    assert_eq!(
        answer.field("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    // `aws s3 mb` asks for a bucket that is none.
    let authorization = ["Authorization: AWS4-HMAC-SHA256 Credential=x"];
    let answer = Client::connect(server.objects).request("PUT", "/new", &authorization);
    expect_error(&answer, 405, "MethodNotAllowed");
    // What can't be understood is nobody's path, unless all are S3's.
    let bad = ["/media/%ff", "/media/%zz", "/media/..%2fz"];
    for target in bad {
        expect_error(&get(server.objects, target, &[]), 400, "InvalidRequest");
    }
    let plain = get(server.objects, "/other/%ff", &[]);
    assert!(plain.text().starts_with("400 Bad Request"));
    let server = serve(&stores, io, &["--require-signature"]);
    for target in [bad[0], bad[1], bad[2], "/other/%ff", "other"] {
        expect_error(&get(server.objects, target, &[]), 400, "InvalidRequest");
    }
}

fn keys_are_changed_without_a_restart(io: Backend) {
    let stores = stores();
    let server = serve(&stores, io, &["--require-signature"]);
    let path = stores.file("keys.toml");
    let get = |id: &str| get_signed(&server, id, SECRET, "/other", "").status();
    assert_eq!((get(ID), get("LATER")), (200, 403));
    let both = format!(
        "[[key]]\nid = \"{ID}\"\nsecret = \"{SECRET}\"\n[[key]]\nid = \"LATER\"\nsecret = \"{SECRET}\"\n"
    );
    fs::write(&path, both).unwrap();
    server.signal("HUP");
    common::wait_until(|| match get("LATER") {
        200 => Ok(()),
        status => Err(format!("{status}")),
    });
    assert_eq!(get(ID), 200);
    // What can't be read changes nothing.
    fs::write(&path, "[[key]]\n").unwrap();
    server.signal("HUP");
    server.wait_for_log("the new configuration is not used");
    assert_eq!((get(ID), get("LATER")), (200, 200));
    fs::write(
        &path,
        format!("[[key]]\nid = \"LATER\"\nsecret = \"{SECRET}\"\n"),
    )
    .unwrap();
    server.signal("HUP");
    common::wait_until(|| match get(ID) {
        403 => Ok(()),
        status => Err(format!("{status}")),
    });
    assert_eq!(get("LATER"), 200);
    assert!(!server.log().contains(SECRET), "{}", server.log());
}

/// A client of S3, with nothing of the machine's configuration of it.
fn s3_client(name: &str, stores: &Stores, server: &Server) -> Option<Command> {
    let mut command = match name {
        // It has its own way to say its version.
        "s5cmd" => {
            let output = Command::new(name).arg("version").output();
            if !output.is_ok_and(|output| output.status.success()) {
                common::skip("s5cmd is not installed");
                return None;
            }
            Command::new(name)
        }
        name => program(name)?,
    };
    for (variable, _) in std::env::vars() {
        if variable.starts_with("AWS_") || variable.starts_with("RCLONE_") {
            command.env_remove(variable);
        }
    }
    let endpoint = server.url("");
    if secure::is_on() {
        // Clients have several names for it.
        for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "RCLONE_CA_CERT"] {
            command.env(variable, stores.file("tls.pem"));
        }
    }
    command.env("AWS_ACCESS_KEY_ID", ID);
    command.env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.env("AWS_DEFAULT_REGION", "eu-1");
    command.env("AWS_ENDPOINT_URL", &endpoint);
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    for (name, value) in [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("ENV_AUTH", "true"),
        ("ENDPOINT", &endpoint),
    ] {
        command.env(format!("RCLONE_CONFIG_P_{name}"), value);
    }
    Some(command)
}

/// Lists in pages, reads, is refused, and follows a link that it signed.
const BOTO3: &str = r#"
import os, ssl, urllib.request
import boto3, botocore.exceptions
from botocore.config import Config
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=Config(signature_version="s3v4"))
pages = client.get_paginator("list_objects_v2").paginate(Bucket="media", Delimiter="/", Prefix="dir/", PaginationConfig={"PageSize": 2})
count = sum(len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])) for page in pages)
pages = client.get_paginator("list_objects").paginate(Bucket="media", Prefix="z")
count += sum(len(page["Contents"]) for page in pages)
text = client.get_object(Bucket="media", Key="dir/1")["Body"].read().decode()
try:
    client.head_object(Bucket="media", Key="nothing")
except botocore.exceptions.ClientError as error:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
link = client.generate_presigned_url("get_object", Params={"Bucket": "media", "Key": "z"}, ExpiresIn=600)
context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
print(count, text, status, urllib.request.build_opener(*handlers).open(link).read().decode())
"#;

fn real_clients(io: Backend) {
    let stores = stores();
    let content = Noise::new(9).bytes(9 << 20);
    stores.put("media/dir/big", &mut &content[..], 4, common::BLOCK);
    let server = serve(&stores, io, &["--require-signature"]);
    let empty = tempfile::tempdir().unwrap();
    let check = |dir: &std::path::Path| {
        common::assert_same(&fs::read(dir.join("dir/big")).unwrap(), &content, "big");
        for key in KEYS.iter().filter_map(|key| key.strip_prefix("media/")) {
            let text = fs::read_to_string(dir.join(key)).unwrap();
            assert_eq!(text, format!("media/{key}"));
        }
    };
    if let Some(mut aws) = s3_client("aws", &stores, &server) {
        let dir = empty.path().join("aws");
        aws.env("HOME", empty.path());
        run(aws.args(["s3", "sync", "s3://media"]).arg(&dir));
        check(&dir);
    }
    if let Some(mut rclone) = s3_client("rclone", &stores, &server) {
        let dir = empty.path().join("rclone");
        rclone.env("HOME", empty.path());
        // It has a setting of its own, and its S3 library fails where that of the AWS tools is set too.
        rclone.env_remove("AWS_CA_BUNDLE");
        run(rclone.args(["copy", "p:media"]).arg(&dir));
        check(&dir);
    }
    if let Some(mut s5cmd) = s3_client("s5cmd", &stores, &server) {
        let dir = empty.path().join("s5cmd");
        run(s5cmd
            .env("S3_ENDPOINT_URL", server.url(""))
            .args(["cp", "s3://media/*"])
            .arg(format!("{}/", dir.display())));
        check(&dir);
    }
    if let Some(mut python) = s3_client("python3", &stores, &server) {
        let has = |module: &str| {
            let import = Command::new("python3")
                .args(["-c", &format!("import {module}")])
                .output();
            import.is_ok_and(|output| output.status.success())
        };
        match has("boto3") {
            true => assert_eq!(
                run(python.args(["-c", BOTO3])).trim(),
                "5 media/dir/1 404 media/z"
            ),
            false => common::skip("boto3 is not installed"),
        }
    }
    if let Some(mut curl) = program("curl") {
        let sign = [
            "--aws-sigv4",
            "aws:amz:eu-1:s3",
            "-u",
            &format!("{ID}:{SECRET}"),
        ];
        let url = server.url("/media/dir/1");
        if secure::is_on() {
            curl.arg("--cacert").arg(stores.file("tls.pem"));
        }
        let said = run(curl.args(["-sS", "-m", "60"]).args(sign).arg(url));
        assert_eq!(said, "media/dir/1");
    }
}
