//! The load generator against a small server of known behaviour, on loopback. The server counts too, so that the report
//! is compared with the other end's counts.

use std::collections::HashSet;
use std::net::{IpAddr, TcpListener};
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use penstock_load::{
    ByteSpan, Class, FaultKind, Group, GroupReport, LoadError, Plan, Progress, Reading, Report,
    Verify, Watch, run, run_with,
};
use sha2::{Digest, Sha256};

mod server;
mod tls;

use server::{BIG, Counts, Server, object};

fn play(plan: Plan) -> (Report, GroupReport) {
    let report = run(&plan).unwrap();
    let group = report.groups[0].clone();
    (report, group)
}

/// Plays until `enough` says so; the plan's duration is only a bound.
fn play_until(plan: &Plan, mut enough: impl FnMut(&Progress) -> bool) -> Report {
    let end = |progress: &Progress| match enough(progress) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    run_with(plan, end).unwrap()
}

fn no_faults(group: &GroupReport) {
    assert!(group.faults.is_empty(), "{:?}", group.faults);
}

#[test]
fn fast_clients_get_whole_objects_over_kept_connections() {
    let server = Server::start();
    for path in ["/big", "/chunked"] {
        let mut plan = server.plan(path);
        plan.groups = vec![Group {
            requests: Some(5),
            ..Group::new(Class::Fast, 3)
        }];
        plan.verify = Verify::Sha256(Sha256::digest(object()).into());
        let (report, group) = play(plan);
        no_faults(&group);
        assert_eq!(
            (
                group.connects,
                group.requests,
                group.completed,
                group.unfinished
            ),
            (3, 15, 15, 0)
        );
        assert_eq!(
            (group.body_bytes, group.checked_bytes),
            (15 * BIG as u64, 15 * BIG as u64)
        );
        assert_eq!(group.statuses.into_iter().collect::<Vec<_>>(), [(200, 15)]);
        assert_eq!(
            (
                group.first_byte_time.count,
                group.total_time.count,
                group.connect_time.count
            ),
            (15, 15, 3)
        );
        assert!(group.first_byte_time.max <= group.total_time.max);
        assert!(
            report.seconds < 600.0,
            "the run ends when its requests are used up"
        );
    }
    assert_eq!(Counts::get(&server.counts.connections), 6);
    assert_eq!(Counts::get(&server.counts.whole_bodies), 30);
}

#[test]
fn random_ranges_are_seeded_and_compared_with_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object()).unwrap();
    let asked = |seed: u64| {
        let server = Server::start();
        let mut plan = server.plan("/big");
        let range = Some(ByteSpan {
            min: 1,
            max: 70_000,
        });
        plan.groups = vec![Group {
            requests: Some(20),
            range,
            ..Group::new(Class::Fast, 4)
        }];
        plan.verify = Verify::File(file.path().to_owned());
        plan.seed = seed;
        let (_, group) = play(plan);
        no_faults(&group);
        assert_eq!((group.completed, group.statuses[&206]), (80, 80));
        assert_eq!(group.checked_bytes, group.body_bytes);
        let mut heads = server.counts.heads.lock().unwrap().clone();
        heads
            .iter_mut()
            .for_each(|head| *head = head.replace(&server.address.to_string(), "HOST"));
        heads.sort();
        heads
    };
    let first = asked(1);
    assert_eq!(first, asked(1), "the same seed asks for the same ranges");
    assert_ne!(first, asked(2));
}

#[test]
fn without_a_file_the_server_is_asked_for_the_size() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    let range = Some(ByteSpan::exactly(1000));
    plan.groups = vec![Group {
        requests: Some(3),
        range,
        ..Group::new(Class::Fast, 1)
    }];
    let (_, group) = play(plan.clone());
    assert_eq!((group.completed, group.body_bytes), (3, 3000));

    plan.url = plan.url.replace("/big", "/small");
    assert!(
        matches!(run(&plan), Err(LoadError::Probe { .. })),
        "/small answers no ranges"
    );
}

#[test]
fn a_wrong_byte_is_found_and_named() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object()).unwrap();
    let by_file = Verify::File(file.path().to_owned());
    let by_digest = Verify::Sha256(Sha256::digest(object()).into());
    for (verify, named) in [
        (by_file, format!("byte {} ", BIG - 5)),
        (by_digest, "SHA-256".to_owned()),
    ] {
        let mut plan = server.plan("/flipped");
        plan.groups = vec![Group {
            requests: Some(2),
            ..Group::new(Class::Fast, 1)
        }];
        plan.verify = verify;
        let (report, group) = play(plan);
        assert_eq!(
            (group.faults(FaultKind::WrongBytes), group.completed),
            (2, 0)
        );
        assert!(group.faults[0].first.contains(&named), "{:?}", group.faults);
        assert!(report.has_wrong_bytes());
    }
}

#[test]
fn a_file_of_another_length_is_noticed() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &object()[..BIG - 1]).unwrap();
    for (path, kind) in [
        ("/big", FaultKind::Body),
        ("/chunked", FaultKind::WrongBytes),
    ] {
        let mut plan = server.plan(path);
        plan.groups = vec![Group {
            requests: Some(1),
            ..Group::new(Class::Fast, 1)
        }];
        plan.verify = Verify::File(file.path().to_owned());
        let (_, group) = play(plan);
        assert_eq!(
            (group.faults(kind), group.completed),
            (1, 0),
            "{path}: {:?}",
            group.faults
        );
    }
}

#[test]
fn stalled_clients_stop_reading_and_stay() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    plan.groups = vec![Group {
        requests: Some(1),
        ..Group::new(Class::Stalled, 20)
    }];
    let report = play_until(&plan, |progress| progress.holding == 20);
    let group = &report.groups[0];
    no_faults(group);
    assert_eq!(
        (group.connects, group.requests, group.stalls, group.held),
        (20, 20, 20, 20)
    );
    assert_eq!(
        (group.closed_by_server, group.completed, group.unfinished),
        (0, 0, 0)
    );
    // The head's read takes up to 1 KiB, of which some is the head.
    assert!(group.body_bytes < 20 * 1024, "{}", group.body_bytes);
    let counts = Arc::clone(&server.counts);
    drop(server);
    assert_eq!(
        (
            Counts::get(&counts.whole_bodies),
            Counts::get(&counts.cut_bodies)
        ),
        (0, 20)
    );
    assert!(Counts::get(&counts.sent_most) < BIG as u64);
}

#[test]
fn stalled_clients_can_read_some_bytes_first() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    let take = ByteSpan::exactly(300_000);
    plan.groups = vec![Group {
        requests: Some(1),
        take,
        ..Group::new(Class::Stalled, 3)
    }];
    let report = play_until(&plan, |progress| progress.holding == 3);
    let group = &report.groups[0];
    assert_eq!((group.stalls, group.body_bytes), (3, 900_000));
}

#[test]
fn a_held_connection_that_the_server_ends_is_noticed() {
    let server = Server::start();
    let mut plan = server.plan("/close-idle");
    plan.groups = vec![Group {
        requests: Some(1),
        ..Group::new(Class::Stalled, 5)
    }];
    let (report, group) = play(plan);
    assert_eq!(
        (group.stalls, group.closed_by_server, group.held),
        (5, 5, 0)
    );
    assert!(report.seconds < 600.0);
}

/// 80,000 bytes at 20,000 a second cannot take less than 3.5 s (half a second may be saved up); no upper bound
/// is asked, as a loaded machine may be slower.
#[test]
fn slow_clients_are_slow_and_get_everything() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    let range = Some(ByteSpan::exactly(80_000));
    plan.groups = vec![Group {
        rate: Some(20_000),
        requests: Some(1),
        range,
        ..Group::new(Class::Slow, 10)
    }];
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!((group.completed, group.body_bytes), (10, 800_000));
    assert!(group.total_time.p50 >= 3_300_000, "{}", group.total_time);
}

#[test]
fn aborting_clients_abort_where_they_should() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    let take = ByteSpan {
        min: 5_000,
        max: 100_000,
    };
    plan.groups = vec![Group {
        requests: Some(10),
        take,
        ..Group::new(Class::Aborting, 4)
    }];
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!(
        (
            group.requests,
            group.aborted,
            group.completed,
            group.connects
        ),
        (40, 40, 0, 40)
    );
    assert!(
        (40 * 5_000..=40 * 100_000).contains(&group.body_bytes),
        "{}",
        group.body_bytes
    );
    let counts = Arc::clone(&server.counts);
    drop(server);
    assert_eq!(
        (
            Counts::get(&counts.cut_bodies),
            Counts::get(&counts.whole_bodies)
        ),
        (40, 0)
    );
}

#[test]
fn short_and_connecting_clients_use_a_connection_each_time() {
    let server = Server::start();
    let mut plan = server.plan("/small");
    plan.groups = vec![
        Group {
            requests: Some(25),
            ..Group::new(Class::Short, 4)
        },
        Group {
            requests: Some(10),
            ..Group::new(Class::Connect, 4)
        },
    ];
    plan.threads = 2;
    let report = run(&plan).unwrap();
    let (short, connect) = (
        report.group("short").unwrap(),
        report.group("connect").unwrap(),
    );
    no_faults(short);
    no_faults(connect);
    assert_eq!((short.connects, short.completed), (100, 100));
    assert_eq!((connect.connects, connect.requests), (40, 0));
    let counts = Arc::clone(&server.counts);
    drop(server);
    assert_eq!(Counts::get(&counts.requests), 100);
    // A connection that was reset before accept() may never reach the server.
    assert!((100..=140).contains(&Counts::get(&counts.connections)));
}

#[test]
fn idle_and_dripping_clients() {
    let server = Server::start();
    let mut plan = server.plan("/small");
    plan.groups = vec![
        Group {
            requests: Some(1),
            ..Group::new(Class::Idle, 5)
        },
        Group {
            rate: Some(200),
            requests: Some(1),
            ..Group::new(Class::Drip, 5)
        },
    ];
    let report = play_until(&plan, |progress| {
        progress.holding == 5 && progress.completed == 5
    });
    let (idle, drip) = (report.group("idle").unwrap(), report.group("drip").unwrap());
    assert_eq!((idle.connects, idle.requests, idle.held), (5, 0, 5));
    assert_eq!((drip.completed, drip.unfinished), (5, 0));
    // The head is over 100 bytes, which cannot leave in less than half a second.
    assert!(drip.total_time.p50 >= 400_000, "{}", drip.total_time);
}

#[test]
fn refusals_are_counted_apart_and_retried_later() {
    let server = Server::start();
    let mut plan = server.plan("/busy");
    plan.groups = vec![Group {
        requests: Some(3),
        ..Group::new(Class::Fast, 2)
    }];
    plan.retry_after_max = Duration::from_millis(5);
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!(
        (group.refused, group.retry_after, group.retry_after_most),
        (6, 6, 3)
    );
    assert_eq!((group.completed, group.statuses[&503]), (0, 6));
}

#[test]
fn faults_are_counted_by_kind() {
    let server = Server::start();
    for (path, kind) in [
        ("/missing", FaultKind::Status),
        ("/short", FaultKind::BodyClosed),
        ("/garbage", FaultKind::HeadBad),
    ] {
        let mut plan = server.plan(path);
        plan.groups = vec![Group {
            requests: Some(2),
            ..Group::new(Class::Fast, 2)
        }];
        let (_, group) = play(plan);
        assert_eq!(
            (group.faults(kind), group.faults.len()),
            (4, 1),
            "{path}: {:?}",
            group.faults
        );
        assert_eq!(group.completed, 0);
    }
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut plan = Plan {
        backoff: Duration::from_millis(1),
        ..Plan::new(&format!("http://{nobody}/"))
    };
    plan.groups = vec![Group {
        requests: Some(3),
        ..Group::new(Class::Fast, 1)
    }];
    assert_eq!(play(plan).1.faults(FaultKind::ConnectRefused), 3);
}

/// A run against a wrong port or path ended with status 0, and a script went on.
#[test]
fn a_run_without_any_success_fails() {
    let server = Server::start();
    let run = |path: &str, clients: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-load"));
        command
            .args(["--url", &server.plan(path).url])
            .args(clients);
        command.args(["--requests", "2", "--backoff", "1ms"]);
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    let (code, errors) = run("/missing", &["--fast", "2"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains("nothing succeeded; the first status: "),
        "{errors}"
    );
    assert_eq!(run("/big", &["--fast", "2"]), (Some(0), String::new()));
    // Part of the clients is enough: the report tells of the others.
    let both = ["--fast", "1,path=/missing", "--short", "1"];
    assert_eq!(run("/big", &both), (Some(0), String::new()));
    // Who only connects succeeds with that.
    assert_eq!(run("/missing", &["--connect", "1"]).0, Some(0));
}

#[test]
fn a_connection_closed_while_idle_is_no_fault() {
    let server = Server::start();
    let mut plan = server.plan("/close-idle");
    plan.groups = vec![Group {
        requests: Some(4),
        ..Group::new(Class::Fast, 1)
    }];
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!((group.completed, group.stale, group.connects), (4, 3, 4));
}

#[test]
fn discarded_bodies_are_counted_like_others() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    let reading = Reading::Discard;
    plan.groups = vec![Group {
        requests: Some(4),
        reading,
        ..Group::new(Class::Fast, 2)
    }];
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!(
        (group.completed, group.body_bytes, group.connects),
        (8, 8 * BIG as u64, 2)
    );
}

#[test]
fn clients_come_from_several_addresses() {
    let server = Server::start();
    let mut plan = server.plan("/small");
    plan.groups = vec![Group {
        requests: Some(1),
        ..Group::new(Class::Fast, 9)
    }];
    plan.sources = Some(3);
    let (_, group) = play(plan);
    assert_eq!(group.completed, 9);
    let peers: HashSet<IpAddr> = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        .iter()
        .map(|ip| ip.parse().unwrap())
        .collect();
    assert_eq!(*server.counts.peers.lock().unwrap(), peers);
}

#[test]
fn paths_and_header_lines_are_sent() {
    let server = Server::start();
    let mut plan = server.plan("/small");
    plan.groups = vec![Group {
        requests: Some(40),
        path: Some("/small/{10}?x".into()),
        ..Group::new(Class::Fast, 1)
    }];
    plan.headers = vec![("X-Test".into(), "yes".into())];
    let (_, group) = play(plan);
    assert_eq!(group.completed, 40);
    let heads = server.counts.heads.lock().unwrap();
    let paths: HashSet<&str> = heads
        .iter()
        .map(|head| head.split(' ').nth(1).unwrap())
        .collect();
    assert!(
        paths.len() > 3
            && paths
                .iter()
                .all(|path| path.starts_with("/small/") && path.ends_with("?x")),
        "{paths:?}"
    );
    assert!(
        heads
            .iter()
            .all(|head| head.contains("X-Test: yes\r\n") && head.contains("Host: 127.0.0.1:"))
    );
}

#[test]
fn the_servers_memory_is_sampled_and_the_report_is_written() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    plan.groups = vec![Group {
        requests: Some(1),
        ..Group::new(Class::Stalled, 20)
    }];
    plan.watch = Some(Watch {
        pids: vec![std::process::id().cast_signed()],
        interval: Duration::from_millis(100),
        ..Watch::default()
    });
    let mut enough = u64::MAX;
    let report = play_until(&plan, |progress| {
        assert!(progress.open <= 20);
        if progress.holding == 20 {
            enough = enough.min(progress.samples + 5);
        }
        progress.samples >= enough
    });
    let server_report = report.server.as_ref().unwrap();
    assert_eq!(server_report.problem, None);
    let peaks = server_report.peaks;
    assert_eq!(peaks.sockets, 21, "twenty connections and the listener");
    // Each response is far larger than the client's buffer: the rest waits at the server's end.
    assert!(peaks.kernel > 64 * 1024, "{peaks:?}");
    assert!(
        peaks.together >= peaks.kernel && peaks.bound >= peaks.together,
        "{peaks:?}"
    );

    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("memory.svg");
    server_report
        .draw(&picture, "stalled", Some(1 << 30))
        .unwrap();
    assert!(
        std::fs::read_to_string(picture)
            .unwrap()
            .ends_with("</svg>\n")
    );
    let csv = server_report.samples_csv();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(
        csv.lines().count() == server_report.samples.len() + 1
            && csv.lines().all(|line| line.split(',').count() == columns)
    );
    let groups = report.groups_csv();
    let columns = groups.lines().next().unwrap().split(',').count();
    assert!(
        groups.lines().count() == 2
            && groups
                .lines()
                .all(|line| line.split(',').count() == columns)
    );
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["groups"][0]["stalls"], 20);
    assert!(
        report
            .to_string()
            .contains("peak of process + kernel memory")
    );
}

#[test]
fn the_duration_ends_everything() {
    let server = Server::start();
    let mut plan = server.plan("/big");
    plan.groups = vec![
        Group {
            rate: Some(1_000),
            ..Group::new(Class::Slow, 5)
        },
        Group::new(Class::Fast, 2),
        Group {
            start: Duration::from_secs(3600),
            name: "never".into(),
            ..Group::new(Class::Fast, 2)
        },
    ];
    plan.duration = Duration::from_secs(2);
    let report = run(&plan).unwrap();
    assert!(report.seconds >= 2.0);
    let slow = report.group("slow").unwrap();
    assert_eq!((slow.unfinished, slow.completed), (5, 0));
    assert_eq!(report.group("never").unwrap().connects, 0);
}

#[test]
fn unsound_plans_are_refused() {
    let sound = |change: fn(&mut Plan)| {
        let mut plan = Plan::new("http://127.0.0.1:9/");
        plan.groups = vec![Group::new(Class::Fast, 1)];
        change(&mut plan);
        run(&plan)
            .err()
            .map(|error| error.to_string())
            .expect("refused")
    };
    assert!(sound(|plan| plan.groups.clear()).contains("none asked for"));
    assert!(sound(|plan| plan.groups.push(Group::new(Class::Fast, 1))).contains("two groups"));
    assert!(sound(|plan| plan.groups[0].class = Class::Slow).contains("need a rate"));
    assert!(sound(|plan| plan.groups[0].clients = 10_000_000).contains("more than"));
    assert!(sound(|plan| plan.groups[0].path = Some("a b".into())).contains("path"));
    assert!(sound(|plan| plan.duration = Duration::ZERO).contains("duration"));
    assert!(sound(|plan| plan.url = "http://192.0.2.1/".into()).contains("--allow-remote"));
    assert!(sound(|plan| plan.headers.push(("a b".into(), "c\r\nd".into()))).contains("header"));
    assert!(
        sound(|plan| plan.verify = Verify::File("/no/such/file".into())).contains("/no/such/file")
    );
    assert!(
        sound(|plan| {
            plan.watch = Some(Watch {
                interval: Duration::from_micros(1),
                ..Watch::default()
            });
        })
        .contains("interval")
    );
}
