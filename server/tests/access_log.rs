//! The access log and what is measured of requests: every request once, no secret, and no core that waits for a disk.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use common::{
    Backend, Client, KEY, Noise, PATH, SIZE, Server, Stores, assert_same, get, number, penstock,
    wait_until,
};
use serde_json::Value;

on_both_backends! {
    every_request_is_a_line
    a_combined_line_is_what_tools_read
    secrets_are_not_logged
    what_is_cut_off_is_logged_as_such
    degraded_objects_are_told
    a_renamed_log_is_begun_again
    a_reader_that_stalls_holds_up_nobody
    requests_are_measured
}

/// Six stores with an object, and a server of them that logs.
fn logged(io: Backend, format: &str) -> (Stores, Server, PathBuf) {
    let stores = Stores::new(6);
    stores.put_bytes(&Noise::new(1).bytes(SIZE));
    let file = stores.file("access.log");
    let path = file.to_str().unwrap().to_owned();
    let options = ["--access-log", &path, "--access-log-format", format];
    let server = Server::start(&stores, io, &options);
    (stores, server, file)
}

/// The lines of the log, once there are so many.
fn lines(file: &Path, count: usize) -> Vec<String> {
    wait_until(|| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        match text.ends_with('\n') && lines.len() >= count {
            true => Ok(lines),
            false => Err(format!("{count} lines expected: {text}")),
        }
    })
}

fn json_lines(file: &Path, count: usize) -> Vec<Value> {
    let lines = lines(file, count);
    assert_eq!(lines.len(), count, "{lines:#?}");
    let parsed = lines.iter().map(|line| serde_json::from_str(line));
    parsed.collect::<Result<_, _>>().unwrap()
}

fn every_request_is_a_line(io: Backend) {
    let (_stores, server, file) = logged(io, "json");
    let mut client = Client::connect(server.objects);
    let fields = [
        "X-Request-Id: abc.1",
        "Referer: http://h/\"x\"",
        "User-Agent: test/1",
    ];
    let whole = client.request("GET", PATH, &fields);
    assert_eq!(whole.field("X-Request-Id"), Some("abc.1"));
    let head = client.request("HEAD", PATH, &["X-Request-Id: not one"]);
    let part = client.request("GET", PATH, &["Range: bytes=5-9"]);
    let nothing = client.request("GET", "/nothing?a=b", &[]);
    // Two at once.
    client.ask("GET", PATH, &["If-None-Match: *", "X-Request-Id: first"]);
    client.ask("OPTIONS", "*", &["X-Request-Id: second"]);
    for (id, status) in [("first", 304), ("second", 204)] {
        let answer = client.response("HEAD");
        assert_eq!(
            (answer.status(), answer.field("X-Request-Id")),
            (status, Some(id))
        );
    }
    client.send("nonsense \"\\\r\n\r\n");
    assert_eq!(client.response("GET").status(), 400);
    let lines = json_lines(&file, 7);
    let of = |name: &str| -> Vec<Value> { lines.iter().map(|line| line[name].clone()).collect() };
    assert_eq!(of("status"), [200, 200, 206, 404, 304, 204, 400]);
    assert_eq!(
        of("method"),
        ["GET", "HEAD", "GET", "GET", "GET", "OPTIONS", "-"]
    );
    let targets = [PATH, PATH, PATH, "/nothing?a=b", PATH, "*", "nonsense \"\\"];
    assert_eq!(of("target"), targets);
    assert!(of("complete").iter().all(|it| *it == true));
    assert!(of("degraded").iter().all(|it| *it == false));
    assert!(of("client").iter().all(|it| it == "127.0.0.1"));
    let ids = of("request_id");
    for (answer, id) in [
        (&whole, &ids[0]),
        (&head, &ids[1]),
        (&part, &ids[2]),
        (&nothing, &ids[3]),
    ] {
        assert_eq!(answer.field("X-Request-Id"), id.as_str());
    }
    assert_eq!((&ids[4], &ids[5]), (&"first".into(), &"second".into()));
    // Those that were made are 16 hexadecimal digits, and differ.
    let made = [&ids[1], &ids[2], &ids[3], &ids[6]].map(|id| id.as_str().unwrap());
    for (at, id) in made.iter().enumerate() {
        assert!(
            id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        assert!(!made[..at].contains(id));
    }
    assert_eq!(lines[0]["referer"], "http://h/\"x\"");
    assert_eq!(lines[0]["user_agent"], "test/1");
    let heads: u64 = number(&lines[1], &["sent_bytes"]);
    assert!(
        number(&lines[0], &["sent_bytes"]) >= SIZE as u64 && heads < 1000,
        "{lines:#?}"
    );
    for line in &lines {
        let seconds = |name: &str| line[name].as_f64().unwrap();
        assert!(seconds("first_byte_seconds") <= seconds("duration_seconds"));
    }
    assert_same(&whole.body, &Noise::new(1).bytes(SIZE), "beside the log");
    assert_eq!(server.total("access_log_lines_dropped"), 0);
}

fn a_combined_line_is_what_tools_read(io: Backend) {
    let (_stores, server, file) = logged(io, "combined");
    let fields = [
        "Referer: http://h/\"x",
        "User-Agent: a\\b",
        "X-Request-Id: id",
    ];
    let answer = get(server.objects, "/a%22%0a", &fields);
    let line = lines(&file, 1).remove(0);
    let (start, rest) = line.split_once(" [").unwrap();
    assert_eq!(start, "127.0.0.1 - -");
    let (date, rest) = rest.split_once("] ").unwrap();
    assert_eq!((date.len(), &date[20..]), (26, " +0000"), "{date}");
    let expected = r#""GET /a%22%0a HTTP/1.1" 404 "#;
    let rest = rest
        .strip_prefix(expected)
        .unwrap_or_else(|| panic!("{line}"));
    let (bytes, rest) = rest.split_once(' ').unwrap();
    assert!(bytes.parse::<usize>().unwrap() > answer.body.len());
    let expected = r#""http://h/\x22x" "a\x5Cb" id 0."#;
    assert!(rest.starts_with(expected) && rest.ends_with(" -"), "{line}");
}

/// Caps are secrets, and so are the signatures of links: whoever reads the log must not get at what they open.
fn secrets_are_not_logged(io: Backend) {
    let (_stores, server, file) = logged(io, "json");
    let cap = "URI:CHK:5on4y6m3kxdhgca5enjbgdbj3y:w4zxpq4w2ryp6q3yxagvtdgqmalcnit6wf3pvpece4676kofhhuq:3:10:56";
    let encoded = cap.replace(':', "%3A");
    let twice = cap.replace(':', "%253a");
    let targets = [
        format!("/uri/{cap}"),
        format!("/file/{encoded}/@@named=/name"),
        format!("/uri?uri={encoded}&filename=x"),
        format!("/uri?uri={twice}"),
        format!("/{}", cap.to_lowercase()),
        "/k?X-Amz-Signature=w4zxpq4w2ryp6q3y&X-Amz-Expires=1".to_owned(),
    ];
    for target in &targets {
        let fields = [
            &format!("Referer: http://h{target}") as &str,
            &format!("User-Agent: {encoded}"),
            &format!("X-Request-Id: {encoded}"),
        ];
        let answer = get(server.objects, target, &fields);
        assert_ne!(answer.field("X-Request-Id"), Some(&*encoded));
    }
    let mut client = Client::connect(server.objects);
    client.send(format!("GET {cap}\r\n\r\n"));
    client.response("GET");
    for line in json_lines(&file, targets.len() + 1) {
        let text = line.to_string();
        for secret in ["5on4y6", "w4zxpq"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(
            text.contains("[cap]") || text.contains("[signature]"),
            "{text}"
        );
    }
}

fn what_is_cut_off_is_logged_as_such(io: Backend) {
    let stores = Stores::new(6);
    stores.put(KEY, &mut Noise::new(2).reader(8 << 20), 4, common::BLOCK);
    let file = stores.file("access.log");
    let options = [
        "--access-log",
        file.to_str().unwrap(),
        "--access-log-format",
        "json",
    ];
    let server = Server::start(&stores, io, &options);
    let mut client = Client::connect_small(server.objects);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    client.reset();
    let lines = json_lines(&file, 1);
    assert_eq!(
        (&lines[0]["complete"], &lines[0]["status"]),
        (&false.into(), &200.into())
    );
    let sent = number(&lines[0], &["sent_bytes"]);
    assert!(sent > 0 && sent < 8 << 20, "{sent}");
}

fn degraded_objects_are_told(io: Backend) {
    let stores = Stores::new(6);
    stores.put_bytes(&Noise::new(1).bytes(SIZE));
    stores.remove_store(2);
    let file = stores.file("access.log");
    let options = ["--access-log", file.to_str().unwrap()];
    let server = Server::start(&stores, io, &options);
    get(server.objects, PATH, &[]);
    let line = lines(&file, 1).remove(0);
    assert!(line.ends_with(" degraded"), "{line}");
}

fn a_renamed_log_is_begun_again(io: Backend) {
    let (stores, server, file) = logged(io, "combined");
    get(server.objects, "/one", &[]);
    lines(&file, 1);
    let old = stores.file("access.log.1");
    fs::rename(&file, &old).unwrap();
    // Until it is told to, the server writes on where it did.
    get(server.objects, "/two", &[]);
    lines(&old, 2);
    server.signal("USR1");
    server.wait_for_log("SIGUSR1");
    get(server.objects, "/three", &[]);
    assert!(lines(&file, 1)[0].contains("/three"));
    assert_eq!(lines(&old, 2).len(), 2);
}

/// Ends a process when it is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk that hangs looks like this to the log: its writes don't end.
fn a_reader_that_stalls_holds_up_nobody(io: Backend) {
    // Few enough for the server's receive buffer: what is beyond waits for the kernel's probes.
    const REQUESTS: usize = 15;
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    let pipe = stores.file("pipe");
    let pipe = pipe.to_str().unwrap();
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    // It opens the pipe and reads nothing.
    let stalled = format!("exec sleep 600 < {pipe}");
    let _stalled = Ends(Command::new("sh").args(["-c", &stalled]).spawn().unwrap());
    let mut server = Server::start(&stores, io, &["--access-log", pipe]);
    let mut client = Client::connect(server.objects);
    let mut rounds = 0;
    while server.total("access_log_lines_dropped") == 0 {
        rounds += 1;
        assert!(rounds < 1000, "nothing was dropped");
        for _ in 0..REQUESTS {
            client.ask(
                "HEAD",
                PATH,
                &["User-Agent: one that is long enough to fill a pipe soon"],
            );
        }
        for _ in 0..REQUESTS {
            assert_eq!(client.response("HEAD").status(), 200);
        }
    }
    assert_eq!(get(server.objects, PATH, &[]).text(), "content");
    drop(client);
    server.signal("TERM");
    assert!(server.wait().success());
}

fn requests_are_measured(io: Backend) {
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    let server = Server::start(&stores, io, &[]);
    let mut client = Client::connect(server.objects);
    for _ in 0..3 {
        client.request("GET", PATH, &[]);
    }
    client.request("HEAD", "/nothing", &[]);
    client.send("nonsense\r\n\r\n");
    client.response("GET");
    // Without a log nobody needs an id, but one that a client gave comes back.
    let answer = get(server.objects, PATH, &["X-Request-Id: mine"]);
    assert_eq!(answer.field("X-Request-Id"), Some("mine"));
    assert_eq!(get(server.objects, PATH, &[]).field("X-Request-Id"), None);
    server.wait_for_status("all are counted", |status| {
        number(status, &["responses", "200"]) == 5
    });
    let metrics = get(server.admin, "/metrics", &[]).text().to_owned();
    let labels = |method, code| {
        format!("{{http_request_method=\"{method}\",http_response_status_code=\"{code}\"")
    };
    for (method, code, count) in [("GET", 200, 5), ("HEAD", 404, 1), ("_OTHER", 400, 1)] {
        let labels = labels(method, code);
        let name = "http_server_request_duration_seconds";
        for line in [
            format!("{name}_count{labels}}} {count}"),
            format!("{name}_bucket{{le=\"+Inf\",{}}} {count}", &labels[1..]),
        ] {
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
    }
    assert!(
        metrics.contains("http_server_time_to_first_byte_seconds_count 7"),
        "{metrics}"
    );
    assert!(
        metrics.contains("http_server_active_requests 0"),
        "{metrics}"
    );
    assert!(metrics.contains("# UNIT http_server_request_duration_seconds seconds"));
    assert_eq!(metrics.matches("# EOF").count(), 1);
}

#[test]
fn the_log_is_planned_for() {
    let plan = |options: &[&str]| {
        let mut command = penstock();
        let output = command.args(["plan", "--cores", "2", "--memory", "128MiB"]);
        let output = output.args(options).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let (with, without) = (plan(&["--access-log", "x"]), plan(&[]));
    assert_ne!(with, without);
    assert!(!Path::new("x").exists());
}

#[test]
fn a_log_that_cannot_be_opened_is_told_at_the_start() {
    let stores = Stores::new(1);
    stores.put(KEY, &mut &b"x"[..], 1, common::BLOCK);
    let options = ["--access-log", "/nowhere/access.log"];
    let command = Server::command(&stores, Backend::Epoll, &options);
    let error = Server::launch(command).err().unwrap();
    assert!(
        error.contains("--access-log /nowhere/access.log"),
        "{error}"
    );
}
