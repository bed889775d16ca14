//! Zero-copy sends: buffers that the kernel sends from are nobody else's until the peer has the bytes, and
//! everybody else is served meanwhile. On loopback, where the kernel copies in the end: what is queued and not
//! yet sent is pinned there too.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use common::client::End;
use common::{
    Backend, Client, KEY, Noise, PATH, PATIENCE, Server, Stores, assert_same, get, number, skip,
    together, wait_until,
};
use penstock::io::probe_zero_copy;
use penstock::memory::limits::ZERO_COPY_HOLD;
use serde_json::Value;

/// Without io_uring there are none, which is said.
mod epoll {
    #[test]
    fn what_can_be_had_is_said() {
        super::what_can_be_had_is_said(super::Backend::Epoll);
    }
}

/// A test for each function, unless this machine refuses.
macro_rules! on_uring {
    ($($test:ident)*) => {
        mod uring {
            $(#[test] fn $test() { super::Backend::Uring.run(|_| super::$test()) })*
        }
    };
}

on_uring! {
    what_can_be_had_on_uring_is_said
    all_that_is_sent_so_is_right
    stalled_clients_keep_half_of_the_pool
    buffers_of_clients_that_vanish_come_back
    buffers_of_clients_that_never_read_again_come_back
    a_stop_with_pinned_buffers
    a_body_finishes_while_the_server_stops
    auto_ends_where_the_kernel_copies
}

/// Far more than the sockets of both sides hold.
const LARGE: usize = 4 << 20;
/// So few that the send buffer of each is 64 KiB from the start: first pieces are long enough to be sent zero-copy.
const FEW: [&str; 2] = ["--max-connections", "100"];

/// A server whose every piece is sent zero-copy; `None` where that can't be.
fn served(options: &[&str]) -> Option<(Stores, Server, Vec<u8>)> {
    if let Err(why) = probe_zero_copy() {
        skip(&why);
        return None;
    }
    let stores = Stores::new(6);
    let content = Noise::new(31).bytes(LARGE);
    stores.put(KEY, &mut &content[..], 4, 64 << 10);
    let mut all = vec!["--cores", "1", "--verify", "always"];
    if !options.contains(&"--zero-copy") {
        all.extend(["--zero-copy", "always"]);
    }
    if !options.contains(&"--send-timeout") {
        // The server must not close clients that stall, however long a test takes.
        all.extend(["--send-timeout", "1h"]);
    }
    all.extend(FEW);
    all.extend(options);
    let server = Server::start(&stores, Backend::Uring, &all);
    Some((stores, server, content))
}

fn what_can_be_had_on_uring_is_said() {
    what_can_be_had_is_said(Backend::Uring);
}

fn what_can_be_had_is_said(io: Backend) {
    let stores = Stores::new(1);
    stores.put(KEY, &mut &b"value"[..], 1, 4096);
    let why = match io {
        Backend::Epoll => Some("it takes io_uring, which is not used".to_owned()),
        Backend::Uring => probe_zero_copy().err(),
    };
    let insisted = Server::launch(Server::command(&stores, io, &["--zero-copy", "always"]));
    let server = Server::start(&stores, io, &[]);
    let status = server.status();
    let metrics = get(server.admin, "/metrics", &[]);
    let metrics = metrics.text();
    match why {
        Some(why) => {
            let error = insisted.err().expect("it can't be had");
            assert!(
                error.contains(&format!("--zero-copy always: {why}")),
                "{error}"
            );
            assert_eq!(status["why_not_zero_copy"], why);
            assert!(metrics.contains("penstock_zero_copy{when=\"off\"} 1"));
        }
        None => {
            insisted.expect("it can be had");
            assert_eq!(status["zero_copy"], "auto");
            assert_eq!(status["why_not_zero_copy"], Value::Null);
            assert!(metrics.contains("penstock_zero_copy{when=\"auto\"} 1"));
        }
    }
}

/// Waits until every buffer is back.
fn none_is_pinned(server: &Server) {
    server.wait_for_status("all buffers back", |status| {
        let totals = &status["totals"];
        totals["pinned_buffers"] == 0 && totals["pool_buffers_free"] == totals["pool_buffers"]
    });
}

fn all_that_is_sent_so_is_right() {
    let Some((stores, server, content)) = served(&[]) else {
        return;
    };
    let mut asked = 0;
    for degraded in [false, true] {
        if degraded {
            stores.remove_store(1);
            stores.truncate(KEY, 2, 0);
        }
        let lengths = together(8, |i| {
            let mut client = Client::connect(server.objects);
            let mut asked = 0;
            for first in [0, i * 300_001] {
                let range = format!("Range: bytes={first}-");
                let part = client.request("GET", PATH, &[&range]);
                assert_same(&part.body, &content[first..], &range);
                asked += part.body.len() as u64;
            }
            // Some read in bits.
            client.ask("GET", PATH, &[]);
            client.head();
            let mut at = 0;
            while at < LARGE {
                let part = (LARGE - at).min(10_007 * (i + 1));
                assert_same(&client.body(part), &content[at..at + part], "a part");
                at += part;
            }
            asked + LARGE as u64
        });
        asked += lengths.iter().sum::<u64>();
    }
    none_is_pinned(&server);
    let [sent, copied, passed] =
        ["zero_copy_bytes", "copied_bytes", "spliced_bytes"].map(|name| server.total(name));
    assert_eq!((sent + copied, passed), (asked, 0));
    assert!(sent > 0 && server.total("rebuilt_bytes") > 0);
    // The kernel's reports are counted, and change nothing.
    let reported = server.total("zero_copy_copied_bytes");
    assert!(reported > 0 && reported <= sent, "{reported} of {sent}");
    assert_eq!(server.total("zero_copy_networks_off"), 0);
}

fn stalled(server: &Server) -> Client {
    let mut client = Client::connect_small(server.objects);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    client
}

/// Starts stalled downloads, and waits until they keep this many buffers. A first piece is longer than a receive buffer,
/// so its pool buffer stays pinned until the client reads. The number is the same on every machine.
fn stall(server: &Server, clients: usize, pinned: u64) -> Vec<Client> {
    let all = (0..clients).map(|_| stalled(server)).collect();
    server.wait_for_status("all wait, and keep their buffers", |status| {
        let [now, free, buffers] = ["pinned_buffers", "pool_buffers_free", "pool_buffers"]
            .map(|name| number(status, &["totals", name]));
        status["connections"]["sending"] == clients as u64
            && now == pinned
            && free == buffers - pinned
    });
    all
}

/// Fails if more than half of the pool can be pinned, if what is sent by reference is not accounted for, or if a pinned
/// buffer is written to.
fn stalled_clients_keep_half_of_the_pool() {
    const CLIENTS: usize = 20;
    let Some((_stores, server, content)) = served(&["--pool-buffers", "4"]) else {
        return;
    };
    let mut clients = stall(&server, CLIENTS, 2);
    // What is sent by reference is accounted for like what is copied.
    server.expect_stalled_within_plan(CLIENTS);

    // The other half serves everybody else, over and over.
    together(4, |_| {
        for _ in 0..4 {
            assert_same(&get(server.objects, PATH, &[]).body, &content, "another's");
        }
    });
    assert_eq!(server.total("pinned_buffers"), 2);
    assert_eq!(server.total("timed_out_connections"), 0);
    // And nobody wrote to what those who stalled were being sent.
    for client in &mut clients {
        assert_same(&client.body(1 << 20), &content[..1 << 20], "after a pause");
    }
    let mut last = clients.pop().unwrap();
    drop(clients);
    assert_same(
        &last.body(LARGE - (1 << 20)),
        &content[1 << 20..],
        "the rest",
    );
    last.expect_open(PATH);
    none_is_pinned(&server);
}

fn buffers_of_clients_that_vanish_come_back() {
    let Some((_stores, server, content)) = served(&["--pool-buffers", "4"]) else {
        return;
    };
    // With and without a reset of their own.
    for reset in [true, false, true] {
        for client in stall(&server, 4, 2) {
            match reset {
                true => client.reset(),
                false => drop(client),
            }
        }
        none_is_pinned(&server);
    }
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the next");
}

fn buffers_of_clients_that_never_read_again_come_back() {
    let options = ["--pool-buffers", "4", "--send-timeout", "500ms"];
    let Some((_stores, server, content)) = served(&options) else {
        return;
    };
    for mut client in (0..4).map(|_| stalled(&server)).collect::<Vec<_>>() {
        server.wait_for_status("nobody left", |_| server.connections() == 0);
        let (bytes, end) = client.until_end();
        assert_eq!(end, End::Reset);
        assert_same(&bytes, &content[..bytes.len()], "until then");
    }
    assert!(server.total("zero_copy_bytes") > 0);
    none_is_pinned(&server);
}

fn a_stop_with_pinned_buffers() {
    let Some((_stores, mut server, content)) =
        served(&["--pool-buffers", "6", "--drain-timeout", "300ms"])
    else {
        return;
    };
    let mut clients = stall(&server, 3, 3);
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.log());
    server.wait_for_log("cut off");
    for client in &mut clients {
        let (bytes, end) = client.until_end();
        assert_eq!(end, End::Reset, "a cut body must not look whole");
        assert_same(&bytes, &content[..bytes.len()], "until the cut");
    }
}

fn a_body_finishes_while_the_server_stops() {
    let Some((_stores, mut server, content)) = served(&["--drain-timeout", "10m"]) else {
        return;
    };
    let mut clients = stall(&server, 2, 2);
    server.signal("TERM");
    server.wait_for_log("stopping");
    for client in &mut clients {
        assert_same(&client.body(LARGE), &content, "the body under way");
        client.expect_close();
    }
    drop(clients);
    assert!(server.wait().success(), "{}", server.log());
    assert!(!server.log().contains("cut off"), "{}", server.log());
}

/// The rate at which a client of this test is sent to zero-copy, whatever is queued. Then it acknowledges two send buffers
/// of 64 KiB, which the kernel doubles, within [`ZERO_COPY_HOLD`].
const FAST_ENOUGH: u64 = (2 * 2 * (64 << 10)) * 1000 / ZERO_COPY_HOLD.as_millis() as u64;

/// A connection is sampled once in so many ticks, and a status is answered at a tick.
const SAMPLE_TICKS: usize = 8;

/// Fails if no buffer is pinned for a fast client, or if buffers are pinned on a route where the kernel copies. Unit
/// tests say which rate is fast; on a machine that never reaches it this test is skipped.
fn auto_ends_where_the_kernel_copies() {
    // With a small send buffer a lower rate is enough.
    let options = ["--zero-copy", "auto", "--send-buffer-max", "64KiB"];
    let Some((_stores, server, content)) = served(&options) else {
        return;
    };
    let whole = |client: &mut Client| {
        let body = client.request("GET", PATH, &[]).body;
        assert_same(&body, &content, "a GET");
    };
    // Its rate is measured while it downloads, not while somebody asks for the status.
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let was_fast = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(server.objects);
            while !is_over.load(Ordering::Relaxed) && begun.elapsed() < 2 * PATIENCE {
                whole(&mut client);
            }
        });
        let mut fastest = 0;
        let was_fast = wait_until(|| {
            let status = server.status();
            let listed = status["largest_and_slowest"].as_array().unwrap().iter();
            let rates = listed.map(|client| number(client, &["bytes_per_second"]));
            fastest = rates.fold(fastest, u64::max);
            match server.total("zero_copy_networks_off") {
                1 => Ok(true),
                _ if fastest < FAST_ENOUGH && begun.elapsed() > PATIENCE / 2 => Ok(false),
                off => Err(format!("{off} networks are off: {status:#}")),
            }
        });
        // The client is as fast as before. During two more samples it must not be sent to zero-copy again.
        let sent = server.total("zero_copy_bytes");
        for _ in 0..if was_fast { 2 * SAMPLE_TICKS } else { 0 } {
            assert_eq!(server.total("zero_copy_bytes"), sent, "not any more");
        }
        is_over.store(true, Ordering::Relaxed);
        if !was_fast {
            skip(&format!("a client takes {fastest} bytes a second here"));
        }
        was_fast
    });
    if !was_fast {
        return;
    }
    server.wait_for_log(
        "zero-copy sends to this network are off: the kernel copies network=127.0.0.0/24",
    );
    none_is_pinned(&server);
    assert!(server.total("zero_copy_bytes") > 0 && server.total("zero_copy_copied_bytes") > 0);
    assert_same(&get(server.objects, PATH, &[]).body, &content, "another's");
}
