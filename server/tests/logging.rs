//! No reader of the log may hold up or end a server: lines that can't be written are dropped and counted.

mod common;

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
    let metrics = get(server.admin, "/metrics", &[]);
    let line = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("penstock_log_lines_dropped_total "));
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

/// A key with a space once forged a field of a log line, and one with U+202E turned the line round.
fn a_key_in_the_log_is_one_value(io: Backend) {
    let stores = Stores::new(4);
    let key = "a status=200 \u{202e}b";
    stores.put(key, &mut &b"bytes"[..], 4, 4096);
    let server = Server::start(&stores, io, &[]);
    stores.remove_store(3);
    let path = "/a%20status=200%20%E2%80%AEb";
    assert_eq!(get(server.objects, path, &[]).status(), 500);
    server.wait_for_log("key=\"a status=200 \\u{202e}b\"");
    assert!(!server.log().contains('\u{202e}'), "{}", server.log());
}

on_both_backends! {
    a_key_in_the_log_is_one_value
    a_reader_that_is_gone_ends_no_request_and_no_drain
    a_reader_that_stalls_holds_up_no_request
}
