//! Zero-copy sends: buffers that the kernel sends from are nobody else's until the peer has the bytes, and
//! everybody else is served meanwhile. On loopback, where the kernel copies in the end: what is queued and not
//! yet sent is pinned there too.

mod common;

use common::client::End;
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, number, skip, together,
    wait_until,
};
use penstock::io::probe_zero_copy;
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
    those_who_stall_keep_half_of_the_pool
    buffers_of_those_who_vanish_come_back
    buffers_of_those_who_never_read_again_come_back
    a_stop_with_pinned_buffers
    a_body_finishes_while_the_server_stops
    auto_ends_where_the_kernel_copies
}

/// Far more than the sockets of both sides hold.
const LARGE: usize = 4 << 20;
/// So few that the send buffer of each is 64 KiB from the start.
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

/// As many stalled downloads, and the status once nothing more was sent in some looks in a row.
fn stall(server: &Server, clients: usize, looks_wanted: usize) -> (Vec<Client>, Value) {
    let clients: Vec<Client> = (0..clients).map(|_| stalled(server)).collect();
    let (mut sent, mut looks) = (0, 0);
    let status = server.wait_for_status("all wait", |status| {
        let before = std::mem::replace(&mut sent, number(status, &["totals", "sent_bytes"]));
        looks = if sent == before { looks + 1 } else { 0 };
        status["connections"]["sending"] == clients.len() as u64 && looks >= looks_wanted
    });
    (clients, status)
}

fn those_who_stall_keep_half_of_the_pool() {
    const CLIENTS: usize = 20;
    let Some((_stores, server, content)) = served(&["--pool-buffers", "4"]) else {
        return;
    };
    // A round of sampling is eight ticks.
    let (mut clients, status) = stall(&server, CLIENTS, 10);
    let totals = |name: &str| number(&status, &["totals", name]);
    assert_eq!(
        (totals("pinned_buffers"), totals("pool_buffers_free")),
        (2, 2)
    );
    // What is sent by reference is accounted for like what is copied.
    let memory = |name| number(&status, &["memory", name]);
    let each = memory("memory_planned_connections_bytes") / memory("connections_max");
    let allowed = CLIENTS as u64 * each + memory("memory_credit_lent_bytes");
    let held = totals("socket_bytes");
    assert!(held <= allowed, "{held} bytes of {allowed}");

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
        assert_same(&client.body(LARGE), &content, "after a long pause");
        client.expect_open(PATH);
    }
    none_is_pinned(&server);
}

fn buffers_of_those_who_vanish_come_back() {
    let Some((_stores, server, content)) = served(&["--pool-buffers", "4"]) else {
        return;
    };
    // With and without a reset of their own.
    for reset in [true, false, true] {
        let (clients, status) = stall(&server, 4, 3);
        assert_eq!(number(&status, &["totals", "pinned_buffers"]), 2);
        for client in clients {
            match reset {
                true => client.reset(),
                false => drop(client),
            }
        }
        none_is_pinned(&server);
    }
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the next");
}

fn buffers_of_those_who_never_read_again_come_back() {
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
    let (mut clients, status) = stall(&server, 3, 3);
    assert_eq!(number(&status, &["totals", "pinned_buffers"]), 3);
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
    let (mut clients, status) = stall(&server, 2, 3);
    assert_eq!(number(&status, &["totals", "pinned_buffers"]), 2);
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

fn auto_ends_where_the_kernel_copies() {
    // A small send buffer, so that this client is fast enough on any machine.
    let options = ["--zero-copy", "auto", "--send-buffer-max", "64KiB"];
    let Some((_stores, server, content)) = served(&options) else {
        return;
    };
    let mut client = Client::connect(server.objects);
    let mut rounds = |count| {
        for _ in 0..count {
            let body = client.request("GET", PATH, &[]).body;
            assert_same(&body, &content, "a GET");
        }
    };
    // Once its rate is known, a buffer is pinned for it, and the kernel's report ends that.
    wait_until(|| {
        rounds(4);
        match server.total("zero_copy_networks_off") {
            1 => Ok(()),
            off => Err(format!("{off} routes are off: {:#}", server.status())),
        }
    });
    server.wait_for_log(
        "zero-copy sends to this network are off: the kernel copies network=127.0.0.0/24",
    );
    none_is_pinned(&server);
    let sent = server.total("zero_copy_bytes");
    assert!(sent > 0 && server.total("zero_copy_copied_bytes") > 0);
    rounds(4);
    let mut other = Client::connect(server.objects);
    assert_same(&other.request("GET", PATH, &[]).body, &content, "another's");
    assert_eq!(server.total("zero_copy_bytes"), sent, "not any more");
}
