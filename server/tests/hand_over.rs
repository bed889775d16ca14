//! Hand-over: a new server takes the listeners of the one that runs, and no client notices.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Backend, Client, Noise, Server, Stores, assert_same, get, number, wait_until};
use penstock::control::memory_limit::memory_limit;

on_both_backends! {
    clients_notice_nothing
    a_server_that_does_not_become_ready_changes_nothing
    a_signal_starts_the_new_server
    an_admin_socket_file_is_handed_over
}

const SIZE: usize = 8 << 20;
const PATH: &str = common::PATH;
const SMALL: &str = "small";

struct Place {
    stores: Stores,
    content: Vec<u8>,
    socket: PathBuf,
}

impl Place {
    fn new() -> Place {
        let stores = Stores::new(6);
        let content = Noise::new(9).bytes(SIZE);
        stores.put_bytes(&content);
        stores.put(SMALL, &mut &b"small content"[..], 4, 4096);
        let socket = stores.file("hand-over");
        Place {
            stores,
            content,
            socket,
        }
    }

    /// A server that hands over here, and takes over if it can.
    fn command(&self, io: Backend, options: &[&str]) -> Command {
        let socket = self.socket.to_str().unwrap();
        let mut all = vec![
            "--memory",
            "100MiB",
            "--hand-over",
            socket,
            "--take-over",
            socket,
        ];
        all.extend(options);
        Server::command(&self.stores, io, &all)
    }

    fn start(&self, io: Backend, options: &[&str]) -> Server {
        Server::launch(self.command(io, options)).unwrap()
    }
}

/// Connections in a loop while servers change, with other numbers of cores: none is refused or reset, each is answered. Who
/// began a download before gets it to its end from the server that began it.
fn clients_notice_nothing(io: Backend) {
    let place = Place::new();
    let mut servers = vec![place.start(io, &["--cores", "2"])];
    let address = servers[0].objects;
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = get(address, &format!("/{SMALL}"), &[]);
                    assert_eq!(answer.status(), 200);
                    assert_eq!(answer.text(), "small content");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // They end even if this fails.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut slow = Client::connect_small(address);
            slow.ask("GET", PATH, &[]);
            assert_eq!(slow.head().status, 200);
            let mut got = slow.body(SIZE / 4);
            for cores in ["2", "1", "3", "2"] {
                let before = answered.load(Ordering::Relaxed);
                let new = place.start(io, &["--cores", cores]);
                assert_eq!(new.objects, address);
                assert_eq!(new.admin, servers[0].admin);
                servers
                    .last()
                    .unwrap()
                    .wait_for_log("handed over: bodies under way may finish");
                new.wait_for_log("taken over: the old server ends what it has begun");
                servers.push(new);
                wait_until(|| match answered.load(Ordering::Relaxed) > before + 20 {
                    true => Ok(()),
                    false => Err("nobody is answered".to_owned()),
                });
                // The admin listener is the new server's.
                let status = servers.last().unwrap().status();
                assert_eq!(status["cores"].to_string(), cores);
                got.extend(slow.body(SIZE / 8));
            }
            assert!(!servers[0].has_ended(), "it has a download");
            for between in &mut servers[1..4] {
                assert!(between.wait().success());
            }
            got.extend(slow.body(SIZE - got.len()));
            assert_same(&got, &place.content, "the slow download");
            assert!(servers[0].wait().success(), "{}", servers[0].log());
            assert!(
                !servers[0].log().contains("cut off"),
                "{}",
                servers[0].log()
            );
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = changed {
            std::panic::resume_unwind(panic);
        }
    });
    println!("{} answered", answered.load(Ordering::Relaxed));
    // Every core of the last one accepts.
    let last = servers.last().unwrap();
    for _ in 0..20 {
        assert_same(
            &get(address, PATH, &[]).body,
            &place.content,
            "from the last server",
        );
    }
    assert!(number(&last.status(), &["totals", "accepted_connections"]) >= 20);
}

fn a_server_that_does_not_become_ready_changes_nothing(io: Backend) {
    let place = Place::new();
    let mut old = place.start(io, &[]);
    let serves = |old: &Server| {
        assert_same(
            &get(old.objects, PATH, &[]).body,
            &place.content,
            "the object",
        );
        assert_eq!(get(old.admin, "/readyz", &[]).status(), 200);
    };
    // It ends after it got the listeners: it has no stores.
    let socket = place.socket.to_str().unwrap();
    let mut command = common::penstock();
    command.args([
        "serve",
        "--memory",
        "100MiB",
        "--take-over",
        socket,
        "--listen",
        "127.0.0.1:0",
    ]);
    command.arg("--store").arg(place.stores.file("nowhere"));
    let error = Server::launch(command).err().unwrap();
    assert!(
        error.contains("taking over") && error.contains("nowhere"),
        "{error}"
    );
    old.wait_for_log("this server goes on");
    serves(&old);
    // Both together would be too much.
    let limit = memory_limit(Path::new("/")).unwrap().bytes;
    let most = limit.to_string();
    let options = ["--take-over", socket, "--memory", &most];
    let error = Server::launch(Server::command(&place.stores, io, &options))
        .err()
        .unwrap();
    assert!(
        error.contains("count together until that one has ended"),
        "{error}"
    );
    old.wait_for_log("this server goes on");
    serves(&old);
    // Nobody may take the place where it hands over.
    let options = ["--memory", "100MiB", "--hand-over", socket];
    let error = Server::launch(Server::command(&place.stores, io, &options))
        .err()
        .unwrap();
    assert!(
        error.contains("hand-over") && error.contains("in use"),
        "{error}"
    );
    serves(&old);
    // Another address can't be taken over.
    let mut command = common::penstock();
    command.arg("serve").args(place.stores.flags());
    command.args([
        "--memory",
        "100MiB",
        "--take-over",
        socket,
        "--listen",
        "127.0.0.2:0",
    ]);
    let error = Server::launch(command).err().unwrap();
    assert!(
        error.contains("the server that hands over listens on"),
        "{error}"
    );
    serves(&old);
    // A hand-over still works.
    let mut new = place.start(io, &[]);
    assert!(old.wait().success());
    serves(&new);
    new.signal("TERM");
    assert!(new.wait().success());
    assert!(!place.socket.exists());
}

fn a_signal_starts_the_new_server(io: Backend) {
    let place = Place::new();
    let socket = place.socket.to_str().unwrap();
    let options = ["--memory", "100MiB", "--hand-over", socket];
    let mut old = Server::start(&place.stores, io, &options);
    old.signal("USR2");
    assert!(old.wait().success(), "{}", old.log());
    let log = old.log();
    let process = log
        .split_once("process=")
        .map(|(_, rest)| rest)
        .expect("its number");
    let process: String = process.chars().take_while(char::is_ascii_digit).collect();
    assert_same(
        &get(old.objects, PATH, &[]).body,
        &place.content,
        "from the new server",
    );
    assert_eq!(get(old.admin, "/readyz", &[]).status(), 200);
    let ended = Command::new("kill").arg(&process).status().unwrap();
    assert!(ended.success());
    old.wait_for_log("stopped");
    wait_until(|| match place.socket.exists() {
        true => Err("its socket is still there".to_owned()),
        false => Ok(()),
    });
}

fn an_admin_socket_file_is_handed_over(io: Backend) {
    use std::io::{Read as _, Write as _};
    let place = Place::new();
    let (admin, socket) = (
        place.stores.file("admin.sock"),
        place.socket.to_str().unwrap(),
    );
    let start = || {
        let mut command = common::penstock();
        command.arg("serve").args(place.stores.flags());
        command.args([
            "--memory",
            "100MiB",
            "--hand-over",
            socket,
            "--take-over",
            socket,
        ]);
        command.args(["--listen", "127.0.0.1:0", "--io", &io.to_string()]);
        command
            .arg("--admin")
            .arg(format!("unix:{}", admin.display()));
        Server::launch(command).unwrap()
    };
    let ready = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&admin).unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    };
    let mut old = start();
    ready();
    let mut new = start();
    assert!(old.wait().success());
    ready();
    new.signal("TERM");
    assert!(new.wait().success());
    assert!(!admin.exists());
}
