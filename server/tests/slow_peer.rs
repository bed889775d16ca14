//! Clients that stop reading, dawdle, vanish or come back, and a server that is told to stop.

mod common;

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use common::client::End;
use common::{
    BLOCK, Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, number, skip,
    together, wait_until,
};
use penstock::io::{Resource, raise_resource_limit};
use serde_json::Value;

on_both_backends! {
    two_hundred_stalled_clients_hold_no_buffer
    a_thousand_stalled_clients_cost_little_memory
    a_stalled_client_resumes
    a_client_that_vanishes_is_forgotten
    a_client_that_never_reads_again_is_closed
    stalled_borrowers_make_room_if_the_operator_says_so
    slow_heads_end
    sigterm_lets_a_body_finish
    the_deadline_cuts_the_rest
    a_second_signal_ends_it_now
}

/// Far more than the sockets of both sides hold.
const LARGE: usize = 4 << 20;
/// The server must not close clients that stall, however long a test takes.
const PATIENT: [&str; 2] = ["--send-timeout", "1h"];

fn served_large(io: Backend, options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(5).bytes(LARGE);
    stores.put_bytes(&content);
    let mut all = options.to_vec();
    if !options.contains(&"--send-timeout") {
        all.extend(PATIENT);
    }
    let server = Server::start(&stores, io, &all);
    (stores, server, content)
}

/// A download of which only the head (and the few bytes that came with it) is read.
fn stalled(server: &Server, path: &str) -> Client {
    let mut client = Client::connect_small(server.objects);
    client.ask("GET", path, &[]);
    assert_eq!(client.head().status, 200);
    client
}

/// As many stalled downloads, and the status once all of them wait and every pool buffer is free.
fn stall(server: &Server, clients: usize, path: &str) -> (Vec<Client>, Value) {
    const THREADS: usize = 4;
    let clients_of = |thread| (thread..clients).step_by(THREADS);
    let stalled: Vec<Client> = together(THREADS, |i| {
        clients_of(i)
            .map(|_| stalled(server, path))
            .collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    // At rest: during some ticks in a row nothing was sent.
    let (mut sent, mut at_rest) = (0, 0);
    let status = server.wait_for_status("all buffers free while all wait", |status| {
        let totals = &status["totals"];
        let before = std::mem::replace(&mut sent, number(status, &["totals", "sent_bytes"]));
        at_rest = if sent == before { at_rest + 1 } else { 0 };
        status["connections"]["sending"] == clients as u64
            && totals["pool_buffers_free"] == totals["pool_buffers"]
            && at_rest >= 3
    });
    (stalled, status)
}

fn two_hundred_stalled_clients_hold_no_buffer(io: Backend) {
    let (_stores, server, content) = served_large(io, &["--cores", "1", "--pool-buffers", "8"]);
    let (clients, status) = stall(&server, 200, PATH);
    assert_eq!(number(&status, &["totals", "pool_buffers"]), 8);
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "the 201st client's",
    );
    // None of the others got on meanwhile, so it was served beside 200 that stall.
    let status = server.wait_for_status("200 that wait and one that is done", |status| {
        status["connections"]["sending"] == 200 && status["responses"]["200"] == 1
    });
    assert_eq!(number(&status, &["totals", "accepted_connections"]), 201);
    drop(clients);
}

/// The 1 GiB object of the memory test: made once for the tests that run at the same time.
fn gibibyte() -> Arc<Stores> {
    static MADE: Mutex<Weak<Stores>> = Mutex::new(Weak::new());
    let mut made = MADE.lock().unwrap();
    if let Some(stores) = made.upgrade() {
        return stores;
    }
    let stores = Arc::new(Stores::on_disk(5));
    stores.put(KEY, &mut Noise::new(6).reader(GIBIBYTE), 4, BLOCK);
    *made = Arc::downgrade(&stores);
    stores
}

const GIBIBYTE: u64 = 1 << 30;
const GROWTH_BYTES_MAX: u64 = 8 << 20;

fn a_thousand_stalled_clients_cost_little_memory(io: Backend) {
    const CLIENTS: usize = 1000;
    let descriptors = raise_resource_limit(Resource::Descriptors).unwrap();
    // Two such tests may run at once.
    if descriptors < 2 * CLIENTS as u64 + 200 {
        return skip(&format!(
            "{descriptors} descriptors are too few for {CLIENTS} clients"
        ));
    }
    let stores = gibibyte();
    // Little that clients share: how much of it they use depends on the page cache, and on which of them run together.
    let shared = ["--pool-buffers", "1", "--read-ahead", "0"];
    let server = Server::start(&stores, io, &[&PATIENT[..], &shared].concat());
    // The first client, so that what every server needs once is there.
    get(server.objects, PATH, &["Range: bytes=0-999999"]);
    let before = server.rss_bytes();
    let (mut clients, status) = stall(&server, CLIENTS, PATH);
    let after = server.rss_bytes();
    println!(
        "{CLIENTS} stalled clients: RSS {before} -> {after} bytes ({:+}); in the kernel {} bytes",
        after as i64 - before as i64,
        number(&status, &["totals", "socket_bytes"]),
    );
    assert!(
        after < before + GROWTH_BYTES_MAX,
        "RSS grew from {before} to {after} bytes"
    );

    // They are not stalled for good: some go on, and what they get is right.
    let noise = Noise::new(6);
    for client in clients.iter_mut().step_by(333) {
        assert_same(
            &client.body(2 << 20),
            &noise.bytes(2 << 20),
            "the beginning",
        );
    }
    let range = format!("Range: bytes={}-", GIBIBYTE - 100_000);
    let tail = get(server.objects, PATH, &[&range]);
    assert_same(
        &tail.body,
        &noise.range(GIBIBYTE - 100_000..GIBIBYTE),
        "another client's tail",
    );
}

fn a_stalled_client_resumes(io: Backend) {
    let (stores, server, content) = served_large(io, &[]);
    let (mut clients, _) = stall(&server, 4, PATH);
    // Two of the disks that the rest is on are gone meanwhile.
    stores.truncate(KEY, 0, 0);
    stores.truncate(KEY, 2, 0);
    // Each goes on in its own way, stopping now and then.
    for (i, client) in clients.iter_mut().enumerate() {
        let mut at = 0;
        while at < LARGE {
            let part = (LARGE - at).min([1 << 20, 777_777, 300_001, LARGE][i]);
            assert_same(&client.body(part), &content[at..at + part], "a part");
            at += part;
        }
        client.expect_open(PATH);
    }
    assert_eq!(server.total("reset_bodies"), 0);
}

fn nobody_is_left(server: &Server) {
    server.wait_for_status("no connections and no buffers in use", |status| {
        let open = status["connections"]
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_u64().unwrap());
        let totals = &status["totals"];
        open.sum::<u64>() == 0 && totals["pool_buffers_free"] == totals["pool_buffers"]
    });
}

fn a_client_that_vanishes_is_forgotten(io: Backend) {
    let (_stores, server, content) = served_large(io, &[]);
    let (clients, _) = stall(&server, 20, PATH);
    for (i, client) in clients.into_iter().enumerate() {
        // With and without a reset of its own.
        if i % 2 == 0 {
            client.reset()
        } else {
            drop(client)
        }
    }
    nobody_is_left(&server);
    // Also while the body is on its way and nobody waits.
    for i in 0..20 {
        let mut client = Client::connect(server.objects);
        client.ask("GET", PATH, &[]);
        client.body(i * 10_000);
        client.reset();
    }
    // And before anything was asked.
    Client::connect(server.objects).reset();
    nobody_is_left(&server);
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "the next client's",
    );
}

fn a_client_that_never_reads_again_is_closed(io: Backend) {
    let (_stores, server, content) = served_large(io, &["--send-timeout", "500ms"]);
    let mut client = stalled(&server, PATH);
    // It must not read before it is closed.
    server.wait_for_status("it is closed", |status| {
        status["totals"]["timed_out_connections"] == 1
    });
    nobody_is_left(&server);
    let (bytes, end) = client.until_end();
    assert_eq!(end, End::Reset);
    assert_same(&bytes, &content[..bytes.len()], "until then");
}

fn stalled_borrowers_make_room_if_the_operator_says_so(io: Backend) {
    // So many that most of them ask for a larger buffer in vain.
    const CLIENTS: usize = 150;
    let memory = ["--cores", "1", "--memory", "56MiB"];
    let closing = ["--stalled-loan-timeout", "500ms"];
    let (_stores, server, _content) = served_large(io, &[&memory[..], &closing].concat());
    let credit = |server: &Server| {
        let status = server.status();
        number(&status, &["memory", "memory_credit_lent_bytes"])
    };
    let (clients, _) = stall(&server, CLIENTS, PATH);
    let lent = credit(&server);
    assert!(lent > 0);
    // Others come and ask, too, until nothing is left for them. Then those that have stalled for longest go.
    let mut more = Vec::new();
    wait_until(|| {
        more.push(stalled(&server, PATH));
        match server.total("stalled_connections") {
            0 => Err("nobody made room".to_owned()),
            _ => Ok(()),
        }
    });
    // Those that borrowed nothing stay.
    assert!(server.connections() > 0);
    drop((clients, more));
    nobody_is_left(&server);
    let (_stores, server, _content) = served_large(io, &memory);
    let (_clients, _) = stall(&server, CLIENTS, PATH);
    for _ in 0..3 {
        drop(stalled(&server, PATH));
    }
    assert_eq!(server.total("stalled_connections"), 0);
}

fn slow_heads_end(io: Backend) {
    let (_stores, server, content) = served_large(io, &["--head-timeout", "1s"]);
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(server.objects)).collect();
    let head = format!("GET {PATH} HTTP/1.1\r\nHost: test\r\nX: ");
    for client in &mut clients {
        client.send(&head);
    }
    // They keep sending, never to the end: what counts is the head's first byte.
    let mut waiting = clients;
    while let Some(mut client) = waiting.pop() {
        while !client.hears_within(Duration::from_millis(10)) {
            client.send("x");
        }
        let answer = client.response("GET");
        assert_eq!(
            (answer.status(), answer.field("Connection")),
            (408, Some("close"))
        );
        client.expect_close();
    }
    nobody_is_left(&server);
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "the next client's",
    );
}

fn sigterm_lets_a_body_finish(io: Backend) {
    let (_stores, mut server, content) = served_large(io, &["--drain-timeout", "10m"]);
    let mut idle = Client::connect(server.objects);
    assert_eq!(idle.request("HEAD", PATH, &[]).status(), 200);
    let mut fresh = Client::connect(server.objects);
    let mut busy = stalled(&server, PATH);
    server.wait_for_status("three connections", |_| server.connections() == 3);
    assert_eq!(get(server.admin, "/readyz", &[]).status(), 200);

    server.signal("TERM");
    idle.expect_close();
    fresh.expect_close();
    assert_eq!(
        get(server.admin, "/readyz", &[]).status(),
        503,
        "not ready while it stops"
    );
    assert_eq!(
        get(server.admin, "/healthz", &[]).status(),
        200,
        "healthy while it stops"
    );
    wait_until(|| match std::net::TcpStream::connect(server.objects) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("still accepts: {other:?}")),
    });
    assert!(!server.has_ended(), "a body is under way");
    assert_same(&busy.body(LARGE), &content, "the body under way");
    busy.expect_close();
    drop(busy);
    assert!(server.wait().success(), "{}", server.log());
    server.wait_for_log("stopped");
    assert!(!server.log().contains("cut off"), "{}", server.log());
}

fn the_deadline_cuts_the_rest(io: Backend) {
    let (_stores, mut server, content) = served_large(io, &["--drain-timeout", "300ms"]);
    let (mut clients, _) = stall(&server, 5, PATH);
    server.signal("INT");
    assert!(server.wait().success(), "{}", server.log());
    server.wait_for_log("cut off");
    for client in &mut clients {
        let (bytes, end) = client.until_end();
        assert_eq!(end, End::Reset, "a cut body must not look whole");
        assert!(bytes.len() < LARGE);
        assert_same(&bytes, &content[..bytes.len()], "until the cut");
    }
}

fn a_second_signal_ends_it_now(io: Backend) {
    let (_stores, mut server, content) = served_large(io, &["--drain-timeout", "24h"]);
    let (mut clients, _) = stall(&server, 2, PATH);
    server.signal("TERM");
    server.wait_for_log("stopping");
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.log());
    server.wait_for_log("second signal");
    for client in &mut clients {
        let (bytes, end) = client.until_end();
        assert_eq!(end, End::Reset, "a cut body must not look whole");
        assert_same(&bytes, &content[..bytes.len()], "until the cut");
    }
}
