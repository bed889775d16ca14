//! Under a service manager: what it is told, the listeners that it gives, and a stop that load balancers notice first.

mod common;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use common::{Backend, Client, PATH, PATIENCE, Server, assert_same, get, served, wait_until};

on_both_backends! {
    a_service_manager_is_told
    a_listener_of_the_service_manager_outlives_the_server
    an_admin_listener_by_its_name
    load_balancers_notice_before_listeners_close
}

/// The command with a listener as its descriptor 3.
fn activated(command: &Command, listener: TcpListener, names: &str) -> Command {
    let mut shell = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    shell.args(["-c", script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
        .env_remove("RUST_LOG")
        .stdin(Stdio::from(OwnedFd::from(listener)));
    if !names.is_empty() {
        shell.env("LISTEN_FDNAMES", names);
    }
    shell
}

fn a_service_manager_is_told(io: Backend) {
    let (stores, _, _) = served(io);
    let path = stores.file("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = |wanted: &str| loop {
        let mut message = [0; 4096];
        let length = manager
            .recv(&mut message)
            .unwrap_or_else(|error| panic!("no {wanted}: {error}"));
        let message = String::from_utf8(message[..length].to_vec()).unwrap();
        if message.lines().any(|line| line.starts_with(wanted)) {
            return message;
        }
    };
    let mut command = Server::command(&stores, io, &[]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1500000");
    let mut server = Server::launch(command).unwrap();
    told("READY=1");
    // As long as the cores tick.
    told("WATCHDOG=1");
    told("WATCHDOG=1");
    server.signal("HUP");
    assert!(told("RELOADING=1").contains("MONOTONIC_USEC="));
    told("READY=1");
    server.signal("TERM");
    told("STOPPING=1");
    assert!(server.wait().success());
}

/// A server that shut down its listeners at the end would take them from the service manager too. Connections that the
/// listener had completed before did not inherit what bounds their memory.
fn a_listener_of_the_service_manager_outlives_the_server(io: Backend) {
    let (stores, _, content) = served(io);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for round in 0..2 {
        // Nobody accepts yet.
        let mut client = Client::connect_small(address);
        client.ask("GET", PATH, &[]);
        let command = Server::command(&stores, io, &["--cores", "3"]);
        let command = activated(&command, listener.try_clone().unwrap(), "");
        let mut server = Server::launch(command).unwrap();
        assert_eq!(server.objects, address);
        assert_eq!(client.head().status, 200);
        server.expect_stalled_within_plan(1);
        for _ in 0..20 {
            assert_same(&get(address, PATH, &[]).body, &content, "another client");
        }
        assert_same(&client.body(content.len()), &content, "the first client");
        server.signal("TERM");
        assert!(server.wait().success(), "round {round}: {}", server.log());
    }
    assert!(
        Client::connect(address)
            .try_send("it listens still")
            .is_ok()
    );
}

fn an_admin_listener_by_its_name(io: Backend) {
    let (stores, _, content) = served(io);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let command = Server::command(&stores, io, &[]);
    let server = Server::launch(activated(&command, listener, "admin")).unwrap();
    assert_eq!(server.admin, address);
    assert_eq!(get(address, "/readyz", &[]).status(), 200);
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    drop(server);
    // What is no listener is refused.
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut shell = activated(&command, TcpListener::bind("127.0.0.1:0").unwrap(), "");
    shell.stdin(Stdio::from(OwnedFd::from(socket)));
    let error = Server::launch(shell).err().unwrap();
    assert!(
        error.contains("of the service manager: not a socket that listens"),
        "{error}"
    );
}

fn load_balancers_notice_before_listeners_close(io: Backend) {
    let (stores, _, content) = served(io);
    let mut server = Server::start(&stores, io, &["--drain-delay", "1h"]);
    assert_eq!(get(server.admin, "/readyz", &[]).status(), 200);
    server.signal("TERM");
    wait_until(|| match get(server.admin, "/readyz", &[]).status() {
        503 => Ok(()),
        status => Err(format!("{status} after SIGTERM")),
    });
    assert_eq!(get(server.admin, "/healthz", &[]).status(), 200);
    let mut client = Client::connect(server.objects);
    for _ in 0..2 {
        let whole = client.request("GET", PATH, &[]);
        assert_same(&whole.body, &content, "the object");
    }
    // A second one is not waited for.
    server.signal("TERM");
    assert!(server.wait().success());
}
