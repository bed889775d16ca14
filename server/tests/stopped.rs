//! Clients that vanish with their process: stopped (SIGSTOP), so that nobody reads while their kernel goes on
//! acknowledging until its buffers are full, and then killed or never seen again.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::crowd::{degraded, memory, nothing_is_left};
use common::sockets::sockets;
use common::{Backend, Noise, PATH, Server, assert_same, get, number, wait_until};
use penstock_load::{Class, Group, Plan, Reading};

on_both_backends! {
    clients_that_are_stopped_are_closed_in_time
    clients_that_are_stopped_and_killed_leave_nothing
}

const SIZE: usize = 24 << 20;
/// Clients of each kind.
const EACH: usize = 8;
/// Tells a process of this test that it is the clients', and where they go.
const CLIENTS: &str = "PENSTOCK_TEST_CLIENTS";

/// The clients' process: this test binary again, told to run only this. Otherwise it tests nothing.
#[test]
fn the_clients() {
    let Ok(url) = std::env::var(CLIENTS) else {
        return;
    };
    let mut plan = Plan::new(&url);
    let mut fast = Group::new(Class::Fast, EACH);
    fast.reading = Reading::Discard;
    let mut slow = Group::new(Class::Slow, EACH);
    slow.rate = Some(100_000);
    plan.groups = vec![fast, slow];
    // The test ends them.
    plan.duration = Duration::from_secs(600);
    penstock_load::run(&plan).unwrap();
}

/// A process with clients of a server.
struct Clients(Child);

impl Clients {
    /// Starts it, and waits until all clients are served.
    fn start(server: &Server) -> Clients {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_clients", "--nocapture"])
            .env(CLIENTS, format!("http://{}{PATH}", server.objects))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let clients = Clients(child);
        server.wait_for_status("all clients, and fast ones lent something", |status| {
            number(status, &["memory", "connections_open"]) == 2 * EACH as u64
                && number(status, &["memory", "memory_credit_lent_bytes"]) > 0
        });
        clients
    }

    /// Stops it; returns when it has stopped.
    fn stop(&self) {
        let id = self.0.id();
        common::run(Command::new("sh").args(["-c", &format!("kill -STOP {id}")]));
        wait_until(|| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            // The state follows the program's name in brackets (proc(5)).
            match stat.rsplit_once(") ").unwrap().1.starts_with('T') {
                true => Ok(()),
                false => Err(stat),
            }
        });
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn queued(server: &Server) -> u64 {
    sockets(server).iter().map(|socket| socket.send).sum()
}

/// Nothing of the clients is left, neither in the server nor in the kernel, and others are served.
fn all_is_back(server: &Server, content: &[u8]) {
    nothing_is_left(server);
    wait_until(|| match &sockets(server)[..] {
        [] => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    let next = get(server.objects, PATH, &[]);
    assert_same(&next.body, content, "of a client that comes later");
}

fn clients_that_are_stopped_are_closed_in_time(io: Backend) {
    let content = Noise::new(1).bytes(SIZE);
    let stores = degraded(&content);
    // Short, since the test waits for it. A busy machine may keep a slow client from reading for so long; then it is
    // closed early, and connects again. A client that is stopped between two requests is idle.
    let options = ["--send-timeout", "8s", "--idle-timeout", "2s"];
    let server = Server::start(&stores, io, &options);
    let clients = Clients::start(&server);
    clients.stop();
    all_is_back(&server, &content);
    let closed = server.total("timed_out_connections");
    // Nothing else ends a stopped client's connection, wherever in its download it was.
    assert!(closed >= 2 * EACH as u64, "{closed} were closed");
}

fn clients_that_are_stopped_and_killed_leave_nothing(io: Backend) {
    let content = Noise::new(2).bytes(SIZE);
    let stores = degraded(&content);
    let options = ["--send-timeout", "1h", "--idle-timeout", "1h"];
    let server = Server::start(&stores, io, &options);
    let clients = Clients::start(&server);
    clients.stop();
    wait_until(|| match queued(&server) {
        0 => Err("nothing is queued".to_owned()),
        _ => Ok(()),
    });
    let open = memory(&server, "connections_open");
    assert!(open >= 2 * EACH as u64, "{open}: clients that stall stay");
    drop(clients);
    all_is_back(&server, &content);
    assert_eq!(server.total("timed_out_connections"), 0);
}
