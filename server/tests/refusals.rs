//! Requests that the server refuses, with the right status, byte by byte and at its limits.

mod common;

use common::{Backend, Client, PATH, Server, Stores, assert_same, served};

on_both_backends! {
    refusals
    refusals_byte_by_byte
    a_request_cut_off_anywhere_ends_quietly
    an_object_with_too_few_shares
    slow_heads_and_idle_connections_are_closed
    too_many_connections
}

/// Requests that are refused for any objects. Each of them ends its connection.
fn refused() -> Vec<(Vec<u8>, u16)> {
    let get = |rest: &str| format!("GET {PATH} HTTP/1.1\r\n{rest}\r\n").into_bytes();
    let line = |line: &str| format!("{line}\r\nHost: test\r\n\r\n").into_bytes();
    vec![
        (line("GET"), 400),
        (line("GET /x"), 400),
        (line("GET  /x HTTP/1.1"), 400),
        (line("GET x HTTP/1.1"), 400),
        (line("GET * HTTP/1.1"), 400),
        (line("GET ftp://test/x HTTP/1.1"), 400),
        (line("GET /%ff HTTP/1.1"), 400),
        (line("GET /x HTTP/x"), 400),
        (line("G\x01T /x HTTP/1.1"), 400),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            400,
        ),
        (get(""), 400),
        (get("Host: a\r\nHost: b\r\n"), 400),
        (get("Host : a\r\n"), 400),
        (get(" Host: a\r\n"), 400),
        (get("Host: a\r\nno colon\r\n"), 400),
        (get("Host: a\r\nX: \0\r\n"), 400),
        (get("Host: a\r\nContent-Length: -1\r\n"), 400),
        (get("Host: a\r\nContent-Length: 1, 1\r\n"), 400),
        (get("Host: a\r\nTransfer-Encoding: chunked\r\n"), 400),
        (get("Host: a\r\nTransfer-Encoding: gzip\r\n"), 501),
        (line("POST /x HTTP/1.1"), 405),
        (line("PUT /x HTTP/1.1"), 405),
        (line("DELETE /x HTTP/1.1"), 405),
        (line("BREW /x HTTP/1.1"), 501),
        (line("get /x HTTP/1.1"), 501),
        (line("GET /x HTTP/2.0"), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        (line(&format!("GET /{} HTTP/1.1", "x".repeat(5000))), 414),
        (line(&format!("GET /{}", "x".repeat(100_000))), 414),
        (get(&format!("Host: a\r\nX: {}\r\n", "x".repeat(9000))), 431),
        (get(&format!("Host: a\r\n{}", "X: y\r\n".repeat(70))), 431),
        (
            get(&format!("Host: a\r\n{}", "X: yyyyyyyyyy\r\n".repeat(9000))),
            431,
        ),
    ]
}

fn check_refusal(request: &[u8], status: u16, mut client: Client) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
    let answer = client.response("GET");
    assert_eq!(answer.status(), status, "{shown:?}");
    assert_eq!(
        answer.field("Content-Type"),
        Some("text/plain; charset=utf-8"),
        "{shown:?}"
    );
    assert_eq!(answer.field("Connection"), Some("close"), "{shown:?}");
    assert!(
        answer.text().starts_with(&format!("{status} ")),
        "{}",
        answer.text()
    );
    assert!(answer.text().ends_with('\n') && answer.text().lines().count() == 1);
    assert_eq!(
        answer.field("Allow"),
        (status == 405).then_some("GET, HEAD, OPTIONS"),
        "{shown:?}"
    );
    client.expect_close();
}

fn refusals(io: Backend) {
    let (_stores, server, _) = served(io);
    for (request, status) in refused() {
        let mut client = Client::connect(server.objects);
        client.send(&request);
        check_refusal(&request, status, client);
    }
    let status = server.wait_for_status("no connection", |s| s["connections"]["lingering"] == 0);
    for code in [400, 405, 414, 431, 501, 505] {
        assert!(
            common::number(&status, &["responses", &code.to_string()]) > 0,
            "{status:#}"
        );
    }
}

fn refusals_byte_by_byte(io: Backend) {
    let (_stores, server, content) = served(io);
    for (request, status) in refused()
        .into_iter()
        .filter(|(request, _)| request.len() < 200)
    {
        let mut client = Client::connect(server.objects);
        for byte in request.chunks(1) {
            client.send(byte);
        }
        check_refusal(&request, status, client);
    }
    let mut client = Client::connect(server.objects);
    for byte in format!("\r\nGET {PATH} HTTP/1.1\r\nHost: t\r\n\r\n")
        .as_bytes()
        .chunks(1)
    {
        client.send(byte);
    }
    assert_same(&client.response("GET").body, &content, "the object");
    client.expect_open(PATH);
}

fn a_request_cut_off_anywhere_ends_quietly(io: Backend) {
    let (_stores, server, _) = served(io);
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: t\r\n\r\n");
    for end in 0..request.len() {
        let mut client = Client::connect(server.objects);
        client.send(&request[..end]);
        client.finish();
        client.expect_close();
    }
    server.wait_for_status("no connections", |_| server.connections() == 0);
}

fn an_object_with_too_few_shares(io: Backend) {
    let (stores, server, _) = served(io);
    for store in [0, 2, 5] {
        stores.remove_store(store);
    }
    let mut client = Client::connect(server.objects);
    for _ in 0..2 {
        let answer = client.request("GET", PATH, &[]);
        // The stores may come back.
        assert_eq!(answer.status(), 503);
        assert!(answer.field("Retry-After").is_some());
        assert!(
            answer.text().contains("can't be reached"),
            "{}",
            answer.text()
        );
        assert!(
            !answer.text().contains("/dir/object"),
            "no paths: {}",
            answer.text()
        );
        assert_eq!(client.request("HEAD", PATH, &[]).status(), 503);
    }
    server.wait_for_log("3 good shares");
    // Only this object has too few shares.
    assert_eq!(client.request("GET", "/nothing", &[]).status(), 404);
}

fn slow_heads_and_idle_connections_are_closed(io: Backend) {
    let stores = Stores::new(6);
    stores.put_bytes(b"short");
    // Each server has only one short timeout, so that a busy machine doesn't trigger the other one.
    let server = Server::start(&stores, io, &["--head-timeout", "300ms"]);
    let mut client = Client::connect(server.objects);
    client.send("GET /dir/object.bin HTTP/1.1\r\nHost");
    let answer = client.response("GET");
    assert_eq!(
        (answer.status(), answer.field("Connection")),
        (408, Some("close"))
    );
    client.expect_close();

    // The second head of a connection has the same timeout as the first.
    let mut client = Client::connect(server.objects);
    assert_eq!(client.request("GET", PATH, &[]).body, b"short");
    client.send("GET");
    assert_eq!(client.response("GET").status(), 408);
    client.expect_close();

    server.wait_for_status("no connections", |_| server.connections() == 0);
    assert_eq!(server.total("timed_out_connections"), 2);

    // Without a request there is nothing to answer.
    let server = Server::start(&stores, io, &["--idle-timeout", "3s"]);
    let mut client = Client::connect(server.objects);
    client.expect_close();
    let mut client = Client::connect(server.objects);
    assert_eq!(client.request("GET", PATH, &[]).body, b"short");
    client.expect_close();
    server.wait_for_status("no connections", |_| server.connections() == 0);
    assert_eq!(server.total("timed_out_connections"), 2);
}

fn too_many_connections(io: Backend) {
    let (stores, _, content) = served(io);
    let server = Server::start(&stores, io, &["--cores", "1", "--max-connections", "2"]);
    let mut first = Client::connect(server.objects);
    assert_eq!(first.request("GET", PATH, &[]).status(), 200);
    let mut second = Client::connect(server.objects);
    assert_eq!(second.request("GET", PATH, &[]).status(), 200);

    let mut third = Client::connect(server.objects);
    third.ask("GET", PATH, &[]);
    let answer = third.response("GET");
    assert_eq!(
        (answer.status(), answer.field("Connection")),
        (503, Some("close"))
    );
    assert!(answer.field("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    third.expect_close();
    // The first clients notice nothing. A client that leaves makes room, although the refused clients are slow to
    // leave.
    first.expect_open(PATH);
    drop(second);
    let mut refused = vec![third];
    common::wait_until(|| {
        let mut client = Client::connect(server.objects);
        let answer = client.request("GET", PATH, &[]);
        if answer.status() == 200 {
            assert_same(&answer.body, &content, "the object");
            return Ok(());
        }
        refused.push(client);
        Err(format!("still {}", answer.head.line))
    });
}
