//! The operator's side: options and the configuration file, errors at start, the choice of a backend, the demo.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::secure::Identity;
use common::{
    Backend, Client, PATH, Server, Stores, assert_same, get, number, penstock, program, run,
    served, sha256, skip,
};
use penstock::io::{Resource, raise_resource_limit};
use serde_json::Value;

on_both_backends! {
    every_option_is_a_key_of_the_file
    options_override_the_file
    one_store_of_several_is_missing
    a_pool_that_cannot_be_registered
    too_little_memory_for_a_ring
    few_descriptors_suffice
}

/// The admin token of [`config`].
const TOKEN: &str = "0123456789abcdef";

/// A file of all options, each with a value that is not its default.
fn config(stores: &Stores, io: Backend) -> String {
    // Nobody is there to take over from.
    let hand_over = stores.file("hand-over");
    let token = stores.file("token");
    fs::write(&token, TOKEN).unwrap();
    let keys = stores.file("keys.toml");
    fs::write(
        &keys,
        "[[key]]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
    )
    .unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let paths: Vec<String> = stores
        .paths
        .iter()
        .map(|path| format!("{path:?}"))
        .collect();
    let access_log = stores.file("access.log");
    let cache = stores.file("cache");
    let [certificate, key] = Identity::shared().write(stores, "tls");
    let ocsp = stores.file("tls.ocsp");
    fs::write(&ocsp, [0x30, 0]).unwrap();
    format!(
        "store = [{}]\n\
         store_timeout = \"4s\"\n\
         survey_every = \"0s\"\n\
         cache = {cache:?}\n\
         cache_size = \"100MiB\"\n\
         store_ttl = \"30s\"\n\
         fetches = 8\n\
         no_hedging = true\n\
         allow_stale = true\n\
         hot_objects = \"1MiB\"\n\
         share_files = 100\n\
         tahoe_node = [\"/\"]\n\
         tahoe_segment_max = \"2MiB\"\n\
         listen = \"127.0.0.1:0\"\n\
         tls_listen = \"127.0.0.1:0\"\n\
         tls_cert = [{certificate:?}]\n\
         tls_key = [{key:?}]\n\
         tls_ocsp = [{ocsp:?}]\n\
         redirect_http = false\n\
         admin = \"127.0.0.1:0\"\n\
         admin_host = \"edge.example\"\n\
         admin_token_file = {token:?}\n\
         cores = 1\n\
         io = \"{io}\"\n\
         pool_buffers = 5\n\
         pool_buffer_size = \"1MiB\"\n\
         memory = \"300MiB\"\n\
         read_ahead = \"5MiB\"\n\
         rebuilt_blocks = \"6MiB\"\n\
         max_connections = 77\n\
         max_connections_per_address = 66\n\
         over_limit = \"wait\"\n\
         min_rate = \"1KiB\"\n\
         verify = \"once\"\n\
         verify_age = \"3m\"\n\
         zero_copy = \"auto\"\n\
         send_buffer_max = \"64KiB\"\n\
         head_timeout = \"150ms\"\n\
         idle_timeout = \"7m\"\n\
         send_timeout = \"8m\"\n\
         stalled_loan_timeout = \"9m\"\n\
         rate_per_connection = \"1GiB\"\n\
         rate_per_address = \"2GiB\"\n\
         rate_per_network = \"3GiB\"\n\
         cors_origin = [\"https://example.org\"]\n\
         trusted_proxy = [\"10.0.0.0/8\"]\n\
         client_address = \"forwarded\"\n\
         proxy_protocol = true\n\
         index = \"index.html\"\n\
         s3_bucket = [\"media\"]\n\
         s3_region = \"eu-west-1\"\n\
         keys_file = {keys:?}\n\
         require_signature = false\n\
         drain_delay = \"1s\"\n\
         drain_timeout = \"9s\"\n\
         hand_over = {hand_over:?}\n\
         take_over = {hand_over:?}\n\
         log = \"debug\"\n\
         access_log = {access_log:?}\n\
         access_log_format = \"json\"\n",
        paths.join(", ")
    )
}

fn status_with_token(server: &Server) -> Value {
    let token = format!("Authorization: Bearer {TOKEN}");
    let status = get(server.admin, "/status", &[&token]);
    serde_json::from_slice(&status.body).expect("JSON")
}

fn every_option_is_a_key_of_the_file(io: Backend) {
    let stores = Stores::new(2);
    stores.put("key", &mut &b"value"[..], 1, 4096);
    let text = config(&stores, io);

    let help = run(penstock().args(["serve", "--help"]));
    let options: BTreeSet<String> = help
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| {
            word.trim_matches(|c: char| !c.is_ascii_lowercase())
                .replace('-', "_")
        })
        // The admin listener is asked by TLS with the last, which has a test of its own. What every command has is none of
        // the server's: `log` says the same in the file.
        .filter(|option| {
            let of_all = ["config", "help", "version", "quiet", "verbose"];
            !of_all.contains(&option.as_str()) && option != "admin_client_ca"
        })
        .collect();
    let keys: BTreeSet<String> = text
        .lines()
        .map(|line| line.split_once(" = ").unwrap().0.to_owned())
        .collect();
    assert_eq!(keys, options, "keys of the file, options of the help");

    let file = stores.file("penstock.toml");
    fs::write(&file, text).unwrap();
    let mut command = penstock();
    command.arg("serve").arg("--config").arg(&file);
    let server = Server::launch(command).unwrap();
    assert_eq!(get(server.objects, "/key", &[]).text(), "value");
    let status = status_with_token(&server);
    assert_eq!(status["cores"], 1);
    assert_eq!(status["io_backend"], io.to_string());
    assert_eq!(status["memory"]["connections_max"], 77);
    assert_eq!(status["totals"]["pool_buffers"], 5);
    assert_eq!(status["totals"]["readahead_buffers"], 4);
    let mut client = Client::connect(server.objects);
    client.send("GET");
    assert_eq!(
        client.response("GET").status(),
        408,
        "the head's time is short"
    );
}

fn options_override_the_file(io: Backend) {
    let stores = Stores::new(2);
    stores.put("key", &mut &b"value"[..], 1, 4096);
    let file = stores.file("penstock.toml");
    let other = if io == Backend::Epoll {
        Backend::Uring
    } else {
        Backend::Epoll
    };
    fs::write(&file, config(&stores, other)).unwrap();
    let mut command = penstock();
    command
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .args(["--io", &io.to_string()]);
    command.args([
        "--pool-buffers",
        "6",
        "--max-connections",
        "78",
        "--cores",
        "2",
    ]);
    let status = status_with_token(&Server::launch(command).unwrap());
    assert_eq!(status["io_backend"], io.to_string());
    assert_eq!(status["cores"], 2);
    assert_eq!(status["memory"]["connections_max"], 78);
    assert_eq!(status["totals"]["pool_buffers"], 12, "six for each core");
}

fn one_store_of_several_is_missing(io: Backend) {
    let (stores, server, content) = served(io);
    drop(server);
    stores.remove_store(4);
    let server = Server::start(&stores, io, &[]);
    server.wait_for_log("the store is missing");
    server.wait_for_log(stores.paths[4].to_str().unwrap());
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
}

#[test]
fn the_backend_is_chosen_and_logged() {
    let stores = Stores::new(1);
    let mut command = penstock();
    command.arg("serve").args(stores.flags());
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    // Without --io the server chooses as with auto: uring where it is allowed.
    let server = Server::launch(command).unwrap();
    let backend = server.status()["io_backend"].as_str().unwrap().to_owned();
    server.wait_for_log(&format!("backend={backend}"));
    match backend.as_str() {
        "uring" => {}
        "epoll" => server.wait_for_log("io_uring can't be used, epoll takes its place"),
        other => panic!("{other}"),
    }
}

/// The command as an ordinary user runs it, who may lock this much memory; `None` if this machine cannot do that.
fn with_locked_memory(command: &Command, kib: u32) -> Option<Command> {
    // A process with CAP_IPC_LOCK is not bound by the limit.
    let unbound = fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| {
            let caps = line
                .strip_prefix("CapEff:")
                .map(|caps| u64::from_str_radix(caps.trim(), 16));
            caps.is_some_and(|caps| caps.unwrap() & 1 << 14 != 0)
        });
    if unbound {
        program("setpriv")?;
    }
    let drop_capability = if unbound {
        "setpriv --bounding-set -ipc_lock"
    } else {
        ""
    };
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        &format!("ulimit -l {kib} && exec {drop_capability} \"$@\""),
        "sh",
    ]);
    shell
        .arg(command.get_program())
        .args(command.get_args())
        .env_remove("RUST_LOG");
    Some(shell)
}

fn a_pool_that_cannot_be_registered(io: Backend) {
    let (stores, _, content) = served(io);
    // Enough memory for two rings, and not for a pool of 4 MiB.
    let command = Server::command(&stores, io, &[]);
    let Some(command) = with_locked_memory(&command, 1024) else {
        return;
    };
    let server = Server::launch(command).unwrap();
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    assert_eq!(server.status()["io_backend"], io.to_string());
    if io == Backend::Uring {
        server.wait_for_log("pool buffers are not registered with io_uring");
        server.wait_for_log("RLIMIT_MEMLOCK");
    }
    if io == Backend::Uring && penstock::io::probe_zero_copy().is_ok() {
        // Zero-copy sends then pin memory message by message, as far as the limit allows.
        let options = ["--zero-copy", "always", "--verify", "always"];
        let options = [&options[..], &["--max-connections", "100"]].concat();
        let command = Server::command(&stores, io, &options);
        let Some(command) = with_locked_memory(&command, 3000) else {
            return;
        };
        let server = Server::launch(command).unwrap();
        for _ in 0..20 {
            assert_same(&get(server.objects, PATH, &[]).body, &content, "pinned");
        }
        let sent = ["zero_copy_bytes", "copied_bytes"].map(|name| server.total(name));
        println!("{sent:?} bytes by reference and by copy");
        assert_eq!(sent.iter().sum::<u64>(), 20 * content.len() as u64);
    }
}

/// Containers often may lock 64 KiB, and the kernel counts a ring's own memory. The server once ended with "core 0:
/// Cannot allocate memory", because its probe had created a small ring.
fn too_little_memory_for_a_ring(io: Backend) {
    let (stores, _, content) = served(io);
    let launch = |io: &str| {
        let mut command = penstock();
        command.arg("serve").args(stores.flags()).args(["--io", io]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        with_locked_memory(&command, 64).map(Server::launch)
    };
    // Older kernels do not count a ring's memory; then the server starts.
    match launch(&io.to_string()) {
        None => return,
        Some(Err(error)) if io == Backend::Uring => {
            assert!(
                error.contains("--io uring: ") && error.contains("ulimit -l"),
                "{error}"
            );
        }
        Some(server) => drop(server.unwrap()),
    }
    let server = launch("auto").unwrap().unwrap();
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
}

/// As many descriptors as a login may often open. The server once reserved twice as many for share files and refused to
/// start.
fn few_descriptors_suffice(io: Backend) {
    let (stores, _, content) = served(io);
    if raise_resource_limit(Resource::Descriptors).unwrap() < 1024 {
        return skip("fewer than 1024 descriptors are allowed here");
    }
    let limited = |options: &[&str]| {
        let command = Server::command(&stores, io, options);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 1024 && exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell.env_remove("RUST_LOG");
        Server::launch(shell)
    };
    let server = limited(&[]).unwrap();
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    let seats = number(&server.status(), &["memory", "connections_max"]);
    assert!((300..1000).contains(&seats), "{seats}");
    // A number that was asked for is not reduced.
    let error = limited(&["--share-files", "4096"]).err().unwrap();
    assert!(error.contains("--share-files"), "{error}");
}

/// The message of `penstock` when it fails.
fn failure(arguments: &[&str]) -> String {
    let output = penstock().args(arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} started");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    assert!(
        output.status.code().is_some(),
        "{arguments:?} was killed: {errors}"
    );
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    errors
}

#[test]
fn errors_at_start_name_the_problem() {
    let stores = Stores::new(1);
    let store = stores.paths[0].to_str().unwrap();
    let nowhere = stores.file("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();

    for (arguments, words) in [
        (&["serve"][..], &["store"][..]),
        (
            &["serve", "--store", nowhere],
            &["none of the stores can be read", nowhere],
        ),
        (
            &[
                "serve",
                "--store",
                store,
                "--listen",
                &taken,
                "--admin",
                "127.0.0.1:0",
            ],
            &["cannot listen on", &taken, "objects", "in use"],
        ),
        (
            &[
                "serve",
                "--store",
                store,
                "--listen",
                "127.0.0.1:0",
                "--admin",
                &taken,
            ],
            &["cannot listen on", &taken, "admin", "in use"],
        ),
        (
            &["serve", "--store", store, "--listen", "here"],
            &["--listen", "here"],
        ),
        (
            &["serve", "--store", store, "--io", "magic"],
            &["--io", "magic", "auto, uring, epoll"],
        ),
        (
            &["serve", "--store", store, "--pool-buffers", "0"],
            &["--pool-buffers 0", "between 1 and"],
        ),
        (
            &["serve", "--store", store, "--pool-buffers", "x"],
            &["--pool-buffers", "x"],
        ),
        (
            &["serve", "--store", store, "--pool-buffer-size", "70000"],
            &["pool-buffer-size", "4KiB"],
        ),
        (
            &["serve", "--store", store, "--pool-buffer-size", "8EiB"],
            &["pool-buffer-size", "between"],
        ),
        (
            &["serve", "--store", store, "--cores", "0"],
            &["--cores 0", "between 1 and"],
        ),
        (
            &["serve", "--store", store, "--max-connections", "0"],
            &["--max-connections 0", "between"],
        ),
        (
            &["serve", "--store", store, "--max-connections", "9999999"],
            &["--memory", "--max-connections"],
        ),
        (
            &["serve", "--store", store, "--head-timeout", "1ms"],
            &["--head-timeout", "between"],
        ),
        (
            &["serve", "--store", store, "--idle-timeout", "soon"],
            &["--idle-timeout", "soon"],
        ),
        (
            &["serve", "--store", store, "--config", nowhere],
            &[nowhere, "No such file"],
        ),
        (&["serve", "--stor", store], &["--stor", "--store"]),
        (
            &["serve", "--store", store, "--over-limit", "maybe"],
            &["--over-limit", "maybe", "refuse", "wait"],
        ),
        (
            &["serve", "--store", store, "--memory", "1MiB"],
            &["--memory 1MiB"],
        ),
        // These once aborted, or started and were killed later.
        (
            &["serve", "--store", store, "--memory", "10TiB"],
            &["--memory 10TiB: ", " allows ", "MiB; declare less"],
        ),
        (
            &["plan", "--memory", "64TiB"],
            &["--memory 64TiB: ", " allows ", "MiB; declare less"],
        ),
        (
            &["serve", "--store", store, "--memory", "big"],
            &["--memory", "big", "not a size, such as 512MiB"],
        ),
        (
            &[
                "serve",
                "--store",
                store,
                "--listen",
                "nowhere.invalid:80",
                "--admin",
                "127.0.0.1:0",
            ],
            &["cannot resolve nowhere.invalid:80", "localhost:8080"],
        ),
        (
            &["serve", "--store", store, "--admin", "::1:80"],
            &["--admin", "[::1]:8080", "localhost:8080", ":8080"],
        ),
        (&["serv"], &["serv", "serve"]),
    ] {
        let errors = failure(arguments);
        for word in words {
            assert!(
                errors.contains(word),
                "{arguments:?}: no {word:?} in {errors}"
            );
        }
    }
}

/// With a name, and with a port alone, as other servers take them.
#[test]
fn addresses_in_other_forms() {
    let stores = Stores::new(2);
    stores.put("key", &mut &b"value"[..], 1, 4096);
    let mut command = penstock();
    command.arg("serve").args(stores.flags());
    command.args(["--listen", "localhost:0", "--admin", ":0"]);
    let server = Server::launch(command).unwrap();
    assert!(server.objects.ip().is_loopback(), "{}", server.objects);
    server.wait_for_log("localhost:0");
    assert_eq!(get(server.objects, "/key", &[]).text(), "value");
    assert!(server.admin.ip().is_unspecified(), "{}", server.admin);
    // All addresses: with IPv6, also those of IPv4.
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, server.admin.port()));
    assert_eq!(get(admin, "/healthz", &[]).status(), 200);
}

#[test]
fn errors_in_the_file_name_the_line() {
    let stores = Stores::new(1);
    let file = stores.file("penstock.toml");
    for (text, words) in [
        (
            "cores = 1\nstroe = [\"/x\"]\n",
            &["line 2", "stroe", "store"][..],
        ),
        ("cores = \"many\"\n", &["line 1", "cores"]),
        ("io = \"magic\"\n", &["magic", "`auto`, `uring`, `epoll`"]),
        ("head_timeout = \"soon\"\n", &["head_timeout"]),
        ("listen = true\n", &["listen"]),
        ("pool_buffers = -1\n", &["pool_buffers", "-1"]),
        (
            "pool_buffers = 0\nstore = [\"/x\"]\n",
            &["line 1", "pool_buffers = 0", "between"],
        ),
        ("cores = \n", &["line 1"]),
        ("[server]\ncores = 1\n", &["server"]),
    ] {
        fs::write(&file, text).unwrap();
        let errors = failure(&["serve", "--config", file.to_str().unwrap()]);
        for word in words {
            assert!(errors.contains(word), "{text:?}: no {word:?} in {errors}");
        }
    }
}

#[test]
fn the_demo_serves_what_it_prints() {
    let stores = Stores::new(0);
    let dir = stores.file("demo");
    let mut command = penstock();
    command
        .arg("demo")
        .arg("--dir")
        .arg(&dir)
        .args(["--listen", "127.0.0.1:0"]);
    let mut server = Server::launch(command).unwrap();
    let said = |name: &str| {
        let mut lines = server.printed.lines().map(str::trim);
        let line = lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| {
                panic!("no {name} in {}", server.printed);
            });
        line.trim().to_owned()
    };
    let (url, digest) = (said("url"), said("sha256"));
    let path = url
        .strip_prefix(&format!("http://{}", server.objects))
        .expect("its own address");
    assert!(
        server.printed.contains(&format!("curl -o demo.bin {url}")),
        "{}",
        server.printed
    );
    let whole = get(server.objects, path, &[]);
    assert_eq!(sha256(&whole.body), digest);
    assert_eq!(whole.field("ETag"), Some(format!("\"{digest}\"").as_str()));
    assert!(
        server.total("rebuilt_bytes") > 0,
        "two of its disks are gone"
    );
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(dir.is_dir(), "a directory that was asked for stays");
}
