//! Signals to a running server: SIGHUP reads the configuration again, SIGUSR1 is for log files. Downloads go on.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Backend, Client, KEY, Noise, Server, Stores, assert_same, get, number, penstock, wait_until,
};
use serde_json::Value;

on_both_backends! {
    signals_end_no_server
    a_download_goes_on_across_reloads
    a_bad_file_changes_nothing
    timeouts_and_limits_change
    stores_come_and_go
    admin_hosts_and_token_change
}

const SIZE: usize = 8 << 20;
const PATH: &str = common::PATH;

/// A server with a file of options, and what it serves.
struct Configured {
    stores: Stores,
    file: PathBuf,
    content: Vec<u8>,
    server: Server,
}

/// The file's lines that name these stores.
fn stores_line(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
    format!("store = [{}]\n", paths.join(", "))
}

impl Configured {
    fn start(io: Backend, served: usize, lines: &str) -> Configured {
        let stores = Stores::new(6);
        let content = Noise::new(7).bytes(SIZE);
        stores.put_bytes(&content);
        let file = stores.file("penstock.toml");
        fs::write(&file, stores_line(&stores.paths[..served]) + lines).unwrap();
        let server = launch(io, &file);
        Configured {
            stores,
            file,
            content,
            server,
        }
    }

    /// Has the server read this file. Returns the report of it.
    fn reload(&self, text: &str) -> Value {
        fs::write(&self.file, text).unwrap();
        let done = reloads(&self.server);
        self.server.signal("HUP");
        wait_until(|| match reloads(&self.server) > done {
            true => Ok(()),
            false => Err("it did not reload".to_owned()),
        });
        self.server.status()["last_reload"].clone()
    }

    fn stores_line(&self, served: usize) -> String {
        stores_line(&self.stores.paths[..served])
    }
}

fn launch(io: Backend, file: &Path) -> Server {
    let mut command = penstock();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--cores", "2", "--io", &io.to_string()]);
    command.arg("--config").arg(file);
    Server::launch(command).unwrap()
}

/// Reloads so far, refused ones included.
fn reloads(server: &Server) -> u64 {
    let metrics = get(server.admin, "/metrics", &[]);
    let counts = metrics.text().lines().filter_map(|line| {
        let count = line.strip_prefix("penstock_config_reloads_total{")?;
        count.split_once("} ")?.1.parse::<u64>().ok()
    });
    let counts: Vec<u64> = counts.collect();
    assert_eq!(counts.len(), 2, "{}", metrics.text());
    counts.iter().sum()
}

/// A client that has begun to download the object and takes no more for now.
fn begun(server: &Server) -> Client {
    let mut client = Client::connect_small(server.objects);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    client
}

/// SIGHUP and SIGUSR1 once ended the server, with all its downloads.
fn signals_end_no_server(io: Backend) {
    let (_stores, mut server, content) = common::served(io);
    for (signal, said) in [
        ("HUP", "configuration read again"),
        ("USR1", "log files are opened again"),
        ("USR2", "SIGUSR2"),
    ] {
        server.signal(signal);
        server.wait_for_log(said);
        assert!(!server.has_ended(), "{signal}");
    }
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    server.signal("TERM");
    assert!(server.wait().success());
}

fn a_download_goes_on_across_reloads(io: Backend) {
    let at = Configured::start(io, 6, "");
    let mut client = begun(&at.server);
    let mut got = client.body(SIZE / 4);
    // Other times, then fewer stores, then one of them back, then all.
    for (served, line) in [(6, "idle_timeout = \"2m\"\n"), (4, ""), (5, ""), (6, "")] {
        let report = at.reload(&(at.stores_line(served) + line));
        assert_eq!(report["error"], Value::Null, "{report:#}");
        assert_eq!(report["needs_restart"], Value::Null, "{report:#}");
        got.extend(client.body(SIZE / 8));
        let whole = get(at.server.objects, PATH, &[]);
        assert_same(&whole.body, &at.content, "another download");
    }
    got.extend(client.body(SIZE - got.len()));
    assert_same(&got, &at.content, "the download across reloads");
    client.expect_open(PATH);
}

fn a_bad_file_changes_nothing(io: Backend) {
    let at = Configured::start(io, 6, "allow_stale = true\n");
    let mut client = begun(&at.server);
    let mut got = client.body(SIZE / 4);
    let nowhere = at.stores.file("nowhere");
    for (text, words) in [
        (
            "idle_timeout = \"soon\"\n".to_owned(),
            &["line 1", "idle_timeout", "\"soon\""][..],
        ),
        (
            "stroe = []\n".to_owned(),
            &["line 1", "there is no key `stroe`", "`store`"],
        ),
        ("cores = \n".to_owned(), &["line 1"]),
        ("idle_timeout = \"2m\"\n".to_owned(), &["nothing to serve"]),
        (
            stores_line(&[nowhere]),
            &["none of the stores can be read", "nowhere"],
        ),
        (
            stores_line(&[at.stores.paths[0].clone(), at.stores.paths[0].clone()]),
            &["are the same directory"],
        ),
    ] {
        let report = at.reload(&text);
        let error = report["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{text}: {report:#}"));
        for word in words {
            assert!(error.contains(word), "{text}: no {word:?} in {error}");
        }
        assert!(
            at.server
                .log()
                .contains("the new configuration is not used")
        );
        let stores = at.server.status()["stores"].as_array().unwrap().len();
        assert_eq!(stores, 6, "{text}");
        let whole = get(at.server.objects, PATH, &[]);
        assert_same(&whole.body, &at.content, "another download");
    }
    assert!(
        get(at.server.admin, "/metrics", &[])
            .text()
            .contains("config_last_reload_good 0")
    );
    // A good one is used again.
    let report = at.reload(&at.stores_line(6));
    assert_eq!(report["error"], Value::Null, "{report:#}");
    assert!(
        get(at.server.admin, "/metrics", &[])
            .text()
            .contains("config_last_reload_good 1")
    );
    got.extend(client.body(SIZE - got.len()));
    assert_same(&got, &at.content, "the download across reloads");
}

fn timeouts_and_limits_change(io: Backend) {
    let at = Configured::start(io, 6, "head_timeout = \"5m\"\n");
    let mut early = Client::connect(at.server.objects);
    early.send("GET");
    let lines = "head_timeout = \"200ms\"\nmax_connections_per_address = 2\ncores = 1\nmemory = \"100MiB\"\n";
    let report = at.reload(&(at.stores_line(6) + lines));
    // The command line's number of cores goes before the file's.
    assert_eq!(
        report["needs_restart"],
        serde_json::json!(["memory"]),
        "{report:#}"
    );
    at.server.wait_for_log("needs a restart: memory");
    assert_eq!(early.response("GET").status(), 408, "its time is over now");
    drop(early);
    // The new limit counts connections that come from now on.
    let first = Client::connect(at.server.objects);
    let second = Client::connect(at.server.objects);
    at.server.wait_for_status("both", |status| {
        number(status, &["connections", "idle"]) >= 2
    });
    let third = get(at.server.objects, PATH, &[]);
    assert_eq!(third.status(), 503, "{}", third.text());
    let report = at.reload(&at.stores_line(6));
    assert_eq!(report["error"], Value::Null);
    let third = get(at.server.objects, PATH, &[]);
    assert_same(&third.body, &at.content, "no limit any more");
    drop((first, second));
}

fn stores_come_and_go(io: Backend) {
    let at = Configured::start(io, 3, "");
    // Three of four shares that it takes.
    assert_eq!(get(at.server.objects, PATH, &[]).status(), 500);
    at.reload(&at.stores_line(6));
    let whole = get(at.server.objects, PATH, &[]);
    assert_same(&whole.body, &at.content, "with all stores");
    let mut client = begun(&at.server);
    let mut got = client.body(SIZE / 4);
    // Too few are left for new requests; who has begun goes on, even from those that are removed.
    at.reload(&at.stores_line(2));
    let status = at.server.wait_for_status("two stores", |status| {
        status["stores"]
            .as_array()
            .is_some_and(|stores| stores.len() == 2)
    });
    println!("{}", status["stores"]);
    wait_until(|| match get(at.server.objects, PATH, &[]).status() {
        500 => Ok(()),
        status => Err(format!("{status} from two stores")),
    });
    got.extend(client.body(SIZE - got.len()));
    assert_same(&got, &at.content, "the download that had begun");
    drop(client);
    // Then nothing is open of what was removed.
    let removed: Vec<&Path> = at.stores.paths[2..].iter().map(PathBuf::as_path).collect();
    wait_until(|| match open_below(&at.server, &removed) {
        open if open.is_empty() => Ok(()),
        open => Err(format!("still open: {open:?}")),
    });
    // One that is not there is looked for, as at the start.
    let away = at.stores.paths[5].with_extension("away");
    fs::rename(&at.stores.paths[5], &away).unwrap();
    let report = at.reload(&at.stores_line(6));
    assert_eq!(report["error"], Value::Null, "{report:#}");
    let whole = get(at.server.objects, PATH, &[]);
    assert_same(&whole.body, &at.content, "with five stores");
    fs::rename(&away, &at.stores.paths[5]).unwrap();
    at.server
        .wait_for_status("six stores that serve", |status| {
            let stores = status["stores"].as_array().unwrap();
            stores
                .iter()
                .filter(|store| store["state"] == "serving")
                .count()
                == 6
        });
    assert_eq!(KEY, &PATH[1..]);
}

/// What the server has open below these directories.
fn open_below(server: &Server, dirs: &[&Path]) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let files = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    files
        .filter(|file| dirs.iter().any(|dir| file.starts_with(dir)))
        .collect()
}

fn admin_hosts_and_token_change(io: Backend) {
    let at = Configured::start(io, 6, "");
    let asked = |host: &str, fields: &str| {
        let mut client = Client::connect(at.server.admin);
        client.send(format!(
            "GET /status HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
        ));
        client.response("GET").status()
    };
    assert_eq!(asked("edge.example", ""), 421);
    at.reload(&(at.stores_line(6) + "admin_host = [\"edge.example\"]\n"));
    assert_eq!(asked("edge.example", ""), 200);
    let token = at.stores.file("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    let with_token = at.stores_line(6) + &format!("admin_token_file = {token:?}\n");
    fs::write(&at.file, with_token).unwrap();
    at.server.signal("HUP");
    wait_until(|| match asked("localhost", "") {
        401 => Ok(()),
        status => Err(format!("{status} without the token")),
    });
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(asked("localhost", &bearer("0123456789abcdef")), 200);
    // The file's new content counts, though its name is the same.
    fs::write(&token, "fedcba9876543210\n").unwrap();
    at.server.signal("HUP");
    wait_until(|| match asked("localhost", &bearer("fedcba9876543210")) {
        200 => Ok(()),
        status => Err(format!("{status} with the new token")),
    });
    assert_eq!(asked("localhost", &bearer("0123456789abcdef")), 401);
}
