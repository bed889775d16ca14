//! Rebuilt blocks: what several clients of a degraded object want is rebuilt once, and what is kept is right.

mod common;

use std::fs;

use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, number, together,
    wait_until,
};

on_both_backends! {
    what_the_first_had_rebuilt_the_others_are_sent
    clients_of_all_kinds_while_blocks_come_and_go
    slow_clients_are_sent_what_is_kept
    small_send_buffers_share_what_is_rebuilt
    one_client_has_nothing_kept
    none_is_kept_where_none_is_to_be
    it_is_let_go_after_the_verification_age
    a_repaired_share_is_used_again
}

const BLOCK: usize = 16 << 10;
const SEGMENT: usize = 4 * BLOCK;
/// Whole segments, and an end that fills no leaf: its blocks are too short to be kept.
const WHOLE: usize = 96 * SEGMENT;
const SIZE: usize = WHOLE + 1234;

/// An object of which some data shares are lost, and a server with one core, so that every request meets what the ones
/// before left. It has so few connections that each has a send buffer of 64 KiB from the start. The kernel doubles that,
/// so it takes a response of one segment whole on every machine.
fn served(io: Backend, lost: &[usize], options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(21).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, BLOCK as u32);
    for &store in lost {
        stores.remove_store(store);
    }
    let options = [&["--cores", "1", "--max-connections", "100"], options].concat();
    let server = Server::start(&stores, io, &options);
    (stores, server, content)
}

fn whole(server: &Server, content: &[u8]) {
    let response = get(server.objects, PATH, &[]);
    assert_eq!(response.status(), 200);
    assert_same(&response.body, content, PATH);
}

fn part(client: &mut Client, content: &[u8], first: usize, last: usize) {
    let range = format!("Range: bytes={first}-{last}");
    let part = client.request("GET", PATH, &[&range]);
    assert_eq!(part.status(), 206);
    assert_same(&part.body, &content[first..=last], &range);
}

/// One client that asks for all whole segments, one by one.
fn segment_by_segment(server: &Server, content: &[u8]) {
    let mut client = Client::connect(server.objects);
    for first in (0..WHOLE).step_by(SEGMENT) {
        part(&mut client, content, first, first + SEGMENT - 1);
    }
}

/// Bytes rebuilt, and bytes sent of what was kept.
fn counters(server: &Server) -> [u64; 2] {
    let status = server.status();
    ["rebuilt_bytes", "rebuilt_sent_bytes"].map(|name| number(&status, &["totals", name]))
}

fn since(server: &Server, before: [u64; 2]) -> [u64; 2] {
    let after = counters(server);
    [after[0] - before[0], after[1] - before[1]]
}

/// The gauge is set at every tick, and a status takes a tick: the second status has it as it is now.
fn nothing_is_kept(server: &Server) {
    for _ in 0..2 {
        assert_eq!(server.total("rebuilt_memory_bytes"), 0);
    }
}

/// Bytes of this many lost shares in the whole segments.
fn bytes_of(lost: usize) -> u64 {
    (WHOLE / 4 * lost) as u64
}

/// Requests all segments until nothing is rebuilt any more. Then all blocks of the lost shares are kept, and sent from
/// there. The files of the other shares must have rested for a moment: until then their blocks are read, and the lost
/// ones between them are rebuilt.
fn until_kept(server: &Server, content: &[u8], lost: usize) {
    wait_until(|| {
        let before = counters(server);
        segment_by_segment(server, content);
        match since(server, before) {
            [0, sent] => {
                assert_eq!(sent, bytes_of(lost));
                Ok(())
            }
            [some, _] => Err(format!("{some} bytes were rebuilt again")),
        }
    });
}

/// Fails if blocks are kept for the first client, if they are never kept, and if what is kept is not all that clients
/// are sent.
fn what_the_first_had_rebuilt_the_others_are_sent(io: Backend) {
    // Once with the lost blocks together, once with one between others: both are what clients are sent in turn.
    for lost in [[0, 1], [1, 3]] {
        let (_stores, server, content) = served(io, &lost, &[]);
        segment_by_segment(&server, &content);
        assert_eq!(counters(&server), [bytes_of(2), 0]);
        nothing_is_kept(&server);
        until_kept(&server, &content, 2);
        // The same blocks for a client of the whole, wherever its pieces begin and end.
        let before = counters(&server);
        whole(&server, &content);
        let [_, sent] = since(&server, before);
        assert_eq!(sent, bytes_of(2));
        server.wait_for_status("the memory is shown", |status| {
            status["totals"]["rebuilt_memory_bytes"].as_u64() >= Some(bytes_of(2))
        });
    }
}

fn clients_of_all_kinds_while_blocks_come_and_go(io: Backend) {
    // Lost shares among others, and room for a part of what is rebuilt.
    let stores = Stores::new(14);
    let content = Noise::new(22).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 10, 16 << 10);
    for store in [0, 2, 3, 9] {
        stores.remove_store(store);
    }
    let options = ["--cores", "1", "--rebuilt-blocks", "2MiB"];
    let server = Server::start(&stores, io, &options);
    together(8, |number| {
        let noise = Noise::new(100 + number as u64).bytes(16 * 40);
        // Through a small window shorter ranges.
        let (mut client, most) = match number % 2 {
            0 => (Client::connect(server.objects), 1 << 20),
            _ => (Client::connect_small(server.objects), 1 << 17),
        };
        for draw in noise.chunks(16) {
            let at = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) as usize;
            // Near each other, so that they meet.
            let first = at(&draw[..8]) % SIZE;
            let last = (first + at(&draw[8..]) % most).min(SIZE - 1);
            part(&mut client, &content, first, last);
        }
        whole(&server, &content);
    });
    // Whether those clients shared a block depends on the machine. These two do.
    wait_until(|| {
        let before = counters(&server);
        for _ in 0..2 {
            part(&mut Client::connect(server.objects), &content, 0, 1 << 20);
        }
        match since(&server, before) {
            [_, 0] => Err("what was rebuilt is not kept".to_owned()),
            _ => Ok(()),
        }
    });
    assert!(server.total("rebuilt_memory_bytes") <= 2 << 20);
    assert_eq!(server.total("failed_leaves"), 0);
}

/// Fails if a piece that ends inside a kept block has that block rebuilt.
fn slow_clients_are_sent_what_is_kept(io: Backend) {
    let (_stores, server, content) = served(io, &[0, 2], &[]);
    until_kept(&server, &content, 2);
    let before = counters(&server);
    let mut slow = Client::connect_small(server.objects);
    // In the middle of a block, and far from the end, which is not kept.
    let first = WHOLE / 2 + 617;
    slow.ask("GET", PATH, &[&format!("Range: bytes={first}-")]);
    assert_eq!(slow.head().status, 206);
    let mut received = Vec::new();
    while received.len() < 1 << 20 {
        received.extend(slow.body(3000));
    }
    assert_same(
        &received,
        &content[first..][..received.len()],
        "little by little",
    );
    let [rebuilt, sent] = since(&server, before);
    assert!(rebuilt == 0 && sent > 0, "{rebuilt} bytes, {sent} sent");
}

/// Only whole blocks used to be kept. Where credit is short every send buffer is small, and no piece had a whole block:
/// each client had everything rebuilt, just when the server was busiest.
fn small_send_buffers_share_what_is_rebuilt(io: Backend) {
    /// Far longer than what the smallest send buffer takes, 8 KiB.
    const LONG: usize = 64 << 10;
    const PART: usize = 4 * LONG;
    let stores = Stores::new(6);
    let content = Noise::new(24).bytes(16 * PART);
    stores.put(KEY, &mut &content[..], 4, LONG as u32);
    stores.remove_store(0);
    stores.remove_store(2);
    let options = [
        "--cores",
        "1",
        "--memory",
        "128MiB",
        "--max-connections",
        "2000",
    ];
    let small = ["--send-buffer-max", "4KiB", "--rebuilt-blocks", "8MiB"];
    let server = Server::start(&stores, io, &[&options[..], &small].concat());
    let mut clients = [(); 2].map(|()| Client::connect(server.objects));
    // The first of them a part ahead.
    wait_until(|| {
        let before = counters(&server);
        for first in (0..content.len()).step_by(PART) {
            for client in &mut clients {
                part(client, &content, first, first + PART - 1);
            }
        }
        match since(&server, before) {
            [0, sent] => {
                assert_eq!(sent, content.len() as u64);
                Ok(())
            }
            [some, sent] => Err(format!("{some} bytes were rebuilt, {sent} sent again")),
        }
    });
}

/// Fails if blocks are kept for one client alone, or if more is remembered than there is room for.
fn one_client_has_nothing_kept(io: Backend) {
    // More is rebuilt of the object than there is room for.
    let options = ["--rebuilt-blocks", "2MiB"];
    let (_stores, server, content) = served(io, &[0, 1], &options);
    // Whoever comes later, but not at the same time, finds nothing.
    for round in 1..=2 {
        segment_by_segment(&server, &content);
        assert_eq!(counters(&server), [round * bytes_of(2), 0]);
        nothing_is_kept(&server);
    }
}

fn none_is_kept_where_none_is_to_be(io: Backend) {
    for options in [["--verify", "always"], ["--rebuilt-blocks", "0"]] {
        let (_stores, server, content) = served(io, &[0, 1], &options);
        for _ in 0..4 {
            whole(&server, &content);
        }
        let totals = ["rebuilt_sent_bytes", "rebuilt_memory_bytes"].map(|name| server.total(name));
        assert_eq!(totals, [0, 0], "{options:?}");
        assert!(server.total("rebuilt_bytes") >= 2 * content.len() as u64);
    }
}

/// Fails if blocks are kept for ever. A unit test says when they go.
fn it_is_let_go_after_the_verification_age(io: Backend) {
    let (_stores, server, content) = served(io, &[0, 1], &["--verify-age", "1s"]);
    let grows = |counter: usize| {
        wait_until(|| {
            let before = counters(&server);
            for _ in 0..3 {
                // A lost block alone. No leaf of another share is needed, whose verification could be too old.
                part(&mut Client::connect(server.objects), &content, 0, BLOCK - 1);
            }
            match since(&server, before)[counter] {
                0 => Err(format!("counter {counter} does not grow")),
                _ => Ok(()),
            }
        });
    };
    for _ in 0..2 {
        grows(1);
        grows(0);
    }
}

fn a_repaired_share_is_used_again(io: Backend) {
    let stores = Stores::new(6);
    let content = Noise::new(23).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, BLOCK as u32);
    let away = stores.file("away");
    let share = stores.share(KEY, 1);
    fs::rename(&share, &away).unwrap();
    let options = ["--cores", "1", "--max-connections", "100"];
    let server = Server::start(&stores, io, &options);
    until_kept(&server, &content, 1);
    fs::rename(&away, &share).unwrap();
    wait_until(|| {
        let before = counters(&server);
        whole(&server, &content);
        (since(&server, before) == [0, 0])
            .then_some(())
            .ok_or("the share is taken to be lost".to_owned())
    });
}
