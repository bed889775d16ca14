//! The clients by TLS, against a rustls server of the same behaviour.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use penstock_load::{
    ByteSpan, Class, FaultKind, Group, Hello, Plan, Tls, TlsVersion, Trust, Verify, run,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::server::{BIG, Counts, Server, object};
use crate::{no_faults, play, play_until};

/// A server of these versions, and the PEM file of the only certificate that its clients should accept.
fn tls_server(versions: &[&'static SupportedProtocolVersion]) -> (Server, NamedTempFile) {
    tls_server_of(versions, None)
}

fn tls_server_of(
    versions: &[&'static SupportedProtocolVersion],
    record_bytes_max: Option<usize>,
) -> (Server, NamedTempFile) {
    let names = ["127.0.0.1".to_owned(), "penstock.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.max_fragment_size = record_bytes_max;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    (Server::start_tls(config), file)
}

fn any_version() -> (Server, NamedTempFile) {
    tls_server(&[&TLS13, &TLS12])
}

fn plan(server: &Server, ca: &NamedTempFile, path: &str, groups: Vec<Group>) -> Plan {
    let mut plan = server.plan(path);
    plan.tls.trust = Trust::File(ca.path().to_owned());
    plan.groups = groups;
    plan
}

fn group(class: Class, clients: usize, requests: u64) -> Group {
    Group {
        requests: Some(requests),
        ..Group::new(class, clients)
    }
}

#[test]
fn bytes_are_verified_through_tls() {
    let (server, ca) = any_version();
    for path in ["/big", "/chunked"] {
        let mut plan = plan(&server, &ca, path, vec![group(Class::Fast, 3, 4)]);
        plan.verify = Verify::Sha256(Sha256::digest(object()).into());
        let (_, group) = play(plan);
        no_faults(&group);
        assert_eq!((group.connects, group.handshakes), (3, 3));
        assert_eq!((group.completed, group.resumed), (12, 0));
        assert_eq!(group.checked_bytes, 12 * BIG as u64);
        assert_eq!(group.handshake_time.count, 3);
    }
    let mut wrong = plan(&server, &ca, "/flipped", vec![group(Class::Fast, 1, 1)]);
    wrong.verify = Verify::Sha256(Sha256::digest(object()).into());
    assert!(run(&wrong).unwrap().has_wrong_bytes());
    let counts = Arc::clone(&server.counts);
    drop(server);
    // Each client said goodbye, but for the last, which has nothing to say to such a server.
    assert_eq!(Counts::get(&counts.handshakes), 7);
    assert_eq!(Counts::get(&counts.close_notifies), 6);
}

/// The handshake's messages don't fit into a record either.
#[test]
fn records_may_be_small() {
    for version in [&TLS12, &TLS13] {
        let (server, ca) = tls_server_of(&[version], Some(100));
        let few = |class, clients| Group {
            range: Some(ByteSpan::exactly(30_001)),
            ..group(class, clients, 3)
        };
        let slow = Group {
            rate: Some(1 << 20),
            ..few(Class::Slow, 1)
        };
        let aborting = Group {
            take: ByteSpan::exactly(1000),
            ..few(Class::Aborting, 1)
        };
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object()).unwrap();
        let groups = vec![few(Class::Fast, 2), slow, aborting];
        let mut plan = plan(&server, &ca, "/big", groups);
        plan.verify = Verify::File(file.path().to_owned());
        let report = run(&plan).unwrap();
        for group in &report.groups {
            no_faults(group);
            assert_eq!(group.checked_bytes, group.body_bytes);
        }
        let counts = |name: &str| {
            let group = report.group(name).unwrap();
            (group.completed, group.aborted)
        };
        assert_eq!((counts("fast"), counts("slow")), ((6, 0), (3, 0)));
        assert_eq!(counts("aborting"), (0, 3));
        assert!(report.group("aborting").unwrap().body_bytes < 3 * 1100);
    }
}

#[test]
fn the_server_may_change_its_keys() {
    let (server, ca) = tls_server(&[&TLS13]);
    let mut plan = plan(&server, &ca, "/new-keys", vec![group(Class::Fast, 1, 3)]);
    plan.verify = Verify::Sha256(Sha256::digest(object()).into());
    let (_, group) = play(plan);
    no_faults(&group);
    assert_eq!((group.completed, group.connects), (3, 1));
}

#[test]
fn ranges_of_an_object_of_unknown_size_are_asked_for_by_tls() {
    let (server, ca) = any_version();
    let ranges = Group {
        range: Some(ByteSpan {
            min: 1,
            max: 70_000,
        }),
        ..group(Class::Fast, 2, 20)
    };
    let (_, group) = play(plan(&server, &ca, "/big", vec![ranges]));
    no_faults(&group);
    assert_eq!((group.completed, group.statuses[&206]), (40, 40));
    assert_eq!(group.connects, 2);
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let (server, ca) = any_version();
    let (_other, other_ca) = any_version();
    let handshake_of = |plan: Plan| play(plan).1.faults;
    let mut plan = plan(&server, &other_ca, "/small", vec![group(Class::Fast, 1, 2)]);
    let faults = handshake_of(plan.clone());
    assert_eq!((faults[0].kind, faults[0].count), (FaultKind::Handshake, 2));
    assert!(faults[0].first.contains("certificate"), "{faults:?}");

    // The right root, and another name.
    plan.tls.trust = Trust::File(ca.path().to_owned());
    plan.tls.server_name = Some("other.test".to_owned());
    let faults = handshake_of(plan.clone());
    assert_eq!((faults[0].kind, faults[0].count), (FaultKind::Handshake, 2));
    plan.tls.server_name = Some("penstock.test".to_owned());
    assert_eq!(play(plan.clone()).1.completed, 2);

    plan.tls.trust = Trust::All;
    plan.tls.server_name = None;
    assert_eq!(play(plan).1.completed, 2);
}

#[test]
fn a_version_is_agreed_on_or_the_alert_is_named() {
    let only = |version| Tls {
        trust: Trust::All,
        version,
        ..Tls::default()
    };
    for (versions, version, agreed) in [
        (&[&TLS13, &TLS12][..], None, "TLS 1.3 TLS13_"),
        (&[&TLS13, &TLS12], Some(TlsVersion::V13), "TLS 1.3 TLS13_"),
        (
            &[&TLS13, &TLS12],
            Some(TlsVersion::V12),
            "TLS 1.2 TLS_ECDHE",
        ),
        (&[&TLS12], None, "TLS 1.2 TLS_ECDHE"),
    ] {
        let (server, ca) = tls_server(versions);
        let mut plan = plan(&server, &ca, "/big", vec![group(Class::Fast, 2, 2)]);
        plan.tls = only(version);
        plan.verify = Verify::Sha256(Sha256::digest(object()).into());
        let (report, group) = play(plan);
        no_faults(&group);
        assert_eq!(group.completed, 4);
        let (name, count) = group.negotiated.first_key_value().unwrap();
        assert!(name.starts_with(agreed) && *count == 2, "{name}");
        assert!(report.to_string().contains(agreed), "{report}");
    }
    for (versions, version) in [(&[&TLS13], TlsVersion::V12), (&[&TLS12], TlsVersion::V13)] {
        let (server, ca) = tls_server(versions);
        let mut plan = plan(&server, &ca, "/big", vec![group(Class::Fast, 1, 1)]);
        plan.tls = only(Some(version));
        let (_, group) = play(plan);
        assert_eq!(group.faults(FaultKind::Handshake), 1);
        let first = &group.faults[0].first;
        assert!(first.contains("ProtocolVersion"), "{first}");
    }
}

#[test]
fn stalled_clients_stop_reading_and_stay() {
    let (server, ca) = any_version();
    let take = ByteSpan::exactly(300_000);
    let mut more = group(Class::Stalled, 3, 1);
    (more.name, more.take) = ("more".to_owned(), take);
    let groups = vec![group(Class::Stalled, 20, 1), more, group(Class::Idle, 2, 1)];
    let plan = plan(&server, &ca, "/big", groups);
    let report = play_until(&plan, |progress| progress.holding == 25);
    for group in &report.groups {
        no_faults(group);
        assert_eq!(
            (group.held, group.handshakes),
            (group.clients, group.clients)
        );
    }
    // A record of at most 16 KiB has the head and the first bytes, or the last of those that are wanted.
    assert!(report.groups[0].body_bytes < 20 * 16 * 1024);
    let more = report.groups[1].body_bytes;
    assert!((900_000..900_000 + 3 * 16 * 1024).contains(&more), "{more}");
    let counts = Arc::clone(&server.counts);
    drop(server);
    assert_eq!(Counts::get(&counts.cut_bodies), 23);
    assert_eq!(Counts::get(&counts.whole_bodies), 0);
}

#[test]
fn all_other_clients_work_by_tls() {
    let (server, ca) = any_version();
    let rate = |class, rate| Group {
        rate: Some(rate),
        ..group(class, 2, 1)
    };
    let slow = Group {
        range: Some(ByteSpan::exactly(80_000)),
        ..rate(Class::Slow, 1 << 20)
    };
    let aborting = Group {
        take: ByteSpan {
            min: 5_000,
            max: 100_000,
        },
        ..group(Class::Aborting, 4, 10)
    };
    let small = |mut group: Group| {
        group.path = Some("/small".to_owned());
        group
    };
    let groups = vec![
        slow,
        aborting,
        small(group(Class::Short, 2, 10)),
        group(Class::Connect, 2, 3),
        small(rate(Class::Drip, 1000)),
    ];
    let report = run(&plan(&server, &ca, "/big", groups)).unwrap();
    for group in &report.groups {
        no_faults(group);
    }
    let counts = |name: &str| {
        let group = report.group(name).unwrap();
        (group.connects, group.handshakes, group.completed)
    };
    assert_eq!(counts("slow"), (2, 2, 2));
    assert_eq!(counts("short"), (20, 20, 20));
    assert_eq!(counts("connect"), (6, 0, 0));
    assert_eq!(counts("drip"), (2, 2, 2));
    assert_eq!(report.group("aborting").unwrap().aborted, 40);
    assert_eq!(report.group("short").unwrap().cut_off, 0);
}

#[test]
fn handshakes_are_done_again_and_again_and_counted() {
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let (server, ca) = any_version();
        let mut plan = plan(&server, &ca, "/", vec![group(Class::Handshake, 4, 25)]);
        plan.tls.version = Some(version);
        plan.threads = 2;
        let (report, group) = play(plan);
        no_faults(&group);
        assert_eq!((group.connects, group.handshakes), (100, 100));
        assert_eq!((group.requests, group.resumed, group.cut_off), (0, 0, 0));
        assert_eq!(group.handshake_time.count, 100);
        assert!(group.handshakes_per_second > 0.0 && report.has_successes());
        assert!(report.to_string().contains("  handshake  p50 "), "{report}");
        let counts = Arc::clone(&server.counts);
        drop(server);
        // The server saw every one of them to its end, and a goodbye.
        assert_eq!(Counts::get(&counts.handshakes), 100);
        assert_eq!(Counts::get(&counts.close_notifies), 100);
    }
}

#[test]
fn half_open_clients_send_a_part_of_the_hello_and_stay() {
    for (hello, whole) in [
        (Hello::Nothing, false),
        (Hello::Part, false),
        (Hello::Whole, true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut plan = Plan::new(&format!("https://{}/", listener.local_addr().unwrap()));
        plan.duration = Duration::from_secs(600);
        plan.tls.trust = Trust::All;
        plan.groups = vec![Group {
            hello,
            ..group(Class::HalfOpen, 3, 1)
        }];
        let report = play_until(&plan, |progress| progress.holding == 3);
        let group = &report.groups[0];
        no_faults(group);
        assert_eq!((group.connects, group.handshakes, group.held), (3, 0, 3));
        for _ in 0..3 {
            // The clients are gone, so this ends.
            let mut bytes = Vec::new();
            let (mut client, _) = listener.accept().unwrap();
            client.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.is_empty(), hello == Hello::Nothing);
            let mut acceptor = Acceptor::default();
            acceptor.read_tls(&mut bytes.as_slice()).unwrap();
            assert_eq!(acceptor.accept().unwrap().is_some(), whole, "{hello:?}");
        }
    }
}

#[test]
fn half_open_clients_do_not_answer_and_need_tls() {
    let (server, ca) = any_version();
    // The ClientHello is whole, so the server answers; and then it waits until its peer goes.
    let half_open = Group {
        hello: Hello::Whole,
        ..group(Class::HalfOpen, 2, 1)
    };
    let plan = plan(&server, &ca, "/", vec![half_open]);
    let report = play_until(&plan, |progress| progress.holding == 2);
    assert_eq!(report.groups[0].held, 2);
    let counts = Arc::clone(&server.counts);
    drop(server);
    assert_eq!(Counts::get(&counts.handshakes), 0);

    let mut plain = Plan::new("http://127.0.0.1:9/");
    plain.groups = vec![group(Class::HalfOpen, 2, 1)];
    let error = run(&plain).unwrap_err().to_string();
    assert!(error.contains("need an https URL"), "{error}");
}

#[test]
fn an_end_without_close_notify_is_no_end_of_a_body() {
    let (server, ca) = any_version();
    let at = |path: &str| play(plan(&server, &ca, path, vec![group(Class::Fast, 1, 2)])).1;
    let whole = at("/until-close");
    no_faults(&whole);
    assert_eq!((whole.completed, whole.cut_off), (2, 0));
    let cut = at("/cut-off");
    assert_eq!((cut.completed, cut.faults(FaultKind::TlsCutOff)), (0, 2));
    let first = &cut.faults[0].first;
    assert!(
        first.contains("without close_notify after 10 bytes"),
        "{first}"
    );
    // Here the length tells.
    assert_eq!(at("/short").faults(FaultKind::BodyClosed), 2);
}

#[test]
fn a_record_that_is_wrong_is_named() {
    let (server, ca) = any_version();
    let bad = plan(&server, &ca, "/bad-record", vec![group(Class::Fast, 1, 2)]);
    let (_, group) = play(bad);
    assert_eq!((group.completed, group.faults(FaultKind::Tls)), (0, 2));
    assert_eq!(group.body_bytes, 18);
    let first = &group.faults[0].first;
    assert!(first.contains("after 9 bytes"), "{first}");
}

#[test]
fn a_session_that_the_server_ended_while_idle_is_no_fault() {
    for version in [&TLS12, &TLS13] {
        let (server, ca) = tls_server(&[version]);
        let plan = plan(&server, &ca, "/close-idle", vec![group(Class::Fast, 1, 4)]);
        let (_, group) = play(plan);
        no_faults(&group);
        assert_eq!((group.completed, group.stale), (4, 3));
        assert_eq!((group.connects, group.handshakes), (4, 4));
    }
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = Plan::new(&format!("https://{}/", listener.local_addr().unwrap()));
    plan.tls.trust = Trust::All;
    plan.timeout = Duration::from_millis(100);
    plan.groups = vec![group(Class::Handshake, 1, 1)];
    // Nobody accepts, so nobody answers.
    let (report, silent) = play(plan.clone());
    assert_eq!(silent.faults(FaultKind::HandshakeTimeout), 1);
    assert!(!report.has_successes());

    plan.timeout = Duration::from_secs(600);
    for (answer, reason) in [
        ("", "closed during the handshake"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "corrupt message"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        plan.url = format!("https://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            // What is left unread would make the close a reset.
            let mut header = [0; 5];
            client.read_exact(&mut header).unwrap();
            let length = u16::from_be_bytes([header[3], header[4]]);
            client.read_exact(&mut vec![0; length.into()]).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
        });
        let (_, group) = play(plan.clone());
        server.join().unwrap();
        assert_eq!(group.faults(FaultKind::Handshake), 1, "{:?}", group.faults);
        let first = &group.faults[0].first;
        assert!(first.contains(reason), "{first}");
    }
}

#[test]
fn sessions_are_resumed_if_asked_for() {
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let (server, ca) = any_version();
        let mut plan = plan(&server, &ca, "/small", vec![group(Class::Short, 1, 10)]);
        plan.tls.version = Some(version);
        let (_, group) = play(plan.clone());
        assert_eq!((group.handshakes, group.resumed), (10, 0), "{version:?}");
        plan.tls.resume = true;
        let (_, group) = play(plan);
        no_faults(&group);
        assert_eq!((group.handshakes, group.resumed), (10, 9), "{version:?}");
    }
}
