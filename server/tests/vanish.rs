//! Clients that are cut off: no FIN, no reset, nothing. Only a network of our own can be cut, so the
//! server and its clients run in two network namespaces joined by a veth pair with the usual 1,500 byte
//! packets. That needs root and `ip`; without them the tests say that they are skipped.

mod common;

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use common::crowd::{degraded, memory, nothing_is_left};
use common::sockets::sockets;
use common::{
    Backend, Client, Noise, PATH, Server, assert_same, get, number, penstock, skip, wait_until,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

on_both_backends! {
    clients_whose_link_is_cut_are_closed
    a_link_that_comes_back_in_time_is_no_end
}

/// Addresses for tests of networks (RFC 2544); they are seen only in our namespaces.
const SERVER: &str = "198.18.0.1";
const CLIENT: &str = "198.18.0.2";
const SIZE: usize = 24 << 20;

/// Runs `ip` in the calling thread's network namespace.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// Runs a closure in the clients' network.
type Work = Box<dyn FnOnce() + Send>;

/// The clients' end: a thread in a network namespace of its own. What it connects stays there, whichever
/// thread reads it.
struct ClientSide {
    work: Sender<Work>,
}

impl ClientSide {
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = channel();
        let work = move || {
            let _ = sender.send(work());
        };
        self.work.send(Box::new(work)).unwrap();
        receiver.recv().expect("the clients' side does its work")
    }

    /// Cuts the link, or joins it again.
    fn set_link(&self, state: &'static str) {
        self.run(move || ip(&format!("link set peer0 {state}")).unwrap());
    }
}

/// Moves the calling thread, and what it starts, to a new network that is joined to the clients'.
/// Namespaces and links go away with their last thread and socket.
fn networks() -> Result<ClientSide, String> {
    let enter = || unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"));
    enter()?;
    let (work, orders): (Sender<Work>, Receiver<Work>) = channel();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let entered = enter().map(|()| gettid());
        let failed = entered.is_err();
        sender.send(entered).unwrap();
        if !failed {
            orders.iter().for_each(|work| work());
        }
    });
    let thread = receiver.recv().unwrap()?;
    ip("link set lo up")?;
    ip(&format!(
        "link add link0 type veth peer name peer0 netns {thread}"
    ))?;
    ip(&format!("addr add {SERVER}/30 dev link0"))?;
    ip("link set link0 up")?;
    let side = ClientSide { work };
    side.run(|| {
        ip("link set lo up")?;
        ip(&format!("addr add {CLIENT}/30 dev peer0"))?;
        ip("link set peer0 up")
    })?;
    Ok(side)
}

/// Runs a test in a thread that may leave the network of the others.
fn apart(test: impl FnOnce(ClientSide) + Send + 'static) {
    let name = thread::current().name().unwrap_or_default().to_owned();
    let apart = move || match networks() {
        Ok(side) => test(side),
        Err(why) => skip(&format!("no network of our own: {why}")),
    };
    let thread = thread::Builder::new().name(name).spawn(apart).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn serve(stores: &common::Stores, io: Backend, options: &[&str]) -> Server {
    let mut command = penstock();
    command.arg("serve").args(stores.flags()).args(options);
    command.args(["--listen", &format!("{SERVER}:0"), "--admin", "127.0.0.1:0"]);
    command.args(["--io", &io.to_string(), "--cores", "2"]);
    Server::launch(command).unwrap_or_else(|error| panic!("the server did not start: {error}"))
}

/// Downloads under way over the link: half have stopped reading, half go on at some MB a second.
fn downloads(
    side: &ClientSide,
    server: &Server,
    content: &[u8],
) -> (Vec<Client>, Vec<thread::JoinHandle<usize>>) {
    const CLIENTS: usize = 20;
    let address = server.objects;
    let mut clients = side.run(move || {
        let connect = |number: usize| match number % 2 {
            0 => Client::connect_small(address),
            _ => Client::connect(address),
        };
        let mut clients: Vec<Client> = (0..CLIENTS).map(connect).collect();
        for client in &mut clients {
            client.ask("GET", PATH, &[]);
            assert_eq!(client.head().status, 200);
        }
        clients
    });
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_same(&client.body(300_000), &content[..300_000], "the beginning");
    }
    let (mut stalled, mut reading) = (Vec::new(), Vec::new());
    for (number, mut client) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            stalled.push(client);
            continue;
        }
        let content = content.to_vec();
        reading.push(thread::spawn(move || {
            let mut at = 300_000;
            while at < SIZE {
                let part = (SIZE - at).min(16 << 10);
                let Ok(bytes) = client.try_body(part) else {
                    return at;
                };
                assert_same(&bytes, &content[at..at + part], "a part");
                at += part;
                thread::sleep(Duration::from_millis(5));
            }
            at
        }));
    }
    (stalled, reading)
}

fn clients_whose_link_is_cut_are_closed(io: Backend) {
    apart(move |side| {
        let content = Noise::new(1).bytes(SIZE);
        let stores = degraded(&content);
        // Short, since the test waits for them. On a slow machine some clients may be closed before the cut.
        let options = ["--send-timeout", "10s", "--idle-timeout", "10s"];
        let server = serve(&stores, io, &options);
        let (stalled, reading) = downloads(&side, &server, &content);
        server.wait_for_status("fast ones are lent something", |status| {
            number(status, &["memory", "memory_credit_lent_bytes"]) > 0
        });
        side.set_link("down");
        assert!(!sockets(&server).is_empty(), "nobody was told of the cut");
        nothing_is_left(&server);
        // Nor does the kernel keep what it had queued for them.
        wait_until(|| match sockets(&server) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:#?}")),
        });
        // They are told as soon as they can be reached again.
        side.set_link("up");
        drop(stalled);
        let address = server.objects;
        let again = side.run(move || get(address, PATH, &[]).body);
        assert_same(&again, &content, "of a client that comes later");
        // These wait for more and will not hear of the end: they go with the process.
        drop(reading);
        nothing_is_left(&server);
    });
}

fn a_link_that_comes_back_in_time_is_no_end(io: Backend) {
    apart(move |side| {
        let content = Noise::new(2).bytes(SIZE);
        let stores = degraded(&content);
        // Far longer than the cut, and than a slow machine needs for the whole test.
        let server = serve(&stores, io, &["--send-timeout", "1h"]);
        let (stalled, reading) = downloads(&side, &server, &content);
        side.set_link("down");
        let open = memory(&server, "connections_open");
        // So long that the kernel retransmits in vain.
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(memory(&server, "connections_open"), open);
        side.set_link("up");
        for client in reading {
            assert_eq!(client.join().unwrap(), SIZE, "it gets the whole object");
        }
        assert_eq!(server.total("timed_out_connections"), 0);
        drop(stalled);
        nothing_is_left(&server);
    });
}
