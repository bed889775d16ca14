//! What clients of TLS do wrong below HTTP, byte by byte: each gets its alert, and nothing of it is held.

mod common;

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;

use common::client::End;
use common::secure::{
    Identity, Sealer, config, config_of, connect, hello, nothing_is_left, raw, serve, session_named,
};
use common::{BLOCK, Backend, Client, KEY, PATH, Server, Stores, number};
use rustls::version::{TLS12, TLS13};

on_both_backends! {
    what_is_no_record
    handshakes_that_end_early
    a_handshake_whose_client_takes_nothing
    a_second_flight_that_is_cut
    first_flights_that_are_wrong
    data_before_the_handshake_is_done
    no_second_handshake
    records_that_carry_nothing
    keys_that_change_all_the_time
    sealed_records_that_are_wrong
}

/// Stores with a small object.
fn stores() -> (Stores, Vec<u8>) {
    let stores = Stores::new(6);
    let content = b"some content".to_vec();
    stores.put(KEY, &mut &content[..], 4, BLOCK);
    (stores, content)
}

/// As [`nothing_is_left`], nor is any memory lent.
fn nothing_is_held(server: &Server) {
    nothing_is_left(server);
    let lent = number(&server.status(), &["memory", "memory_credit_lent_bytes"]);
    assert_eq!(lent, 0);
}

/// The alert that a client is told in clear, and nothing else.
fn alert(said: &[u8]) -> u8 {
    match *said {
        [21, 3, _, 0, 2, 2, alert] => alert,
        _ => panic!("no alert: {said:?}"),
    }
}

/// Sends raw bytes to a client's session, whose server must answer them with this alert.
#[track_caller]
fn expect_alert(client: &mut Client, bytes: &[u8], alert: &str) {
    // The server may have closed before all of them were sent.
    let _ = client.send_raw(bytes);
    let error = client.try_body(1).expect_err("an end").to_string();
    assert!(error.contains(alert), "{error}, not {alert}");
}

fn what_is_no_record(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let too_long = [22, 3, 1, 0xff, 0xff];
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        &too_long,
        &[0; 600],
    ] {
        let mut client = raw(&server);
        client.send_raw(garbage).unwrap();
        let (said, end) = client.raw_until_end();
        assert_eq!(said.first(), Some(&21), "an alert: {said:?}");
        assert_eq!(said.len(), 7, "{said:?}");
        assert_eq!(end, End::Closed);
    }
    let config = Arc::new(config(&[identity]));
    for (record, alert) in [
        (&[23, 3, 3, 0xff, 0xff][..], "RecordOverflow"),
        (b"GET / HTTP/1.1\r\n", "DecodeError"),
        // Not sealed by any key of this session.
        (
            &[
                23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
                20,
            ],
            "BadRecordMac",
        ),
        (&[23, 3, 3, 0, 0], "BadRecordMac"),
        (&[22, 3, 3, 0, 1, 0], "UnexpectedMessage"),
    ] {
        let mut client = connect(&server, "localhost", &config);
        client.expect_open(PATH);
        client.send_raw(record).unwrap();
        let error = client.try_body(1).expect_err("an end").to_string();
        assert!(error.contains(alert), "{error}, not {alert}");
    }
    nothing_is_left(&server);
}

fn handshakes_that_end_early(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &["--head-timeout", "1s"]);
    let hello = hello(&Arc::new(config(&[identity])));
    for sent in [1, 5, hello.len() / 2, hello.len() - 1, hello.len()] {
        let mut gone = raw(&server);
        gone.send_raw(&hello[..sent]).unwrap();
        drop(gone);

        let mut finished = raw(&server);
        finished.send_raw(&hello[..sent]).unwrap();
        finished.finish();
        finished.raw_until_end();

        // It is ended by the time for a head.
        let mut waits = raw(&server);
        waits.send_raw(&hello[..sent]).unwrap();
        waits.raw_until_end();
    }
    nothing_is_left(&server);
    assert_eq!(server.total("tls_handshakes"), 0);
}

fn no_second_handshake(io: Backend) {
    let Some(mut openssl) = common::openssl() else {
        return;
    };
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    openssl.args(["s_client", "-tls1_2", "-connect"]);
    openssl.arg(server.secured.unwrap().to_string());
    openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = openssl.spawn().unwrap();
    // Its command for another handshake. It ends by itself when it is told that there is none.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"R\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        said.contains("no renegotiation") || said.contains("no_renegotiation"),
        "{said}"
    );
    nothing_is_left(&server);
}

/// A client that takes nothing held its place among the handshakes for ever: where the server's messages are more than the
/// sockets hold, the server waited for room, and the end of the time for a head woke only those that wait for bytes.
fn a_handshake_whose_client_takes_nothing(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    // The memory is for so many clients that each has small buffers.
    let options = ["--memory", "256MiB", "--head-timeout", "1s"];
    let chain = Identity::chain_of(identity, 400);
    let server = serve(&stores, io, &[&chain], &options);
    let address = server.secured.unwrap();
    let hello = hello(&Arc::new(config(&[identity])));
    let clients: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect_plain_with(address, 4096);
            client.send_raw(&hello).unwrap();
            client
        })
        .collect();
    server.wait_for_status("all have begun", |status| {
        status["totals"]["accepted_connections"] == 3
    });
    nothing_is_held(&server);
    assert_eq!(server.total("tls_handshakes_failed"), 3);
    assert_eq!(server.total("timed_out_connections"), 3);
    drop(clients);
}

/// What a client says behind the server's first messages, as far as it gets.
fn a_second_flight_that_is_cut(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(config_of(&[identity], &[version], &[]));
        for cut in [true, false] {
            let mut client = raw(&server);
            let mut session = session_named("localhost", &config);
            let mut flight = Vec::new();
            session.write_tls(&mut flight).unwrap();
            client.send_raw(&flight).unwrap();
            flight.clear();
            while flight.is_empty() {
                client.read_raw(&mut session).unwrap();
                session.process_new_packets().unwrap();
                while session.wants_write() {
                    session.write_tls(&mut flight).unwrap();
                }
            }
            let (first, last) = flight.split_at(flight.len() - 1);
            client.send_raw(first).unwrap();
            if cut {
                client.finish();
                assert_ne!(client.raw_until_end().0.first(), Some(&23), "no content");
                continue;
            }
            // The rest comes with another byte, which no key of this session has sealed.
            client.send_raw(&[last[0] ^ 1]).unwrap();
            client.finish();
            let (said, _) = client.raw_until_end();
            let ends_with_alert = said.len() >= 7 && [21, 23].contains(&said[0]);
            assert!(ends_with_alert, "{said:?}");
        }
        let mut client = connect(&server, "localhost", &config);
        assert_eq!(client.request("GET", PATH, &[]).body, content);
    }
    nothing_is_held(&server);
    assert_eq!(server.total("tls_handshakes"), 2);
    assert_eq!(server.total("tls_handshakes_failed"), 4);
}

/// A record of this kind, in clear.
fn plain(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[kind, 3, 1][..], &length, payload].concat()
}

fn first_flights_that_are_wrong(io: Backend) {
    const UNEXPECTED_MESSAGE: u8 = 10;
    const RECORD_OVERFLOW: u8 = 22;
    const DECODE_ERROR: u8 = 50;
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let hello = hello(&Arc::new(config(&[identity])));
    let message = &hello[5..];
    let in_pieces = |bytes: usize| -> Vec<u8> {
        let pieces = message.chunks(bytes).map(|piece| plain(22, piece));
        pieces.collect::<Vec<_>>().concat()
    };
    // A message may come in as many records as it has bytes.
    for bytes in [1, 7] {
        let mut client = raw(&server);
        client.send_raw(&in_pieces(bytes)).unwrap();
        client.finish();
        let (said, _) = client.raw_until_end();
        assert_eq!((said[0], said[5]), (22, 2), "a ServerHello: {said:?}");
    }
    for (what, bytes, wanted) in [
        (
            "a handshake record without content",
            plain(22, &[]),
            &[DECODE_ERROR, UNEXPECTED_MESSAGE][..],
        ),
        (
            "very many of them",
            plain(22, &[]).repeat(5000),
            &[DECODE_ERROR, UNEXPECTED_MESSAGE],
        ),
        (
            "one within a message",
            [
                plain(22, &message[..9]),
                plain(22, &[]),
                plain(22, &message[9..]),
            ]
            .concat(),
            &[DECODE_ERROR, UNEXPECTED_MESSAGE],
        ),
        (
            "an empty alert",
            plain(21, &[]),
            &[DECODE_ERROR, UNEXPECTED_MESSAGE],
        ),
        (
            "changes of ciphers",
            plain(20, &[1]).repeat(5000),
            &[UNEXPECTED_MESSAGE],
        ),
        (
            "a header of too much",
            vec![22, 3, 1, 0x48, 1],
            &[RECORD_OVERFLOW, DECODE_ERROR],
        ),
        (
            "a message of 16 MB",
            plain(22, &[1, 0xff, 0xff, 0xff]),
            &[DECODE_ERROR, UNEXPECTED_MESSAGE, RECORD_OVERFLOW, 47],
        ),
        (
            "content",
            plain(23, b"GET / HTTP/1.1"),
            &[UNEXPECTED_MESSAGE],
        ),
        (
            "a Finished",
            plain(22, &[20, 0, 0, 0]),
            &[UNEXPECTED_MESSAGE],
        ),
    ] {
        let mut client = raw(&server);
        // The server may have closed before all of it was sent.
        let _ = client.send_raw(&bytes);
        let _ = client.try_finish();
        let (said, end) = client.raw_until_end();
        if said.is_empty() {
            // What it had not read yet took the alert with it.
            assert_eq!(end, End::Reset, "{what}");
            continue;
        }
        assert!(wanted.contains(&alert(&said)), "{what}: {said:?}");
    }
    nothing_is_held(&server);
    assert_eq!(server.total("tls_handshakes"), 0);
}

/// A client that offers early data, which this server takes none of, and sends some.
fn data_before_the_handshake_is_done(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let config = config_of(&[identity], &[&TLS13], &[]);
    let mut hello = hello(&Arc::new(config));
    // Its extensions are its end. This one is of no bytes (RFC 8446 section 4.2.10).
    let session_id = 5 + 4 + 2 + 32;
    let suites = session_id + 1 + usize::from(hello[session_id]);
    let length_at =
        |at: usize, bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let compression = suites + 2 + length_at(suites, &hello);
    let extensions = compression + 1 + usize::from(hello[compression]);
    assert_eq!(extensions + 2 + length_at(extensions, &hello), hello.len());
    for at in [3, 7, extensions] {
        let length = (length_at(at, &hello) + 4) as u16;
        hello[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    hello.extend([0, 42, 0, 0]);
    for records in [0, 1, 200] {
        let mut client = raw(&server);
        let early = [&[23, 3, 3, 4, 0][..], &[7; 1024]].concat().repeat(records);
        let _ = client.send_raw(&[&hello[..], &early].concat());
        let _ = client.try_finish();
        // It is refused in the handshake, or its records are none of this session.
        client.raw_until_end();
    }
    nothing_is_held(&server);
    assert_eq!(server.total("tls_handshakes"), 0);
    assert_eq!(server.total("tls_handshakes_failed"), 3);
}

/// A request in a record.
fn request(sealer: &mut Sealer) -> Vec<u8> {
    let text = format!("HEAD {PATH} HTTP/1.1\r\nHost: h\r\n\r\n");
    sealer.seal(&[text.as_bytes(), &[23]].concat())
}

fn records_that_carry_nothing(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let empty = |sealer: &mut Sealer, count: usize, inner: &[u8]| -> Vec<u8> {
        (0..count).flat_map(|_| sealer.seal(inner)).collect()
    };
    // Padding is none.
    let padded = [&[23][..], &[0; 300]].concat();
    for inner in [&[23][..], &padded, &[1, 90, 21]] {
        let (mut client, mut sealer) = Sealer::connect(&server, identity);
        // Some are no harm, again and again.
        for _ in 0..3 {
            client.send_raw(&empty(&mut sealer, 32, inner)).unwrap();
            client.send_raw(&request(&mut sealer)).unwrap();
            assert_eq!(client.response("HEAD").status(), 200);
        }
        let flood = empty(&mut sealer, 2000, inner);
        expect_alert(&mut client, &flood, "UnexpectedMessage");
    }
    nothing_is_held(&server);
}

fn keys_that_change_all_the_time(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let updates = |sealer: &mut Sealer, count: usize, asks: bool| -> Vec<u8> {
        (0..count).flat_map(|_| sealer.update(asks)).collect()
    };
    for asks in [false, true] {
        let (mut client, mut sealer) = Sealer::connect(&server, identity);
        for _ in 0..3 {
            client.send_raw(&updates(&mut sealer, 32, asks)).unwrap();
            client.send_raw(&request(&mut sealer)).unwrap();
            assert_eq!(client.response("HEAD").status(), 200);
        }
        let flood = updates(&mut sealer, 2000, asks);
        expect_alert(&mut client, &flood, "UnexpectedMessage");
    }
    nothing_is_held(&server);
}

fn sealed_records_that_are_wrong(io: Backend) {
    const MOST: usize = 1 << 14;
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let content = |length: usize| [&vec![b'x'; length][..], &[23]].concat();
    for (inner, wanted) in [
        (content(MOST + 1), "RecordOverflow"),
        (content(MOST + 256 - 17), "RecordOverflow"),
        // No content has no kind.
        (vec![0; 50], "UnexpectedMessage"),
        // Messages that are none, or have no place behind the handshake: one of no bytes, a ClientHello, a certificate, a
        // change of ciphers, what no kind is for.
        (vec![22], "UnexpectedMessage"),
        (vec![1, 0, 0, 0, 22], "UnexpectedMessage"),
        (vec![11, 0, 0, 0, 22], "UnexpectedMessage"),
        (vec![1, 20], "UnexpectedMessage"),
        (vec![1, 99], "UnexpectedMessage"),
        // KeyUpdate in pieces, too long, two of them, or asking for what there is not.
        (vec![24, 0, 22], "DecodeError"),
        (vec![24, 0, 0, 2, 0, 0, 22], "DecodeError"),
        (vec![24, 0, 0, 1, 0, 24, 0, 0, 1, 0, 22], "DecodeError"),
        (vec![24, 0, 0, 1, 2, 22], "DecodeError"),
        // Half an alert.
        (vec![21], "DecodeError"),
        (vec![2, 21], "DecodeError"),
    ] {
        let (mut client, mut sealer) = Sealer::connect(&server, identity);
        expect_alert(&mut client, &sealer.seal(&inner), wanted);
    }
    // More than a record may have, by its header alone; in clear; sealed twice under one number.
    let (mut client, _) = Sealer::connect(&server, identity);
    expect_alert(&mut client, &[23, 3, 3, 0x41, 1], "RecordOverflow");
    let (mut client, _) = Sealer::connect(&server, identity);
    expect_alert(&mut client, &plain(20, &[1]), "UnexpectedMessage");
    let (mut client, mut sealer) = Sealer::connect(&server, identity);
    let once = request(&mut sealer);
    client.send_raw(&once).unwrap();
    assert_eq!(client.response("HEAD").status(), 200);
    expect_alert(&mut client, &once, "BadRecordMac");
    nothing_is_held(&server);
}
