//! Hot objects: small objects that were requested twice are sent from memory, but only while they are current.

mod common;

use std::fs;

use common::stores::flip;
use common::{Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, wait_until};
use decode_kernel::share::BLOCKS_OFFSET;
use penstock::memory::limits::HOT_OBJECT_BYTES_MAX;

on_both_backends! {
    the_third_get_reads_nothing
    ranges_and_clients_of_all_kinds
    larger_objects_are_not_kept
    degraded_objects_are_kept_as_well
    nothing_is_kept_when_hot_objects_are_off
    a_new_put_and_a_removal_are_noticed
    a_hot_object_is_dropped_after_the_verification_age
    many_objects_take_no_more_than_planned
}

/// One core, so that every request finds the state that earlier requests left.
fn served(io: Backend, length: usize, options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(3).bytes(length);
    stores.put(KEY, &mut &content[..], 4, 16 << 10);
    let options = [&["--cores", "1"], options].concat();
    let server = Server::start(&stores, io, &options);
    (stores, server, content)
}

fn whole(server: &Server, path: &str, content: &[u8]) {
    let response = get(server.objects, path, &[]);
    assert_eq!(response.status(), 200, "{path}");
    assert_same(&response.body, content, path);
}

const COUNTERS: [&str; 3] = ["hot_sent_bytes", "data_read_bytes", "verified_leaves"];

fn counters(server: &Server) -> [u64; 3] {
    COUNTERS.map(|name| server.total(name))
}

fn the_third_get_reads_nothing(io: Backend) {
    let (_stores, server, content) = served(io, 16 << 10, &[]);
    for _ in 0..2 {
        whole(&server, PATH, &content);
        assert_eq!(server.total("hot_sent_bytes"), 0);
    }
    let before = counters(&server);
    for _ in 0..5 {
        whole(&server, PATH, &content);
    }
    let after = counters(&server);
    assert_eq!(after[0], 5 * content.len() as u64);
    assert_eq!(after[1..], before[1..], "nothing was read or verified");
    server.wait_for_status("the memory is shown", |status| {
        status["totals"]["hot_memory_bytes"] == content.len()
    });
}

fn ranges_and_clients_of_all_kinds(io: Backend) {
    // The object's end does not fill a leaf.
    let (_stores, server, content) = served(io, HOT_OBJECT_BYTES_MAX as usize - 77, &[]);
    // A new connection takes the object in pieces.
    for _ in 0..2 {
        whole(&server, PATH, &content);
    }
    let before = counters(&server);
    assert_eq!(before[0], 0);
    whole(&server, PATH, &content);
    let mut client = Client::connect(server.objects);
    let last = content.len() - 1;
    for (first, last) in [
        (0, 0),
        (0, last),
        (1, last - 1),
        (4095, 4096),
        (40_000, 50_000),
        (last, last),
    ] {
        let range = format!("Range: bytes={first}-{last}");
        let part = client.request("GET", PATH, &[&range]);
        assert_eq!(part.status(), 206);
        assert_same(&part.body, &content[first..=last], &range);
    }
    assert_eq!(client.request("HEAD", PATH, &[]).body.len(), 0);
    let etag = client
        .request("HEAD", PATH, &[])
        .field("etag")
        .map(str::to_owned);
    let condition = format!("If-None-Match: {}", etag.unwrap());
    assert_eq!(client.request("GET", PATH, &[&condition]).status(), 304);
    // A slow client takes few bytes at a time. Bytes that it was not sent yet are not read again.
    let mut slow = Client::connect_small(server.objects);
    slow.ask("GET", PATH, &[]);
    assert_eq!(slow.head().length(), content.len() as u64);
    let mut received = Vec::new();
    while received.len() < content.len() {
        let step = 1000.min(content.len() - received.len());
        received.extend(slow.body(step));
    }
    assert_same(&received, &content, "little by little");
    assert_eq!(
        counters(&server)[1..],
        before[1..],
        "nothing was read or verified"
    );
}

fn larger_objects_are_not_kept(io: Backend) {
    let (_stores, server, content) = served(io, HOT_OBJECT_BYTES_MAX as usize + 1, &[]);
    for _ in 0..5 {
        whole(&server, PATH, &content);
    }
    assert_eq!(server.total("hot_sent_bytes"), 0);
}

fn degraded_objects_are_kept_as_well(io: Backend) {
    // Ten blocks that don't divide the object, four of them lost.
    let stores = Stores::new(14);
    let content = Noise::new(4).bytes(16 << 10);
    stores.put(KEY, &mut &content[..], 10, 16 << 10);
    for store in [0, 3, 4, 9] {
        stores.remove_store(store);
    }
    let server = Server::start(&stores, io, &["--cores", "1"]);
    for _ in 0..2 {
        whole(&server, PATH, &content);
    }
    // How many depends on how the body was cut into pieces.
    let rebuilt = server.total("rebuilt_segments");
    assert!(rebuilt > 0);
    whole(&server, PATH, &content);
    assert_eq!(server.total("hot_sent_bytes"), content.len() as u64);
    assert_eq!(server.total("rebuilt_segments"), rebuilt);
}

fn nothing_is_kept_when_hot_objects_are_off(io: Backend) {
    for options in [["--verify", "always"], ["--hot-objects", "0"]] {
        let (_stores, server, content) = served(io, 16 << 10, &options);
        for _ in 0..4 {
            whole(&server, PATH, &content);
        }
        let totals = ["hot_sent_bytes", "hot_memory_bytes"].map(|name| server.total(name));
        assert_eq!(totals, [0, 0], "{options:?}");
        assert!(server.total("verified_leaves") >= 4 * 4);
    }
}

fn a_new_put_and_a_removal_are_noticed(io: Backend) {
    let (stores, server, content) = served(io, 16 << 10, &[]);
    for _ in 0..3 {
        whole(&server, PATH, &content);
    }
    assert!(server.total("hot_sent_bytes") > 0);
    let other = Noise::new(9).bytes(10_000);
    stores.put(KEY, &mut &other[..], 4, 16 << 10);
    wait_until(|| {
        let body = get(server.objects, PATH, &[]).body;
        assert!(body == content || body == other, "one of both, whole");
        (body == other)
            .then_some(())
            .ok_or("the old one is served".to_owned())
    });
    for _ in 0..3 {
        whole(&server, PATH, &other);
    }
    for store in 0..6 {
        for share in stores.shares(KEY, store) {
            fs::remove_file(share).unwrap();
        }
    }
    wait_until(|| match get(server.objects, PATH, &[]).status() {
        404 => Ok(()),
        status => Err(format!("it is answered {status}")),
    });
}

fn a_hot_object_is_dropped_after_the_verification_age(io: Backend) {
    let (stores, server, content) = served(io, 16 << 10, &["--verify-age", "300ms"]);
    for _ in 0..3 {
        whole(&server, PATH, &content);
    }
    flip(&stores.share(KEY, 1), BLOCKS_OFFSET);
    // The object is served all the time, and the damage is noticed in the end.
    wait_until(|| {
        whole(&server, PATH, &content);
        match server.total("failed_leaves") {
            0 => Err("the damage was not noticed".to_owned()),
            _ => Ok(()),
        }
    });
}

fn many_objects_take_no_more_than_planned(io: Backend) {
    let stores = Stores::new(3);
    let objects: Vec<(String, Vec<u8>)> = (0..40)
        .map(|number| (format!("o{number}"), Noise::new(number).bytes(10_000)))
        .collect();
    for (key, content) in &objects {
        stores.put(key, &mut &content[..], 2, 16 << 10);
    }
    let server = Server::start(&stores, io, &["--cores", "1", "--hot-objects", "100KB"]);
    for _ in 0..4 {
        for (key, content) in &objects {
            whole(&server, &format!("/{key}"), content);
        }
    }
    server.wait_for_status("the ring is full", |status| {
        status["totals"]["hot_memory_bytes"] == 100_000
    });
    // The last objects are in memory.
    let before = counters(&server);
    for (key, content) in &objects[objects.len() - 9..] {
        whole(&server, &format!("/{key}"), content);
    }
    let after = counters(&server);
    assert_eq!(after[0] - before[0], 90_000);
    assert_eq!(after[1..], before[1..]);
}
