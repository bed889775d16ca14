//! The admin listener: health, readiness, metrics in a scraper's format, and a status that agrees with the metrics.

mod common;

use std::collections::BTreeMap;

use common::{Backend, Client, PATH, SIZE, Server, Stores, assert_same, get, number, served};
use decode_kernel::code::CodeKind;
use serde_json::Value;

on_both_backends! {
    health_and_readiness
    a_status_takes_no_thread
    metrics_are_prometheus_text
    metrics_and_status_agree
    the_history_has_what_happened
    parts_of_memory_add_up_to_what_was_declared
    the_page_uses_only_keys_that_there_are
    objects_with_shares_missing_are_counted
    the_survey_counts_objects_that_nobody_asked_for
    many_admin_connections_take_no_more_than_planned
    slow_readers_of_replies_give_way
    other_names_are_refused
    a_token_is_asked_for
    a_socket_in_the_file_system
}

/// 1,000 connections to the admin listener, each with an unfinished head of 380 KB, once took 335 MiB of 128 declared.
/// Idle ones took the descriptors that downloads need.
fn many_admin_connections_take_no_more_than_planned(io: Backend) {
    let (_stores, server, content) = served(io);
    let descriptors = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        open.count()
    };
    assert_eq!(get(server.admin, "/metrics", &[]).status(), 200);
    let (rss_before, descriptors_before) = (server.rss_bytes(), descriptors());
    let field = format!("X-Field: {}\r\n", "a".repeat(3800));
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut client = Client::connect(server.admin);
        // The server may have closed it before the end.
        let _ = client.try_send("GET /status HTTP/1.1\r\nHost: localhost\r\n");
        if number % 2 == 0 {
            for _ in 0..100 {
                if client.try_send(&field).is_err() {
                    break;
                }
            }
        }
        crowd.push(client);
        if number % 100 == 99 {
            // Somebody who asks is answered meanwhile.
            for path in ["/healthz", "/metrics", "/status"] {
                assert_eq!(get(server.admin, path, &[]).status(), 200, "{path}");
            }
            assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
            let status = server.status();
            let planned = number_of(&status, "memory_planned_admin_bytes");
            let grown = server.rss_bytes().saturating_sub(rss_before);
            // What was served meanwhile has its own part.
            assert!(grown < planned + (8 << 20), "{grown} of {planned}");
            let more = descriptors().saturating_sub(descriptors_before);
            assert!(more < 64, "{more} descriptors");
        }
    }
    assert!(
        !server.log().contains("could not be accepted"),
        "{}",
        server.log()
    );
}

fn number_of(status: &Value, name: &str) -> u64 {
    number(status, &["memory", name])
}

/// Those that ask for long replies and take none of them must not keep others from theirs.
fn slow_readers_of_replies_give_way(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut crowd = Vec::new();
    for _ in 0..32 {
        let mut client = Client::connect_small(server.admin);
        let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
        // It gives way to those that come after it.
        let _ = client.try_send(many);
        crowd.push(client);
    }
    for _ in 0..3 {
        assert_eq!(get(server.admin, "/metrics", &[]).status(), 200);
        assert_eq!(get(server.admin, "/readyz", &[]).status(), 200);
    }
}

/// A page of any site could have asked by a name that its owner lets point to this machine (DNS rebinding).
fn other_names_are_refused(io: Backend) {
    let stores = common::Stores::new(6);
    stores.put_bytes(b"content");
    let server = Server::start(&stores, io, &["--admin-host", "edge.example"]);
    let asked = |host: &str| {
        let mut client = Client::connect(server.admin);
        client.send(format!("GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.response("GET")
    };
    for host in ["edge.example:9090", "127.0.0.1", "[::1]:80", "localhost"] {
        assert_eq!(asked(host).status(), 200, "{host}");
    }
    let refused = asked("evil.example");
    assert_eq!(refused.status(), 421);
    assert!(
        refused.text().contains("--admin-host"),
        "{}",
        refused.text()
    );
    assert_eq!(asked("").status(), 400);
}

fn a_token_is_asked_for(io: Backend) {
    let stores = common::Stores::new(6);
    stores.put_bytes(b"content");
    let token = stores.file("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let file = token.to_str().unwrap();
    let server = Server::start(&stores, io, &["--admin-token-file", file]);
    for path in [
        "/", "/page.js", "/status", "/history", "/metrics", "/nothing",
    ] {
        let refused = Client::connect(server.admin).request(
            "GET",
            path,
            &["Authorization: Bearer 0123456789abcdeg"],
        );
        assert_eq!(refused.head.status, 401, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(server.admin, path, &[]).status(), 200, "{path}");
    }
    for field in [
        "Authorization: Bearer 0123456789abcdef",
        "Authorization: Basic eDowMTIzNDU2Nzg5YWJjZGVm",
    ] {
        assert_eq!(
            get(server.admin, "/status", &[field]).status(),
            200,
            "{field}"
        );
    }
}

fn a_socket_in_the_file_system(io: Backend) {
    use std::io::{Read as _, Write as _};
    let stores = common::Stores::new(6);
    stores.put_bytes(b"content");
    let path = stores.file("admin.sock");
    let admin = format!("unix:{}", path.display());
    let mut command = common::penstock();
    command.arg("serve").args(stores.flags());
    command.args(["--listen", "127.0.0.1:0", "--admin", &admin]);
    command.args(["--io", &io.to_string()]);
    let mut server = Server::launch(command).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ready\n"), "{answer}");
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(!path.exists());
}

fn health_and_readiness(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut admin = Client::connect(server.admin);
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/", 200),
        ("/history", 200),
        ("/object", 404),
    ] {
        assert_eq!(admin.request("GET", path, &[]).status(), status, "{path}");
    }
    assert_eq!(admin.request("GET", "/healthz", &[]).text(), "ok\n");
    // The admin's paths are not objects, and objects are not the admin's.
    assert_eq!(get(server.objects, "/healthz", &[]).status(), 404);
    assert_eq!(get(server.admin, PATH, &[]).status(), 404);
}

/// The admin listener has to answer where the process may start no thread, or has no memory for its stack.
fn a_status_takes_no_thread(io: Backend) {
    let (_stores, server, _) = served(io);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        tasks.count()
    };
    let before = threads();
    for path in ["/status", "/history", "/metrics", "/"] {
        assert_eq!(get(server.admin, path, &[]).status(), 200, "{path}");
        assert_eq!(threads(), before, "{path}");
    }
}

/// Samples by family and labels.
type Metrics = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// Parses the text format strictly, and fails on everything that a scraper would refuse.
fn parse_metrics(text: &str) -> Metrics {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut metrics = Metrics::new();
    let name_is_good = |name: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !name.is_empty()
            && name.chars().all(good)
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    assert!(text.ends_with("# EOF\n"), "the end is marked");
    for line in text.trim_end_matches("# EOF\n").lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name) = (words.next().unwrap(), words.next().expect("a name"));
            let rest = words.next().expect("text");
            assert!(name_is_good(name), "{line}");
            match word {
                "HELP" | "UNIT" => assert!(!rest.is_empty(), "{line}"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    assert_eq!(
                        kinds.insert(name, rest),
                        None,
                        "two families of one name: {line}"
                    );
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, rest)) => (name, rest.strip_suffix('}').expect("a closing brace")),
        };
        assert!(name_is_good(name), "{line}");
        let family = name
            .strip_suffix("_total")
            .filter(|family| kinds.get(family) == Some(&"counter"));
        let parts = ["_bucket", "_count", "_sum"];
        let mut histograms = parts.iter().filter_map(|part| name.strip_suffix(part));
        let histogram = histograms.find(|family| kinds.get(family) == Some(&"histogram"));
        let family = family.unwrap_or(name);
        match kinds.get(histogram.unwrap_or(family)) {
            Some(&"histogram") => assert!(histogram.is_some() && value >= 0.0, "{line}"),
            Some(&"counter") => assert!(name.ends_with("_total") && value >= 0.0, "{line}"),
            Some(_) => {}
            None => panic!("a sample without a family: {line}"),
        }
        let labels = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                assert!(name_is_good(name), "{line}");
                (
                    name.to_owned(),
                    value.unwrap_or_else(|| panic!("{line}")).to_owned(),
                )
            });
        let series = (family.to_owned(), labels.collect());
        assert_eq!(metrics.insert(series, value), None, "twice: {line}");
    }
    metrics
}

fn scrape(server: &Server) -> Metrics {
    let answer = get(server.admin, "/metrics", &[]);
    assert_eq!(answer.status(), 200);
    let content_type = answer.field("Content-Type").unwrap();
    assert!(content_type.contains("text"), "{content_type}");
    parse_metrics(answer.text())
}

/// The sum of a family over the cores, of one label's value or of all.
fn sum(metrics: &Metrics, family: &str, label: Option<(&str, &str)>) -> f64 {
    let name = format!("penstock_{family}");
    let mut found = metrics.iter().filter(|((family, labels), _)| {
        let fits = |(name, value): (&str, &str)| labels.get(name).is_some_and(|v| v == value);
        *family == name && label.is_none_or(fits)
    });
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no {name} {label:?} in {metrics:#?}"));
    first.1 + found.map(|(_, value)| value).sum::<f64>()
}

fn metrics_are_prometheus_text(io: Backend) {
    let (stores, server, content) = served(io);
    // Events of several kinds: parity, a bad leaf, rebuilding, an error.
    stores.corrupt(common::KEY, 0);
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    assert_eq!(get(server.objects, "/nothing", &[]).status(), 404);
    // Gauges are updated by the next tick, and a response counts when the kernel has accepted all of it.
    server.wait_for_status("free buffers and both responses", |status| {
        status["totals"]["pool_buffers_free"] != 0
            && status["responses"]["200"] == 1
            && status["responses"]["404"] == 1
    });
    let metrics = scrape(&server);
    for family in [
        "sent_bytes",
        "data_read_bytes",
        "parity_read_bytes",
        "rebuilt_segments",
        "verified_leaves",
        "failed_leaves",
        "pool_buffers",
        "pool_buffers_free",
        "connections_max",
    ] {
        assert!(sum(&metrics, family, None) > 0.0, "{family}");
    }
    assert!(sum(&metrics, "sent_bytes", None) >= SIZE as f64);
    assert!(sum(&metrics, "send_queue_bytes", None) >= 0.0);
    for phase in [
        "idle",
        "handshake",
        "head",
        "opening",
        "sending",
        "lingering",
    ] {
        assert!(sum(&metrics, "connections", Some(("phase", phase))) >= 0.0);
    }
    assert_eq!(sum(&metrics, "responses", Some(("status", "200"))), 1.0);
    assert_eq!(sum(&metrics, "responses", Some(("status", "404"))), 1.0);
    assert_eq!(sum(&metrics, "responses", Some(("status", "500"))), 0.0);
    assert_eq!(
        sum(&metrics, "io_backend", Some(("backend", &io.to_string()))),
        1.0
    );
}

fn metrics_and_status_agree(io: Backend) {
    let (_stores, server, _) = served(io);
    for path in [PATH, "/nothing"] {
        get(server.objects, path, &[]);
    }
    // No response is in progress then, so that both reports see the same values.
    server.wait_for_status("both responses and nobody", |status| {
        status["responses"]["200"] == 1
            && status["responses"]["404"] == 1
            && server.connections() == 0
    });
    let (status, metrics) = (server.status(), scrape(&server));
    for (name, value) in status["totals"].as_object().unwrap() {
        assert_eq!(sum(&metrics, name, None), value.as_f64().unwrap(), "{name}");
    }
    for (code, count) in status["responses"].as_object().unwrap() {
        let label = Some(("status", code.as_str()));
        assert_eq!(
            sum(&metrics, "responses", label),
            count.as_f64().unwrap(),
            "{code}"
        );
    }
    assert_eq!(status["ready"], Value::Bool(true));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(number(&status, &["responses", "200"]), 1);
    assert_eq!(number(&status, &["totals", "accepted_connections"]), 2);
    let planned = number(&status, &["memory", "connections_max"]);
    assert_eq!(sum(&metrics, "connections_max", None), planned as f64);
}

/// The words of a text that follow a `prefix`.
fn words_behind<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |rest: &'a str| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    };
    text.split(prefix).skip(1).map(word).collect()
}

fn history(server: &Server) -> Value {
    let answer = get(server.admin, "/history", &[]);
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// The sum of a column of the history.
fn column_sum(column: &Value) -> u64 {
    let values = column.as_array().expect("a column");
    values.iter().map(|value| value.as_u64().unwrap()).sum()
}

fn the_history_has_what_happened(io: Backend) {
    let (stores, server, content) = served(io);
    stores.remove_store(1);
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the object");
    assert_eq!(get(server.objects, "/nothing", &[]).status(), 404);
    let past = common::wait_until(|| {
        let past = history(&server);
        let responses = &past["responses"];
        let classes = [("2xx", 1), ("3xx", 0), ("4xx", 1), ("5xx", 0)];
        let whole = classes
            .iter()
            .all(|(name, count)| column_sum(&responses[*name]) == *count);
        let states = past["stores"][1]["states"].as_array();
        let missing = states.and_then(|states| states.last()) == Some(&1.into());
        match whole && missing {
            true => Ok(past),
            false => Err(format!("not all of it: {past:#}")),
        }
    });
    assert!(column_sum(&past["sent_bytes"]) >= SIZE as u64, "{past:#}");
    assert_eq!(past["store_states"][1], "missing");
    assert_eq!(past["every_seconds"], 5);
    // All columns have one length.
    let samples = past["at"].as_array().unwrap().len();
    let phases = past["connections"].as_object().unwrap();
    assert_eq!(phases.len(), 6);
    let memory = past["memory"].as_object().unwrap();
    let quantiles = past["first_byte_ms"].as_object().unwrap();
    let groups = phases
        .values()
        .chain(memory.values())
        .chain(quantiles.values());
    let stores = past["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 6);
    let of_stores = stores
        .iter()
        .flat_map(|store| [&store["states"], &store["p99_ms"]]);
    for column in groups
        .chain(of_stores)
        .chain([&past["seconds"], &past["sent_bytes"]])
    {
        assert_eq!(column.as_array().unwrap().len(), samples, "{past:#}");
    }
    for group in [memory, quantiles] {
        assert!(!group.is_empty());
    }
    assert!(past["memory"]["resident_bytes"][0].as_u64() > Some(0));
    let p99 = past["first_byte_ms"]["p99"].as_array().unwrap();
    assert!(p99.iter().any(|ms| ms.as_f64() > Some(0.0)), "{past:#}");
}

fn parts_of_memory_add_up_to_what_was_declared(io: Backend) {
    let (_stores, server, _) = served(io);
    let status = server.status();
    let parts = status["memory_parts"].as_array().unwrap();
    let planned: u64 = parts
        .iter()
        .map(|part| number(part, &["planned_bytes"]))
        .sum();
    assert_eq!(planned, number_of(&status, "memory_declared_bytes"));
    // A response that is over has given back what it took of the pool.
    server.wait_for_status("a pool that is free", |status| {
        let parts = status["memory_parts"].as_array().unwrap();
        let pool = parts
            .iter()
            .find(|part| part["part"] == "pool buffers")
            .unwrap();
        pool["used_bytes"] == 0
    });
}

fn the_page_uses_only_keys_that_there_are(io: Backend) {
    let (_stores, server, _) = served(io);
    let mut client = Client::connect(server.admin);
    let page = client.request("GET", "/", &[]);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let style = client.request("GET", "/page.css", &[]);
    assert_eq!(style.field("content-type"), Some("text/css; charset=utf-8"));
    let script = client.request("GET", "/page.js", &[]);
    let media_type = Some("text/javascript; charset=utf-8");
    assert_eq!(script.field("content-type"), media_type);
    let past = common::wait_until(|| {
        let past = history(&server);
        let first = past["stores"].as_array().is_some_and(|all| !all.is_empty());
        first.then_some(past).ok_or_else(|| "no sample".to_owned())
    });
    let (script, status) = (script.text(), server.status());
    let has = |document: &Value, name: &str| document.get(name).is_some();
    let used = |part: &str| {
        let names = words_behind(script, &format!("{part}."));
        assert!(!names.is_empty(), "{part}");
        names
    };
    for part in ["totals", "survey"] {
        for name in used(part) {
            assert!(has(&status[part], name), "{part}.{name}");
        }
    }
    for name in used("memory") {
        let there = has(&status["memory"], name) || has(&past["memory"], name);
        assert!(there, "memory.{name}");
    }
    for name in used("history") {
        assert!(has(&past, name), "history.{name}");
    }
    for name in used("store") {
        let remote = name == "remote" || name == "last_error";
        let there = has(&status["stores"][0], name) || has(&past["stores"][0], name);
        assert!(there || remote, "store.{name}");
    }
    // Keys in quotes are the only such words with an underscore.
    let keys: Vec<&str> = words_behind(script, "\"")
        .into_iter()
        .filter(|word| word.contains('_'))
        .collect();
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys {
        assert!(has(&status["totals"], key), "{key}");
    }
}

fn objects_with_shares_missing_are_counted(io: Backend) {
    let (stores, server, _) = served(io);
    for (lost, degraded, unspared) in [(0, false, false), (1, true, false), (2, true, true)] {
        if lost > 0 {
            stores.remove_store(lost);
        }
        server.wait_for_status(&format!("{lost} stores lost"), |status| {
            // An object is looked up again when somebody asks for it.
            get(server.objects, PATH, &[]);
            let total = |name| number(status, &["totals", name]);
            let open = total("open_objects");
            let all_or_none = |all| if all { open } else { 0 };
            open > 0
                && total("degraded_objects") == all_or_none(degraded)
                && total("objects_without_redundancy") == all_or_none(unspared)
        });
    }
}

/// Story: objects without redundancy were counted while they were open only. One that nobody asked for could lose its last
/// spare share, or be one that this server refuses for good, and no number told.
fn the_survey_counts_objects_that_nobody_asked_for(io: Backend) {
    let stores = Stores::new(6);
    for number in 0..40u64 {
        stores.put(&number.to_string(), &mut &b"some content"[..], 4, 4096);
    }
    let wide = Some(CodeKind::Rs16);
    stores.put_in(wide, "wide", &mut &b"wide content"[..], 4, 4096);
    let remove = |key: &str, count: usize| {
        for share in 0..count {
            std::fs::remove_file(stores.share(key, share)).unwrap();
        }
    };
    remove("1", 1);
    remove("2", 2);
    remove("3", 2);
    remove("4", 3);
    let memory = ["--memory", "64MiB", "--max-connections", "1000"];
    let survey = ["--survey-every", "100ms", "--cores", "1"];
    let server = Server::start(&stores, io, &[memory, survey].concat());
    let expected = [
        ("objects", 41),
        ("degraded", 4),
        ("without_redundancy", 2),
        ("unreadable", 1),
        ("too_large", 1),
    ];
    let wait_for = |expected: &[(&str, u64)]| {
        server.wait_for_status("the survey", |status| {
            let survey = &status["survey"];
            survey["rounds"].as_u64() > Some(0)
                && expected.iter().all(|(name, count)| survey[*name] == *count)
        });
    };
    wait_for(&expected);
    assert_eq!(get(server.objects, "/wide", &[]).status(), 501);
    assert_eq!(get(server.objects, "/2", &[]).status(), 200);
    let metrics = get(server.admin, "/metrics", &[]);
    let metrics = parse_metrics(metrics.text());
    for (name, value) in [
        ("survey_objects", 41.0),
        ("survey_degraded_objects", 4.0),
        ("survey_objects_without_redundancy", 2.0),
        ("survey_unreadable_objects", 1.0),
        ("survey_too_large_objects", 1.0),
    ] {
        assert_eq!(sum(&metrics, name, None), value, "{name}");
    }
    // It goes on: what is repaired, put and lost later is counted as it is then.
    remove("5", 1);
    stores.put("2", &mut &b"other content"[..], 4, 4096);
    wait_for(&[("objects", 41), ("degraded", 4), ("without_redundancy", 1)]);
    // Told once for each thing found.
    let log = server.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("all objects were looked at"));
    assert!((1..=4).contains(&lines.count()), "{log}");
}
