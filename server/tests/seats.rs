//! More clients than there are seats: which are refused, which wait, which are closed to make room, and what
//! those that were admitted notice of it.

mod common;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::End;
use common::crowd::{Crowd, assert_within, degraded, memory, nothing_is_left};
use common::sockets::sockets;
use common::{
    Backend, Client, Noise, PATH, PATIENCE, Server, Stores, assert_same, get, wait_until,
};
use penstock_load::{Class, Group};

on_both_backends! {
    a_crowd_is_refused_and_the_admitted_notice_nothing
    a_crowd_waits
    the_longest_idle_gives_way
    idle_connections_of_any_core_give_way
    one_address_has_so_many_seats
    a_client_that_is_too_slow_is_closed
    a_live_client_outlives_a_short_timeout
    a_client_that_hangs_up_keeps_its_seat_until_it_took_everything
}

const SIZE: usize = 4 << 20;
/// The server must not close clients that stall or rest, however long a test takes.
const PATIENT: [&str; 4] = ["--send-timeout", "1h", "--idle-timeout", "1h"];
const SMALL_PATH: &str = "/small.bin";

fn prepared(seed: u64) -> (Stores, Vec<u8>) {
    let content = Noise::new(seed).bytes(SIZE);
    (degraded(&content), content)
}

/// Clients in the middle of a download.
fn admitted(server: &Server, clients: usize) -> Vec<Client> {
    let mut all: Vec<Client> = (0..clients)
        .map(|_| Client::connect_small(server.objects))
        .collect();
    for client in &mut all {
        client.ask("GET", PATH, &[]);
        assert_eq!(client.head().status, 200);
    }
    all
}

fn a_crowd_is_refused_and_the_admitted_notice_nothing(io: Backend) {
    const SEATS: usize = 16;
    const CROWD: usize = 300;
    /// What an admitted client reads at a time. Its window is small, so the whole takes long.
    const PART: usize = 512 << 10;
    let (stores, content) = prepared(1);
    let options = ["--memory", "48MiB", "--max-connections", "16"];
    let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
    let clients = admitted(&server, SEATS);
    let crowd = Crowd::start(
        &server,
        vec![Group::new(Class::Short, CROWD)],
        Some(&content),
    );
    crowd.wait("the first refusals", |now| now.refused > 0);
    // Some go on in the midst of it.
    let mut clients = clients;
    for client in clients.iter_mut().take(SEATS / 2) {
        assert_same(&client.body(PART), &content[..PART], "the beginning");
    }
    // As often as the whole crowd is refused five times.
    for round in 1..=5 {
        crowd.wait("more refusals", |now| now.refused >= round * CROWD as u64);
    }
    assert_eq!(memory(&server, "connections_open"), SEATS as u64);
    let report = crowd.end();
    assert_within(&report, 48 << 20);
    let crowd = report.group("short").unwrap();
    assert!(crowd.faults.is_empty(), "{:?}", crowd.faults);
    assert!(crowd.statuses.keys().eq(&[503]), "{:?}", crowd.statuses);
    assert_eq!(
        crowd.retry_after, crowd.refused,
        "each says when to come back"
    );
    assert!((1..=60).contains(&crowd.retry_after_most));
    assert_eq!((crowd.completed, crowd.body_bytes > 0), (0, true));

    // They keep their seats as long as they have something to take.
    assert_eq!(get(server.objects, PATH, &[]).status(), 503);
    for (number, client) in clients.iter_mut().enumerate() {
        let start = if number < SEATS / 2 { PART } else { 0 };
        let end = if number % 4 == 0 { SIZE } else { start + PART };
        assert_same(&client.body(end - start), &content[start..end], "the rest");
    }
    clients.pop();
    wait_until(|| match get(server.objects, PATH, &[]) {
        answer if answer.status() == 200 => {
            assert_same(&answer.body, &content, "the next");
            Ok(())
        }
        answer => Err(format!("no seat came back: {answer:?}")),
    });
    drop(clients);
    nothing_is_left(&server);
}

fn a_crowd_waits(io: Backend) {
    const SEATS: usize = 4;
    let (stores, content) = prepared(2);
    let options = ["--max-connections", "4", "--over-limit", "wait"];
    stores.init();
    stores.put("small.bin", &mut &content[..5000], 4, 4096);
    for lost in [0, 2] {
        stores.remove_store(lost);
    }
    let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
    let mut clients = admitted(&server, SEATS);
    let mut waiting = Client::connect(server.objects);
    waiting.ask("GET", PATH, &[]);
    // It waits as long as nobody leaves. A longer look would find no more.
    assert!(!waiting.hears_within(Duration::from_millis(300)));
    let mut group = Group::new(Class::Short, 60);
    group.requests = Some(4);
    group.path = Some(SMALL_PATH.to_owned());
    let crowd = Crowd::start(&server, vec![group], None);
    assert_eq!(memory(&server, "connections_open"), SEATS as u64);
    assert!(!waiting.hears_within(Duration::from_millis(1)));
    assert_same(&clients[0].body(SIZE), &content, "of one that has a seat");
    drop(clients);
    assert_same(
        &waiting.response("GET").body,
        &content,
        "of the one that waited",
    );
    drop(waiting);
    let report = crowd.finish();
    let short = report.group("short").unwrap();
    assert!(short.faults.is_empty(), "{:?}", short.faults);
    assert_eq!((short.refused, short.completed), (0, 240));
    nothing_is_left(&server);
    assert_eq!(server.total("refused_connections"), 0);
}

/// As many idle connections as there were seats kept everybody out until they were closed for idleness.
fn the_longest_idle_gives_way(io: Backend) {
    const SEATS: usize = 6;
    let (stores, content) = prepared(11);
    for over in ["refuse", "wait"] {
        let options = [
            "--cores",
            "1",
            "--max-connections",
            "6",
            "--over-limit",
            over,
        ];
        let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
        let range = ["Range: bytes=0-999"];
        // The first one is in the middle of a download, the others are idle.
        let mut busy = admitted(&server, 1);
        let mut idle: Vec<Client> = (1..SEATS)
            .map(|_| {
                let mut client = Client::connect(server.objects);
                assert_eq!(client.request("GET", PATH, &range).status(), 206);
                client
            })
            .collect();
        // Not before they have been idle for a while.
        wait_until(|| match get(server.objects, PATH, &range).status() {
            206 => Ok(()),
            status => Err(format!("{status} though others are idle")),
        });
        idle.remove(0).expect_close();
        assert_eq!(server.total("gave_way_connections"), 1);
        for client in &mut idle {
            let part = client.request("GET", PATH, &range);
            assert_same(
                &part.body,
                &content[..1000],
                "of one that was idle for less",
            );
        }
        assert_same(&busy[0].body(SIZE), &content, "the download");
        assert_eq!(server.total("timed_out_connections"), 0);
    }
}

fn idle_connections_of_any_core_give_way(io: Backend) {
    let (stores, content) = prepared(12);
    let options = ["--cores", "2", "--max-connections", "2"];
    let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
    let _idle = [(); 2].map(|()| {
        let mut client = Client::connect(server.objects);
        assert_eq!(client.request("HEAD", PATH, &[]).status(), 200);
        client
    });
    // Whichever cores the kernel gave them to, and gives the next ones.
    wait_until(|| {
        let response = get(server.objects, PATH, &["Range: bytes=0-999"]);
        match response.status() {
            206 => {
                assert_same(&response.body, &content[..1000], "at last");
                Ok(())
            }
            status => Err(format!("{status} though others are idle")),
        }
    });
}

fn one_address_has_so_many_seats(io: Backend) {
    const MOST: usize = 3;
    let (stores, content) = prepared(3);
    let options = ["--max-connections-per-address", "3"];
    let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
    let from = |last| Client::connect_from(IpAddr::from([127, 0, 0, last]), server.objects);
    let range = ["Range: bytes=0-999"];
    let mut hers: Vec<Client> = (0..MOST).map(|_| from(1)).collect();
    for client in &mut hers {
        assert_same(
            &client.request("GET", PATH, &range).body,
            &content[..1000],
            "hers",
        );
    }
    for _ in 0..3 {
        let refused = from(1).request("GET", PATH, &range);
        assert_eq!(refused.status(), 503);
        assert!(refused.field("Retry-After").is_some());
        assert_eq!(refused.field("Connection"), Some("close"));
    }
    let mut his: Vec<Client> = (0..MOST).map(|_| from(2)).collect();
    for client in &mut his {
        assert_same(
            &client.request("GET", PATH, &range).body,
            &content[..1000],
            "his",
        );
    }
    assert_eq!(from(2).request("GET", PATH, &range).status(), 503);
    hers[0].expect_open(PATH);
    hers.pop();
    wait_until(|| match from(1).request("GET", PATH, &range).status() {
        206 => Ok(()),
        other => Err(format!("no seat came back: {other}")),
    });
    assert_eq!(
        from(2).request("GET", PATH, &range).status(),
        503,
        "not his"
    );
    drop((hers, his));
    nothing_is_left(&server);
}

/// Reads a little now and then, until the connection ends.
fn dawdle(mut client: Client, stop: &dyn Fn() -> bool) -> Option<End> {
    while !stop() {
        if let (_, Some(end)) = client.rest(4096) {
            return Some(end);
        }
        thread::sleep(Duration::from_millis(250));
    }
    None
}

/// Three clients: two dawdle at 16 KB/s, one of them at a server that does not mind; the third takes far more
/// than the least rate. Fails if the server with a least rate keeps the slow client or closes the fast one, or if the
/// other closes any. Unit tests of `deadlines` say how a rate is judged.
fn a_client_that_is_too_slow_is_closed(io: Backend) {
    const SIZE: usize = 24 << 20;
    const TIMEOUT: Duration = Duration::from_secs(8);
    let content = Noise::new(4).bytes(SIZE);
    let stores = degraded(&content);
    // Longer than the receiving kernel saves up what was read before it opens the window again: some 4 s.
    let strict = ["--send-timeout", "8s", "--min-rate", "40KB"];
    let strict = Server::start(&stores, io, &strict);
    let patient = Server::start(&stores, io, &PATIENT);
    // Not so small a window that only the kernel's probes open it again.
    let one = |server: &Server| {
        let mut client = Client::connect_with(server.objects, 32 << 10);
        client.ask("GET", PATH, &[]);
        assert_eq!(client.head().status, 200);
        client
    };
    // A busy machine may keep the third client from reading, so that it is slow. Then the test tries again.
    wait_until(|| {
        let before = strict.total("timed_out_connections");
        let (slow, kept, mut faster) = (one(&strict), one(&patient), one(&strict));
        let closed = AtomicBool::new(false);
        let is_over = || closed.load(Ordering::Relaxed);
        let longest = thread::scope(|scope| {
            let kept = scope.spawn(|| dawdle(kept, &is_over));
            let faster = scope.spawn(|| {
                // Thirty times the least rate, and no faster than that.
                let (mut at, mut longest) = (0, Duration::ZERO);
                while at < SIZE && !is_over() {
                    let begun = Instant::now();
                    let part = (SIZE - at).min(64 << 10);
                    let Ok(bytes) = faster.try_body(part) else {
                        break;
                    };
                    assert_same(&bytes, &content[at..at + part], "of the faster");
                    at += part;
                    thread::sleep(Duration::from_millis(50));
                    longest = longest.max(begun.elapsed());
                }
                longest
            });
            let begun = Instant::now();
            let end = dawdle(slow, &|| begun.elapsed() > PATIENCE);
            closed.store(true, Ordering::Relaxed);
            assert_eq!(end, Some(End::Reset));
            assert_eq!(kept.join().unwrap(), None, "there is no least rate");
            faster.join().unwrap()
        });
        match strict.total("timed_out_connections") - before {
            1 => Ok(()),
            // Reads of 64 KiB this far apart make twice the least rate.
            _ if longest > TIMEOUT / 10 => Err(format!("kept from reading for {longest:?}")),
            count => panic!("{count} were closed, though one read at least each {longest:?}"),
        }
    });
    assert_eq!(patient.total("timed_out_connections"), 0);
    nothing_is_left(&strict);
    nothing_is_left(&patient);
}

/// A timeout shorter than a round of sampling must not take the last sample for the present.
fn a_live_client_outlives_a_short_timeout(io: Backend) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let (stores, content) = prepared(5);
    let server = Server::start(&stores, io, &["--send-timeout", "1s"]);
    // A client that the machine keeps from reading for long is not alive: then the next tries.
    wait_until(|| {
        let closed = server.total("timed_out_connections");
        let mut client = admitted(&server, 1).pop().unwrap();
        let (mut at, mut longest) = (0, Duration::ZERO);
        let started = Instant::now();
        let mut read_at = started;
        // Longer than a round of sampling and the timeout.
        while started.elapsed() < 5 * TIMEOUT && at < SIZE / 2 {
            let part = 8 << 10;
            let Ok(bytes) = client.try_body(part) else {
                break;
            };
            assert_same(&bytes, &content[at..at + part], "a part");
            at += part;
            thread::sleep(Duration::from_millis(50));
            longest = longest.max(read_at.elapsed());
            read_at = Instant::now();
        }
        longest = longest.max(read_at.elapsed());
        if server.total("timed_out_connections") == closed {
            assert_same(&client.body(SIZE - at), &content[at..], "the rest");
            return Ok(());
        }
        assert!(
            longest > TIMEOUT / 2,
            "closed at {at}, though it read all the time"
        );
        Err(format!("it was kept from reading for {longest:?}"))
    });
}

/// The descriptor used to be closed as soon as the client had nothing more to say. What its socket still had
/// queued then was memory of nobody's, and a crowd could have made any amount of it.
fn a_client_that_hangs_up_keeps_its_seat_until_it_took_everything(io: Backend) {
    let content = Noise::new(9).bytes(24 << 10);
    let stores = Stores::new(6);
    stores.put_bytes(&content);
    // With so few places each connection's least buffer is 64 KiB, which the kernel doubles: the response
    // fits whole, however small the segments are that the client's window makes of it.
    let options = ["--max-connections", "100"];
    let server = Server::start(&stores, io, &[&PATIENT[..], &options].concat());
    let queued = || match &sockets(&server)[..] {
        [one] => one.send,
        other => panic!("one connection was made: {other:?}"),
    };
    for (number, close) in [&[][..], &["Connection: close"][..]]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect_small(server.objects);
        client.ask("GET", PATH, close);
        let responses = number as u64 + 1;
        server.wait_for_status("the response handed over", |status| {
            status["responses"]["200"] == responses
        });
        client.finish();
        for _ in 0..3 {
            assert_eq!(memory(&server, "connections_open"), 1, "with {close:?}");
        }
        assert!(queued() > 0, "its window is smaller than the object");
        assert_eq!(client.head().length(), content.len() as u64);
        assert_same(&client.body(content.len()), &content, "what was queued");
        server.wait_for_status("its seat free", |status| {
            status["memory"]["connections_open"] == 0
        });
        wait_until(|| match &sockets(&server)[..] {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        });
    }
}
