//! The declared memory: what the plan says, what is refused at start, and what the server then uses, measured from
//! outside, with clients of all kinds on an object that must be rebuilt.

mod common;

use std::process::Command;

use common::client::End;
use common::crowd::{Crowd, assert_within, degraded, memory, nothing_is_left};
use common::{
    Backend, Client, Noise, PATH, Server, Stores, assert_same, get, number, penstock, run, together,
};
use penstock_load::{Class, Group, Report};

on_both_backends! {
    plan_and_serve_print_the_same_plan
    errors_name_numbers_that_work
    descriptors_are_counted
    all_kinds_of_clients_stay_within
    a_stalled_client_costs_little_user_memory
    clients_that_send_junk_stay_within
    slow_heads_stay_within
    long_heads_are_claimed
    long_heads_without_credit_are_refused
    stalled_clients_of_many_objects_keep_nobody_from_another
    an_object_that_was_replaced_while_its_files_were_closed
}

/// A small declaration: the parts that every server has are 37 MiB on two cores.
const DECLARED: u64 = 52 << 20;
const SMALL: &[&str] = &["--memory", "52MiB"];
const SIZE: usize = 8 << 20;

fn plan(options: &[&str]) -> String {
    run(penstock().args(["plan", "--cores", "2"]).args(options))
}

/// The first number after `mark` in a message.
#[track_caller]
fn named(message: &str, mark: &str) -> u64 {
    let (_, rest) = message
        .split_once(mark)
        .unwrap_or_else(|| panic!("no {mark:?} in {message}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number behind {mark:?} in {message}"))
}

fn serves(io: Backend, options: &[&str]) -> Result<(), String> {
    let content = Noise::new(1).bytes(100_000);
    let stores = degraded(&content);
    let server = Server::launch(Server::command(&stores, io, options))?;
    let answer = get(server.objects, PATH, &[]);
    assert_same(&answer.body, &content, "the object");
    Ok(())
}

fn plan_and_serve_print_the_same_plan(io: Backend) {
    for options in [
        &[][..],
        SMALL,
        &["--memory", "100000001", "--max-connections", "77"],
        &["--memory", "1GiB", "--max-connections", "1000"],
    ] {
        // Stores are part of the plan.
        let stores = Stores::new(1);
        let flags = stores.flags();
        let flags = flags.iter().map(String::as_str);
        let text = plan(&flags.chain(options.iter().copied()).collect::<Vec<_>>());
        let mut sum = 0;
        let mut declared = None;
        for line in text.lines().skip(1).take_while(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let last: u64 = words[words.len() - 1].parse().expect("KiB");
            if words[0] == "declared" {
                declared = Some(last);
                continue;
            }
            sum += last;
            // Each row's total is its count times its size, to the rounding of the printed numbers.
            let count: f64 = words[words.len() - 3].parse().expect("a count");
            let each: f64 = words[words.len() - 2].parse().expect("KiB each");
            let off = (count * each - last as f64).abs();
            assert!(off <= 1.0 + count * 0.05, "{line}");
        }
        assert_eq!(Some(sum), declared, "the parts add up:\n{text}");
        let mut lines = text.lines();
        let summary = lines.find(|line| line.contains(" declared: ")).unwrap();
        // What can't be served is said by both, too.
        let refused: Vec<&str> = lines.filter(|line| line.starts_with("no object")).collect();
        let server = Server::start(&stores, io, options);
        let log = server.log();
        assert!(log.contains(summary), "{summary}\n{log}");
        for line in &refused {
            assert!(log.contains(line), "{line}\n{log}");
        }
        let planned = number(&server.status(), &["memory", "connections_max"]);
        assert_eq!(planned, named(summary, "MiB declared: "));
    }
}

fn errors_name_numbers_that_work(io: Backend) {
    let error = serves(io, &["--memory", "5MiB"]).unwrap_err();
    let least = named(&error, "too little: ");
    serves(io, &["--memory", &format!("{least}MiB")]).expect("the memory named is enough");
    let less = format!("{}MiB", least - 1);
    let error = serves(io, &["--memory", &less]).unwrap_err();
    assert_eq!(named(&error, "too little: "), least);

    // More connections than fit: the error names a number of connections and a memory size that both work.
    let error = serves(io, &["--memory", "48MiB", "--max-connections", "2000"]).unwrap_err();
    let fit = named(&error, "--max-connections ");
    let enough = format!("{}MiB", named(&error, "or --memory "));
    assert!(error.contains("for 2000"), "{error}");
    serves(
        io,
        &["--memory", "48MiB", "--max-connections", &fit.to_string()],
    )
    .expect("the connections named fit");
    serves(io, &["--memory", &enough, "--max-connections", "2000"])
        .expect("the memory named holds them");
    let more = (fit + 1).to_string();
    let error = serves(io, &["--memory", "48MiB", "--max-connections", &more]).unwrap_err();
    assert_eq!(named(&error, "--max-connections "), fit);
}

/// The command with at most `most` descriptors.
fn with_descriptors(command: &Command, most: u64) -> Command {
    let mut shell = Command::new("sh");
    shell.env_remove("RUST_LOG");
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn descriptors_are_counted(io: Backend) {
    const LIMIT: u64 = 5000;
    let stores = Stores::new(1);
    let launch = |limit, options: &[&str]| {
        let all = [&["--cores", "1"], options].concat();
        Server::launch(with_descriptors(&Server::command(&stores, io, &all), limit))
    };
    let error = launch(LIMIT, &["--max-connections", "4000"])
        .map(drop)
        .unwrap_err();
    assert!(error.contains("ulimit -n"), "{error}");
    let allowed = named(&error, "descriptors allows ");
    assert!(allowed > 0 && allowed < LIMIT, "{error}");
    let server = launch(LIMIT, &["--max-connections", &allowed.to_string()])
        .unwrap_or_else(|error| panic!("the connections named don't do: {error}"));
    assert_eq!(memory(&server, "connections_max"), allowed);
    drop(server);
    let more = (allowed + 1).to_string();
    let error = launch(LIMIT, &["--max-connections", &more])
        .map(drop)
        .unwrap_err();
    assert_eq!(named(&error, "descriptors allows "), allowed);

    // Without an option the server takes what the limit allows. If that is nothing, it refuses to start.
    let server = launch(LIMIT, &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(memory(&server, "connections_max"), allowed);
    drop(server);
    for options in [&[][..], &["--share-files", "1000"]] {
        let error = launch(200, options).map(drop).unwrap_err();
        let enough = named(&error, "ulimit -n ");
        let server = launch(enough, options)
            .unwrap_or_else(|error| panic!("the limit named doesn't do: {error}"));
        assert!(memory(&server, "connections_max") > 0);
        drop(server);
        let error = launch(enough - 1, options).map(drop).unwrap_err();
        assert_eq!(named(&error, "ulimit -n "), enough);
    }
}

fn group(class: Class, clients: usize, change: impl FnOnce(&mut Group)) -> Group {
    let mut group = Group::new(class, clients);
    change(&mut group);
    group
}

#[track_caller]
fn assert_no_faults(report: &Report) {
    for group in &report.groups {
        assert!(
            group.faults.is_empty(),
            "{}: {:?}",
            group.name,
            group.faults
        );
        assert_eq!(group.refused, 0, "{}", group.name);
    }
}

fn all_kinds_of_clients_stay_within(io: Backend) {
    const STALLED: usize = 400;
    let content = Noise::new(2).bytes(SIZE);
    let stores = degraded(&content);
    // With almost nothing to lend, and with some MiB.
    for connections in [&[][..], &["--max-connections", "460"]] {
        let server = Server::start(&stores, io, &[SMALL, connections].concat());
        let crowd = Crowd::start(
            &server,
            vec![
                Group::new(Class::Stalled, STALLED),
                group(Class::Slow, 40, |group| group.rate = Some(20_000)),
                group(Class::Fast, 3, |_| {}),
                group(Class::Short, 3, |group| {
                    group.range = Some(penstock_load::ByteSpan {
                        min: 1,
                        max: 100_000,
                    });
                    group.requests = Some(16);
                }),
            ],
            Some(&content),
        );
        let mut lent = 0;
        crowd.wait("all stall, and 12 whole objects and some ranges", |now| {
            lent = lent.max(memory(&server, "memory_credit_lent_bytes"));
            // With some MiB to lend, fast clients get larger buffers from time to time.
            let has_lent = lent > 0 || connections.is_empty();
            now.holding == STALLED as u64 && now.completed >= 60 && has_lent
        });
        let report = crowd.end();
        assert_within(&report, DECLARED);
        assert_no_faults(&report);
        let of = |name| report.group(name).unwrap();
        assert_eq!(of("stalled").held, STALLED as u64);
        assert_eq!(of("stalled").closed_by_server, 0);
        assert!(of("fast").completed > 0);
        assert!(of("slow").checked_bytes > 0, "slow ones get on");
        assert_eq!(of("fast").checked_bytes, of("fast").body_bytes);
        nothing_is_left(&server);
        assert!(server.total("rebuilt_bytes") > 0);
    }
}

/// The most user memory per client, once the first clients are connected.
const USER_BYTES_MAX: u64 = 2 << 10;
/// The largest step of the allocator.
const ALLOCATOR_SLACK_BYTES: u64 = 1 << 20;

fn a_stalled_client_costs_little_user_memory(io: Backend) {
    const CLIENTS: u64 = 2000;
    let content = Noise::new(3).bytes(SIZE);
    let stores = degraded(&content);
    let server = Server::start(&stores, io, &[]);
    let stall = |clients: u64| {
        let crowd = Crowd::start(
            &server,
            vec![Group::new(Class::Stalled, clients as usize)],
            None,
        );
        crowd.wait("all stall", |now| now.holding == clients);
        crowd
    };
    let settled = |clients: u64| {
        server.wait_for_status("all wait and all buffers are free", |status| {
            let totals = &status["totals"];
            status["connections"]["sending"] == clients
                && totals["pool_buffers_free"] == totals["pool_buffers"]
        });
        server.rss_bytes()
    };
    let first = stall(500);
    let before = settled(500);
    let rest = stall(CLIENTS);
    let after = settled(500 + CLIENTS);
    let each = after.saturating_sub(before) / CLIENTS;
    println!("RSS {before} -> {after}: {each} bytes for each of {CLIENTS}");
    assert!(
        after <= before + CLIENTS * USER_BYTES_MAX + ALLOCATOR_SLACK_BYTES,
        "{each} bytes for each of {CLIENTS} stalled clients: RSS {before} -> {after}"
    );
    for crowd in [first, rest] {
        assert_no_faults(&crowd.end());
    }
    nothing_is_left(&server);
}

/// Clients that send a request, read nothing, and go on sending: early requests, and bytes that are no request.
fn clients_that_send_junk_stay_within(io: Backend) {
    const CLIENTS: usize = 600;
    let content = Noise::new(4).bytes(SIZE);
    let stores = degraded(&content);
    let server = Server::start(&stores, io, SMALL);
    let watch = Crowd::watch(&server);
    let junk = vec![b'x'; 32 << 10];
    // Some of these bytes come with the request, so that they are read with it.
    let early = format!(
        "GET {PATH} HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n",
        "y".repeat(1500)
    );
    let clients: Vec<Client> = together(4, |thread| {
        let mut mine = Vec::new();
        for number in (thread..CLIENTS).step_by(4) {
            let mut client = Client::connect_small(server.objects);
            let request = format!("GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n");
            client.send(match number % 2 {
                0 => request + &early + &early,
                _ => request,
            });
            client.push(&junk);
            mine.push(client);
        }
        mine
    })
    .into_iter()
    .flatten()
    .collect();
    server.wait_for_status("all are being sent to", |status| {
        status["connections"]["sending"] == CLIENTS as u64
    });
    let mut clients = clients;
    for client in &mut clients {
        client.push(&junk);
    }
    // Other clients are served meanwhile.
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "beside the junk",
    );
    assert_within(&watch.end(), DECLARED);
    drop(clients);
    nothing_is_left(&server);
}

fn slow_heads_stay_within(io: Backend) {
    const CLIENTS: usize = 600;
    let content = Noise::new(5).bytes(SIZE);
    let stores = degraded(&content);
    let server = Server::start(&stores, io, &[SMALL, &["--head-timeout", "10m"]].concat());
    // A head takes 47 s. All clients begin, and hold much, before the first is done.
    let drip = group(Class::Drip, CLIENTS, |group| group.rate = Some(150));
    let crowd = Crowd::start_with(&server, vec![drip], None, |plan| {
        plan.headers.push(("X-Long".to_owned(), "z".repeat(7000)));
    });
    server.wait_for_status("all are in the middle of their heads", |status| {
        status["connections"]["head"] == CLIENTS as u64
    });
    server.wait_for_status("and some of them hold much", |status| {
        number(status, &["totals", "connection_bytes"]) > CLIENTS as u64 * 1000
    });
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "beside slow heads",
    );
    let report = crowd.end();
    assert_within(&report, DECLARED);
    nothing_is_left(&server);
}

const LONG_HEAD: usize = 6000;

fn long_head() -> String {
    let start = format!("GET {PATH} HTTP/1.1\r\nHost: test\r\nRange: bytes=0-9\r\nX: ");
    let filler = "x".repeat(LONG_HEAD - start.len());
    start + &filler
}

fn long_heads_are_claimed(io: Backend) {
    const CLIENTS: usize = 40;
    let content = Noise::new(6).bytes(100_000);
    let stores = degraded(&content);
    let server = Server::start(&stores, io, &["--head-timeout", "10m"]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(server.objects))
        .collect();
    for client in &mut clients {
        client.send(long_head());
    }
    // The connection's own state pays for the first KiB.
    let least = (CLIENTS * (LONG_HEAD - 1024)) as u64;
    let lent = server.wait_for_status("long heads are claimed", |status| {
        number(status, &["memory", "memory_credit_lent_bytes"]) >= least
    });
    assert!(
        number(&lent, &["memory", "memory_credit_lent_bytes"]) <= 3 * least,
        "{lent:#}"
    );
    // Half of the clients are answered and stay; the other half leave.
    let mut staying = clients.split_off(CLIENTS / 2);
    drop(clients);
    for client in &mut staying {
        client.send("\r\n\r\n");
        assert_same(&client.response("GET").body, &content[..10], "ten bytes");
    }
    server.wait_for_status("nothing is lent to those that stay", |status| {
        status["memory"]["connections_open"] == (CLIENTS / 2) as u64
            && status["memory"]["memory_credit_lent_bytes"] == 0
    });
    drop(staying);
    nothing_is_left(&server);
}

fn long_heads_without_credit_are_refused(io: Backend) {
    const CLIENTS: usize = 300;
    let content = Noise::new(7).bytes(100_000);
    let stores = degraded(&content);
    let server = Server::start(&stores, io, &[SMALL, &["--head-timeout", "10m"]].concat());
    let watch = Crowd::watch(&server);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(server.objects))
        .collect();
    let head = long_head();
    for client in &mut clients {
        // The server may refuse before the client has sent all of it.
        let _ = client.try_send(&head);
    }
    server.wait_for_status("some are refused and some are held", |status| {
        let refused = status["responses"]["503"].as_u64().unwrap_or(0);
        let held = number(status, &["connections", "head"]);
        refused > 0 && refused + held == CLIENTS as u64
    });
    // A short request needs no credit.
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "a short request",
    );
    let (mut refused, mut served) = (0, 0);
    for client in &mut clients {
        let _ = client.try_send("\r\n\r\n");
        let answer = client.response("GET");
        match answer.status() {
            206 => {
                assert_same(&answer.body, &content[..10], "ten bytes");
                served += 1;
            }
            503 => {
                assert!(answer.field("Retry-After").is_some());
                assert_eq!(answer.field("Connection"), Some("close"));
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(
        refused > 0 && served > 0,
        "{refused} refused, {served} served"
    );
    assert_within(&watch.end(), DECLARED);
    drop(clients);
    nothing_is_left(&server);
}

/// Story: 513 stalled clients on as many objects had all share files of a core open that it may have, and every request for
/// another object was answered 503. A client that waits needs no open files: they are closed for others, and opened again
/// when it goes on.
fn stalled_clients_of_many_objects_keep_nobody_from_another(io: Backend) {
    const OBJECTS: usize = 200;
    const BYTES: usize = 200_000;
    let stores = Stores::new(6);
    let content = |object: usize| Noise::new(object as u64).bytes(BYTES);
    for object in 0..=OBJECTS {
        stores.put(&format!("o{object}"), &mut &content(object)[..], 4, 4096);
    }
    // Each object opens its six files and counts as two more: eight objects fit.
    let options = [
        "--share-files",
        "64",
        "--cores",
        "1",
        "--send-timeout",
        "10m",
    ];
    let server = Server::start(&stores, io, &options);
    let open_shares = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let shares = links.filter(|path| path.to_string_lossy().contains(".share"));
        shares.count()
    };
    for object in 0..20 {
        let answer = get(server.objects, &format!("/o{object}"), &[]);
        assert_same(&answer.body, &content(object), "one after another");
    }
    let mut clients: Vec<Client> = (0..OBJECTS)
        .map(|object| {
            let mut client = Client::connect_small(server.objects);
            client.ask("GET", &format!("/o{object}"), &[]);
            let status = client.head().status;
            assert_eq!(status, 200, "object {object}");
            client
        })
        .collect();
    let answer = get(server.objects, &format!("/o{OBJECTS}"), &[]);
    assert_eq!(answer.status(), 200, "another object");
    assert_same(&answer.body, &content(OBJECTS), "another object");
    // What is closed is closed by a thread of its store.
    common::wait_until(|| match open_shares() {
        few if few <= 8 * 6 => Ok(()),
        many => Err(format!("{many} share files are open")),
    });
    assert_eq!(number(&server.status(), &["totals", "open_objects"]), 8);
    // A store is gone by the time when they go on, all at once.
    stores.remove_store(2);
    let all = std::sync::Mutex::new(clients.iter_mut().enumerate());
    together(50, |_| {
        loop {
            let next = all.lock().unwrap().next();
            let Some((object, client)) = next else {
                return;
            };
            let body = client.body(BYTES);
            assert_same(&body, &content(object), &format!("object {object} goes on"));
        }
    });
    for (object, client) in clients.iter_mut().enumerate().step_by(9) {
        let answer = client.request("GET", &format!("/o{object}"), &[]);
        assert_same(&answer.body, &content(object), "another response");
    }
    assert_eq!(server.total("reset_bodies"), 0);
    assert!(server.total("reopened") >= OBJECTS as u64 - 8);
    drop(clients);
    nothing_is_left(&server);
    let status = server.status();
    assert_eq!(number(&status, &["memory", "memory_credit_lent_bytes"]), 0);
}

/// What is opened again is the same put, or the client is cut off: no byte of another put follows.
fn an_object_that_was_replaced_while_its_files_were_closed(io: Backend) {
    const BYTES: usize = 200_000;
    let stores = Stores::new(6);
    let content = |seed: usize| Noise::new(seed as u64).bytes(BYTES);
    for object in 0..20 {
        stores.put(&format!("o{object}"), &mut &content(object)[..], 4, 4096);
    }
    let options = ["--share-files", "64", "--cores", "1"];
    let server = Server::start(&stores, io, &options);
    let mut client = Client::connect_small(server.objects);
    client.ask("GET", "/o0", &[]);
    assert_eq!(client.head().status, 200);
    for object in 1..20 {
        let answer = get(server.objects, &format!("/o{object}"), &[]);
        assert_same(&answer.body, &content(object), "others");
    }
    // They may have had room without it: others stall, until its files are closed.
    let mut stalled = Vec::new();
    for object in 1..=8 {
        let mut other = Client::connect_small(server.objects);
        other.ask("GET", &format!("/o{object}"), &[]);
        assert_eq!(other.head().status, 200);
        stalled.push(other);
    }
    stores.put("o0", &mut &content(100)[..], 4, 4096);
    let (bytes, end) = client.until_end();
    assert_eq!(end, End::Reset);
    assert!(bytes.len() < BYTES);
    assert_same(&bytes, &content(0)[..bytes.len()], "the beginning");
    let answer = get(server.objects, "/o0", &[]);
    assert_same(&answer.body, &content(100), "the new put");
    // Those whose objects are as they were go on.
    for (other, object) in stalled.iter_mut().zip(1..) {
        assert_same(&other.body(BYTES), &content(object), "others go on");
    }
    assert_eq!(server.total("reset_bodies"), 1);
}
