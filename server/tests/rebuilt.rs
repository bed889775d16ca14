//! Rebuilt blocks: what several clients of a degraded object want is rebuilt once, and what is kept is right.

mod common;

use std::fs;

use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, together, wait_until,
};

on_both_backends! {
    what_the_first_had_rebuilt_the_others_are_sent
    clients_of_all_kinds_while_blocks_come_and_go
    slow_clients_are_sent_what_is_kept
    one_client_has_nothing_kept
    none_is_kept_where_none_is_to_be
    it_is_let_go_after_the_verification_age
    a_repaired_share_is_used_again
}

/// With an end that fills no leaf.
const SIZE: usize = (6 << 20) + 1234;
/// What one client alone may be sent of kept blocks: where its socket did not take all of a block, it wants it twice.
const OWN: u64 = 512 << 10;

/// An object of which some data shares are lost, and a server with one core, so that every request meets what the ones
/// before left.
fn served(io: Backend, lost: &[usize], options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(21).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, 16 << 10);
    for &store in lost {
        stores.remove_store(store);
    }
    let options = [&["--cores", "1"], options].concat();
    let server = Server::start(&stores, io, &options);
    (stores, server, content)
}

fn whole(server: &Server, content: &[u8]) {
    let response = get(server.objects, PATH, &[]);
    assert_eq!(response.status(), 200);
    assert_same(&response.body, content, PATH);
}

fn what_the_first_had_rebuilt_the_others_are_sent(io: Backend) {
    // Once with the lost blocks together, once with one between others: both are what clients are sent in turn.
    for lost in [[0, 1], [1, 3]] {
        let (_stores, server, content) = served(io, &lost, &[]);
        whole(&server, &content);
        let first = server.total("rebuilt_bytes");
        assert!(first >= content.len() as u64 / 2);
        let sent = server.total("rebuilt_sent_bytes");
        assert!(sent <= OWN, "{sent}: nobody else came");
        whole(&server, &content);
        let second = server.total("rebuilt_bytes");
        for _ in 0..3 {
            whole(&server, &content);
        }
        let after = server.total("rebuilt_bytes");
        // A response begins with pieces shorter than a block, which are not kept.
        assert!(after - second <= 3 * (1 << 20), "{}", after - second);
        let sent = server.total("rebuilt_sent_bytes");
        assert!(sent >= 3 * (first - (1 << 20)), "{sent} of {first}");
        server.wait_for_status("the memory is shown", |status| {
            status["totals"]["rebuilt_memory_bytes"].as_u64() >= Some(first / 2)
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
        let mut client = match number % 2 {
            0 => Client::connect(server.objects),
            _ => Client::connect_small(server.objects),
        };
        for draw in noise.chunks(16) {
            let at = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) as usize;
            // Near each other, so that they meet.
            let first = at(&draw[..8]) % SIZE;
            let last = (first + at(&draw[8..]) % (1 << 20)).min(SIZE - 1);
            let range = format!("Range: bytes={first}-{last}");
            let part = client.request("GET", PATH, &[&range]);
            assert_eq!(part.status(), 206);
            assert_same(&part.body, &content[first..=last], &range);
        }
        whole(&server, &content);
    });
    assert!(server.total("rebuilt_sent_bytes") > 0, "they met");
    assert!(server.total("rebuilt_memory_bytes") <= 2 << 20);
    assert_eq!(server.total("failed_leaves"), 0);
}

fn slow_clients_are_sent_what_is_kept(io: Backend) {
    let (_stores, server, content) = served(io, &[0, 2], &[]);
    for _ in 0..3 {
        whole(&server, &content);
    }
    let before = server.total("rebuilt_bytes");
    let mut slow = Client::connect_small(server.objects);
    // From a place that is surely kept.
    let first = content.len() / 2;
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
    assert_eq!(server.total("rebuilt_bytes"), before, "nothing was rebuilt");
}

fn one_client_has_nothing_kept(io: Backend) {
    // More is rebuilt of the object than there is room for.
    let options = ["--rebuilt-blocks", "2MiB"];
    let (_stores, server, content) = served(io, &[0, 1], &options);
    // Whoever comes later, but not at the same time, finds nothing.
    let mut client = Client::connect(server.objects);
    let body = client.request("GET", PATH, &[]).body;
    assert_same(&body, &content, PATH);
    let body = client.request("GET", PATH, &[]).body;
    assert_same(&body, &content, PATH);
    let sent = server.total("rebuilt_sent_bytes");
    assert!(sent <= OWN, "{sent}");
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

fn it_is_let_go_after_the_verification_age(io: Backend) {
    let (_stores, server, content) = served(io, &[0, 1], &["--verify-age", "500ms"]);
    for _ in 0..3 {
        whole(&server, &content);
    }
    let before = server.total("rebuilt_bytes");
    wait_until(|| {
        whole(&server, &content);
        match server.total("rebuilt_bytes") - before {
            some if some >= content.len() as u64 / 4 => Ok(()),
            _ => Err("what was kept is still used".to_owned()),
        }
    });
}

fn a_repaired_share_is_used_again(io: Backend) {
    let stores = Stores::new(6);
    let content = Noise::new(23).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, 16 << 10);
    let away = stores.file("away");
    let share = stores.share(KEY, 1);
    fs::rename(&share, &away).unwrap();
    let server = Server::start(&stores, io, &["--cores", "1"]);
    for _ in 0..3 {
        whole(&server, &content);
    }
    assert!(server.total("rebuilt_sent_bytes") > 0);
    fs::rename(&away, &share).unwrap();
    wait_until(|| {
        let before = ["rebuilt_bytes", "rebuilt_sent_bytes"].map(|name| server.total(name));
        whole(&server, &content);
        let after = ["rebuilt_bytes", "rebuilt_sent_bytes"].map(|name| server.total(name));
        (before == after)
            .then_some(())
            .ok_or("the share is taken to be lost".to_owned())
    });
}
