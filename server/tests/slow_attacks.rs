//! slowhttptest against both listeners: a normal client is served throughout, and memory stays within the plan. What the
//! client waited is printed, and decides nothing.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Backend, Client, PATH, Server, Stores, number, skip};

on_both_backends! {
    slow_heads
    slow_bodies
    many_ranges
    slow_readers
    slow_heads_at_the_admin_listener
}

const CONNECTIONS: &str = "1000";
/// Long enough for all connections to be open for some seconds.
const SECONDS: &str = "8";

fn slow_heads(io: Backend) {
    attack(io, &["-H", "-i", "1", "-x", "24"], false);
}

fn slow_bodies(io: Backend) {
    attack(io, &["-B", "-i", "1", "-x", "24", "-s", "8192"], false);
}

/// Thousands of ranges in a request, as once brought down other servers.
fn many_ranges(io: Backend) {
    attack(io, &["-R", "-a", "10", "-b", "3000"], false);
}

/// Readers with tiny windows.
fn slow_readers(io: Backend) {
    attack(
        io,
        &[
            "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3",
        ],
        false,
    );
}

fn slow_heads_at_the_admin_listener(io: Backend) {
    attack(io, &["-H", "-i", "1", "-x", "24"], true);
}

/// Runs one attack, with a client beside it that asks for a small object and for a part of the attacked one.
fn attack(io: Backend, mode: &[&str], admin: bool) {
    const MEMORY: u64 = 128 << 20;
    let version = Command::new("slowhttptest")
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if version.is_err() {
        return skip("slowhttptest is not installed");
    }
    let stores = Stores::new(6);
    let content = common::Noise::new(9).bytes(4 << 20);
    stores.put_bytes(&content);
    stores.put("small", &mut &b"small"[..], 4, 4096);
    let options = ["--memory", "128MiB", "--max-connections", "1200"];
    let server = Server::start(&stores, io, &options);
    let (address, path) = match admin {
        true => (server.admin, "/status"),
        false => (server.objects, PATH),
    };
    let mut attack = Command::new("slowhttptest")
        .args(mode)
        .args(["-c", CONNECTIONS, "-r", "500", "-l", SECONDS, "-p", "3"])
        .args(["-u", &format!("http://{address}{path}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Of its own address, since one address doesn't get all seats.
    let mut waits = Vec::new();
    let mut most = 0;
    while attack.try_wait().unwrap().is_none() {
        waits.push(ask(server.objects, "/small", b"small"));
        waits.push(ask(server.objects, PATH, &content[..1000]));
        most = most.max(server.rss_bytes());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(waits.len() > 20, "the attack was over at once");
    waits.sort();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    let status = server.status();
    println!(
        "{io} {} {}: {} requests, median {:?}, p99 {:?}, most {:?}; resident {} MiB at most, {} connections accepted",
        mode[0],
        if admin { "admin" } else { "objects" },
        waits.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        most >> 20,
        number(&status, &["totals", "accepted_connections"]),
    );
    assert!(most < MEMORY, "{most} bytes resident");
}

/// One request over a new connection, and how long it took.
fn ask(server: SocketAddr, path: &str, expected: &[u8]) -> Duration {
    let began = Instant::now();
    let mut client = Client::connect_from(IpAddr::from([127, 0, 0, 9]), server);
    let answer = client.request(
        "GET",
        path,
        &[
            &format!("Range: bytes=0-{}", expected.len() - 1),
            "Connection: close",
        ],
    );
    assert_eq!(
        answer.status(),
        206,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert!(answer.body == expected, "{path}");
    began.elapsed()
}
