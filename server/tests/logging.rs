//! The log of a server. No reader of it may hold up or end a server: lines that can't be written are dropped and counted.
//! No failure floods it, and nobody who names an object can forge what it says.

mod common;

use std::time::Instant;

use common::*;

const OBJECTS: u64 = 40;

/// A server that logs a lot, of objects of which two of four shares are lost.
fn chatty(io: Backend, reader: LogReader) -> (Stores, Server) {
    let stores = Stores::new(4);
    for number in 0..OBJECTS {
        let content = Noise::new(number).bytes(10_000);
        stores.put(&number.to_string(), &mut &content[..], 2, 16 << 10);
    }
    let mut command = Server::command(&stores, io, &["--cores", "1"]);
    command.env("RUST_LOG", "debug");
    let server = Server::launch_with(command, reader).expect("the server starts");
    stores.remove_store(0);
    stores.remove_store(1);
    (stores, server)
}

/// Every object is served, whatever becomes of the log.
fn all_are_served(server: &Server) {
    for number in 0..OBJECTS {
        let response = get(server.objects, &format!("/{number}"), &[]);
        assert_eq!(response.status(), 200, "object {number}");
        let expected = Noise::new(number).bytes(10_000);
        assert_same(&response.body, &expected, "the object");
    }
}

fn dropped_lines(server: &Server) -> u64 {
    metric(server, "penstock_log_lines_dropped_total ")
}

fn metric(server: &Server, name: &str) -> u64 {
    let metrics = get(server.admin, "/metrics", &[]);
    let line = metrics.text().lines().find_map(|l| l.strip_prefix(name));
    line.expect("the metric is there").parse().unwrap()
}

fn a_reader_that_is_gone_ends_no_request_and_no_drain(io: Backend) {
    let (_stores, mut server) = chatty(io, LogReader::Gone);
    all_are_served(&server);
    assert!(dropped_lines(&server) > 0, "lines that nobody reads count");
    server.signal("TERM");
    assert!(server.wait().success(), "it drains and ends as ever");
}

fn a_reader_that_stalls_holds_up_no_request(io: Backend) {
    let (_stores, mut server) = chatty(io, LogReader::Stalls);
    all_are_served(&server);
    // More lines than a pipe and the queue hold: one for each connection.
    wait_until(|| {
        together(8, |_| {
            (0..50).for_each(|_| drop(get(server.objects, "/none", &[])))
        });
        all_are_served(&server);
        match dropped_lines(&server) {
            0 => Err("no line was dropped".to_owned()),
            _ => Ok(()),
        }
    });
    server.signal("TERM");
    assert!(server.wait().success(), "it drains and ends as ever");
}

/// Stores of 2+2 shares that are all too short for their headers but one.
fn broken(keys: impl Iterator<Item = String>) -> Stores {
    let stores = Stores::new(4);
    for key in keys {
        stores.put(&key, &mut &Noise::new(1).bytes(10_000)[..], 2, 16 << 10);
        (0..3).for_each(|store| stores.truncate(&key, store, 5000));
    }
    stores
}

/// The server's log once it is quiet: what is queued is written by a thread.
fn whole_log(server: &Server) -> String {
    let mut before = server.log();
    wait_until(|| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = server.log();
        let same = now == before;
        before = now;
        same.then_some(()).ok_or_else(|| "it goes on".to_owned())
    });
    before
}

/// 20,000 requests for one broken object gave 20,000 lines and more.
fn a_broken_object_gives_a_handful_of_lines(io: Backend) {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 250;
    let stores = broken(["object".to_owned()].into_iter());
    let started = Instant::now();
    let server = Server::start(&stores, io, &[]);
    let at_start = whole_log(&server).lines().count() as u64;
    let failures = together(CLIENTS, |_| {
        let mut client = Client::connect(server.objects);
        let statuses = (0..REQUESTS).map(|_| client.request("GET", "/object", &[]).status());
        statuses.filter(|&status| status == 500).count() as u64
    });
    let failures: u64 = failures.iter().sum();
    let lines = whole_log(&server).lines().count() as u64 - at_start;
    let minutes = 1 + started.elapsed().as_secs() / 60;
    assert!(lines > 0, "nothing is said");
    // Of each share, and of the object.
    assert!(lines <= 6 * minutes, "{lines} lines:\n{}", server.log());
    // Every look-up has as much to say as the first one: what was not written is counted.
    let left_out = metric(&server, "penstock_log_lines_left_out_total ");
    assert_eq!(dropped_lines(&server), 0);
    println!("{failures} failures, {lines} lines, {left_out} left out");
    assert!(failures > 0 && lines + left_out >= failures);
    assert_eq!((lines + left_out) % failures, 0);
}

/// 700 small objects in two lost stores gave 34 GB a day.
fn many_broken_objects_stay_within_the_bound(io: Backend) {
    const OBJECTS: usize = 150;
    let stores = broken((0..OBJECTS).map(|number| number.to_string()));
    let started = Instant::now();
    let server = Server::start(&stores, io, &["--cores", "1"]);
    let at_start = whole_log(&server).lines().count() as u64;
    let mut client = Client::connect(server.objects);
    for _ in 0..3 {
        for number in 0..OBJECTS {
            let answer = client.request("GET", &format!("/{number}"), &[]);
            assert_eq!(answer.status(), 500);
        }
    }
    let lines = whole_log(&server).lines().count() as u64 - at_start;
    let minutes = 1 + started.elapsed().as_secs() / 60;
    // Two places in the source have something to say: of the shares, and of the object.
    assert!(lines <= 2 * 60 * minutes, "{lines} lines");
    assert!(lines >= 60, "{lines} lines");
    assert!(metric(&server, "penstock_log_lines_left_out_total ") > 0);
}

/// Two lost stores gave two lines for each key that doesn't exist.
fn keys_that_do_not_exist_give_no_lines(io: Backend) {
    let stores = Stores::new(6);
    stores.put("object", &mut &Noise::new(1).bytes(10_000)[..], 4, 16 << 10);
    let server = Server::start(&stores, io, &[]);
    let ask = |name: &str| {
        let mut client = Client::connect(server.objects);
        for number in 0..200 {
            let answer = client.request("GET", &format!("/{name}/{number}"), &[]);
            assert_eq!(answer.status(), 404);
        }
    };
    let before = whole_log(&server);
    ask("none");
    assert_eq!(whole_log(&server), before);
    for store in [1, 4] {
        stores.remove_store(store);
    }
    // It is said once of each store, whenever it is seen.
    ask("none-either");
    let log = whole_log(&server);
    let said = &log[before.len()..];
    for store in [1, 4] {
        let path = stores.paths[store].to_str().unwrap();
        let lines = said.lines().filter(|line| line.contains(path)).count();
        assert_eq!(lines, 1, "{said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// Whoever puts an object chooses its key.
fn a_key_forges_no_field_and_no_line(io: Backend) {
    const KEYS: [&str; 4] = [
        "a path=%2Fetc%2Fpasswd live=6",
        "a\" path=\"/etc\" live=\"6",
        "gpj.\u{202e}exe\u{2066} live=6",
        "a\\\" live=6",
    ];
    let stores = broken(KEYS.iter().map(|key| key.to_string()));
    let server = Server::start(&stores, io, &["--cores", "1"]);
    for key in KEYS {
        let hex = |byte: u8| format!("%{byte:02x}");
        let path: String = key.bytes().map(hex).collect();
        let answer = get(server.objects, &format!("/{path}"), &[]);
        assert_eq!(answer.status(), 500, "{key:?}");
    }
    let log = whole_log(&server);
    for line in log.lines() {
        assert!(line.starts_with("20"), "a line of its own: {line:?}");
        assert!(
            !line.contains(['\u{202e}', '\u{2066}', '\u{1b}']),
            "{line:?}"
        );
        let bare = outside_quotes(line);
        assert!(
            !bare.contains("live=") && !bare.contains("path="),
            "{bare:?} of {line:?}"
        );
    }
    assert!(
        log.contains(r#" key="a path=%2Fetc%2Fpasswd live=6""#),
        "{log}"
    );
}

/// What is not between quotes, of which a backslash before one makes none.
fn outside_quotes(line: &str) -> String {
    let (mut bare, mut inside, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            c if !inside => bare.push(c),
            _ => {}
        }
    }
    assert!(!inside, "a quote without an end: {line:?}");
    bare
}

/// A key with a space once forged a field of a log line, and one with U+202E turned the line round.
fn a_key_in_the_log_is_one_value(io: Backend) {
    let stores = Stores::new(4);
    let key = "a status=200 \u{202e}b";
    stores.put(key, &mut &b"bytes"[..], 4, 4096);
    let server = Server::start(&stores, io, &[]);
    stores.remove_store(3);
    let path = "/a%20status=200%20%E2%80%AEb";
    assert_eq!(get(server.objects, path, &[]).status(), 503);
    server.wait_for_log("key=\"a status=200 \\u{202e}b\"");
    assert!(!server.log().contains('\u{202e}'), "{}", server.log());
}

on_both_backends! {
    a_broken_object_gives_a_handful_of_lines
    many_broken_objects_stay_within_the_bound
    keys_that_do_not_exist_give_no_lines
    a_key_forges_no_field_and_no_line
    a_key_in_the_log_is_one_value
    a_reader_that_is_gone_ends_no_request_and_no_drain
    a_reader_that_stalls_holds_up_no_request
}
