//! Sessions with a client of rustls, over a wire that takes what a test lets it take.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SupportedCipherSuite,
};
use tempfile::TempDir;

use super::certificates::CertificateFiles;
use super::handshake::{Established, Handshake, HandshakeError};
use super::record::{CONTENT_BYTES_MAX, RECORD_BYTES_MAX};
use super::session::{ReceiveError, Slices, WriteError};
use super::{Acceptor, Alert, Session, Workspace};

struct Site {
    directory: TempDir,
    acceptor: Acceptor,
    files: Vec<CertificateFiles>,
}

/// A site with a certificate for each of these names.
fn site(names: &[&str]) -> Site {
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<CertificateFiles> = names
        .iter()
        .map(|name| {
            let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).unwrap();
            let path = |what: &str| directory.path().join(format!("{name}.{what}"));
            std::fs::write(path("pem"), made.cert.pem()).unwrap();
            std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
            CertificateFiles {
                certificate: path("pem"),
                key: path("key"),
                ocsp: None,
            }
        })
        .collect();
    Site {
        acceptor: Acceptor::new(&files, None).unwrap(),
        files,
        directory,
    }
}

impl Site {
    fn client(&self, name: &str, suite: Option<SupportedCipherSuite>) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        ClientConnection::new(self.config(suite), name).unwrap()
    }

    fn config(&self, suite: Option<SupportedCipherSuite>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for files in &self.files {
            let der = CertificateDer::from_pem_file(&files.certificate).unwrap();
            roots.add(der).unwrap();
        }
        let all = aws_lc_rs::default_provider();
        let suites = suite.map_or(all.cipher_suites.clone(), |suite| vec![suite]);
        let provider = CryptoProvider {
            cipher_suites: suites,
            ..all
        };
        let versions = match suite.map(|suite| suite.version().version) {
            Some(ProtocolVersion::TLSv1_2) => vec![&rustls::version::TLS12],
            _ => vec![&rustls::version::TLS13],
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// What a client has to say.
fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A client hears this. Returns what it has got.
fn hear(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
        match client.reader().read_to_end(&mut content) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    Ok(content)
}

fn established(site: &Site, client: &mut ClientConnection) -> Result<Established, HandshakeError> {
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    for _ in 0..10 {
        let outcome = handshake.received(&said(client));
        let answer = handshake.outgoing().to_vec();
        handshake.sent(answer.len());
        let heard = hear(client, &answer);
        match outcome {
            Ok(None) => heard.map(drop).unwrap(),
            Ok(Some(established)) => return Ok(established),
            Err(error) => return Err(error),
        }
    }
    panic!("the handshake does not end");
}

fn session(site: &Site, client: &mut ClientConnection) -> Session {
    established(site, client)
        .map_err(|error| error.to_string())
        .unwrap()
        .session
}

fn suites() -> Vec<SupportedCipherSuite> {
    aws_lc_rs::default_provider()
        .cipher_suites
        .into_iter()
        // The certificates are of the other kind.
        .filter(|suite| !format!("{:?}", suite.suite()).contains("_RSA_"))
        .collect()
}

/// Two keys, so that they are made ready again and again.
fn workspace(bytes: usize) -> Workspace {
    Workspace::new(bytes, NonZeroUsize::new(1).unwrap())
}

/// Gives a session bytes, behind those that it has kept. Returns the content of whole records.
fn receive(session: &mut Session, bytes: &[u8]) -> Result<Vec<u8>, ReceiveError> {
    let mut workspace = workspace(0);
    let all = [session.incoming(), bytes].concat();
    workspace.incoming[..all.len()].copy_from_slice(&all);
    let count = session.receive(&mut workspace, all.len())?;
    Ok(workspace.incoming[..count].to_vec())
}

/// Writes content to a wire that takes so much at a time. Returns the content that left, and what the wire got.
fn write(
    session: &mut Session,
    content: &[u8],
    takes: usize,
) -> Result<(usize, Vec<u8>), WriteError> {
    let mut wire = Vec::new();
    let mut scratch = workspace(session.room_for(content.len() as u64) as usize);
    let mut slices = Slices::new([content].into_iter());
    let left = session.write(&mut slices, &mut scratch, |bytes| {
        let taken = bytes.len().min(takes - wire.len().min(takes));
        wire.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    })?;
    Ok((left, wire))
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Sends all of this as the body's sources do, to wires that take so much, one after another.
fn send_all(
    session: &mut Session,
    client: &mut ClientConnection,
    content: &[u8],
    wires: &[(usize, usize)],
) -> Vec<u8> {
    let (mut at, mut arrived) = (0, Vec::new());
    for &(admitted, takes) in wires.iter().cycle().take(100_000) {
        if at == content.len() {
            break;
        }
        let admitted = session.unfinished().unwrap_or(admitted);
        let now = &content[at..content.len().min(at + admitted)];
        let (left, wire) = write(session, now, takes).unwrap();
        at += left;
        arrived.extend(hear(client, &wire).unwrap());
    }
    assert_eq!(at, content.len());
    arrived
}

#[test]
fn content_arrives_in_every_suite() {
    let site = site(&["x.org"]);
    let content = bytes(300_000);
    let suites = suites();
    assert_eq!(suites.len(), 6, "{suites:?}");
    for suite in suites {
        let mut client = site.client("x.org", Some(suite));
        let mut session = session(&site, &mut client);
        client.writer().write_all(b"GET /").unwrap();
        let request = said(&mut client);
        let arrived = receive(&mut session, &request);
        assert_eq!(arrived.unwrap(), b"GET /", "{suite:?}");
        for wires in [
            &[(usize::MAX / 2, usize::MAX)][..],
            &[(40_000, 1)],
            &[(40_000, 0), (70_000, 16_406), (1, 30)],
            &[(50_000, 33_000), (5, 7), (17_000, 16_384)],
        ] {
            let content = match wires[0].1 {
                1 => &content[..2_000],
                _ => &content,
            };
            let arrived = send_all(&mut session, &mut client, content, wires);
            assert!(arrived == content, "{suite:?} {wires:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn content_arrives_whatever_a_socket_takes(
        length in 1..100_000usize,
        wires in prop::collection::vec((1..60_000usize, 0..40_000usize), 1..20),
    ) {
        prop_assume!(wires.iter().any(|wire| wire.1 > 0));
        let site = site(&["x.org"]);
        let mut client = site.client("x.org", None);
        let mut session = session(&site, &mut client);
        let content = bytes(length);
        prop_assert!(send_all(&mut session, &mut client, &content, &wires) == content);
    }
}

#[test]
fn what_did_not_leave_may_be_something_else() {
    let site = site(&["x.org"]);
    let mut client = site.client("x.org", None);
    let mut session = session(&site, &mut client);
    let (left, wire) = write(&mut session, &bytes(20_000), 0).unwrap();
    assert_eq!((left, wire.len(), session.unfinished()), (0, 0, None));
    // One whole record, and nothing of the second.
    let one = CONTENT_BYTES_MAX;
    let (left, wire) = write(&mut session, &bytes(20_000), one + 22).unwrap();
    assert_eq!((left, session.unfinished()), (one, None));
    assert!(hear(&mut client, &wire).unwrap() == bytes(one));
    let (_, wire) = write(&mut session, b"something else", 1000).unwrap();
    assert_eq!(hear(&mut client, &wire).unwrap(), b"something else");
}

#[test]
fn a_record_that_has_begun_is_ended_with_the_same_content_only() {
    let site = site(&["x.org"]);
    for suite in suites() {
        let mut client = site.client("x.org", Some(suite));
        let mut session = session(&site, &mut client);
        let content = bytes(1000);
        let (left, begun) = write(&mut session, &content, 100).unwrap();
        assert_eq!(
            (left, begun.len(), session.unfinished()),
            (0, 100, Some(1000))
        );
        let mut other = content.clone();
        other[999] ^= 1;
        let mut sent = 0;
        let mut scratch = workspace(2000);
        let mut slices = Slices::new([&other[..]].into_iter());
        let refused = session.write(&mut slices, &mut scratch, |bytes| {
            sent += bytes.len();
            Ok(bytes.len())
        });
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("not the same any more"), "{error}");
        assert_eq!(sent, 0, "{suite:?}");
        // No message can go between.
        assert!(
            session
                .end(Alert::CLOSE_NOTIFY, &mut workspace(0), |_| panic!(
                    "in the middle of a record"
                ))
                .unwrap()
        );
        let (left, rest) = write(&mut session, &content, usize::MAX).unwrap();
        assert_eq!((left, session.unfinished()), (1000, None));
        let wire = [begun, rest].concat();
        assert!(hear(&mut client, &wire).unwrap() == content, "{suite:?}");
    }
}

#[test]
fn keys_change_when_the_client_asks_and_when_they_are_used_up() {
    let site = site(&["x.org"]);
    let is_13 = |suite: &SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    for suite in suites().into_iter().filter(is_13) {
        let mut client = site.client("x.org", Some(suite));
        let session = session(&site, &mut client);
        keys_change(session, client);
    }
}

fn keys_change(mut session: Session, mut client: ClientConnection) {
    for round in 0..5 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"hello").unwrap();
        let arrived = receive(&mut session, &said(&mut client));
        assert_eq!(arrived.unwrap(), b"hello", "round {round}");
        let arrived = send_all(
            &mut session,
            &mut client,
            &bytes(50_000),
            &[(20_000, 9_000)],
        );
        assert!(arrived == bytes(50_000), "round {round}");
    }
    session.limit_records(3);
    let content = bytes(20 * CONTENT_BYTES_MAX);
    let arrived = send_all(
        &mut session,
        &mut client,
        &content,
        &[(100_000, usize::MAX), (100_000, 20_000)],
    );
    assert!(arrived == content);
    assert!(!session.is_worn(), "keys change");
}

#[test]
fn a_worn_key_of_tls_12_ends_its_connection() {
    let site = site(&["x.org"]);
    let suite = suites()
        .into_iter()
        .find(|suite| suite.version().version == ProtocolVersion::TLSv1_2);
    let mut client = site.client("x.org", suite);
    let mut session = session(&site, &mut client);
    session.limit_records(6);
    assert!(!session.is_worn());
    let (left, wire) = write(&mut session, &bytes(3 * CONTENT_BYTES_MAX), usize::MAX).unwrap();
    assert_eq!(hear(&mut client, &wire).unwrap().len(), left);
    assert!(session.is_worn());
    // The handshake has sealed one.
    let (left, _) = write(&mut session, &bytes(9 * CONTENT_BYTES_MAX), usize::MAX).unwrap();
    assert_eq!(left, 2 * CONTENT_BYTES_MAX);
    assert!(write(&mut session, b"x", usize::MAX).is_err());
}

#[test]
fn records_come_in_pieces_and_pieces_in_records() {
    let site = site(&["x.org"]);
    for suite in suites() {
        let mut client = site.client("x.org", Some(suite));
        let mut session = session(&site, &mut client);
        for part in bytes(5_000).chunks(700) {
            client.writer().write_all(part).unwrap();
        }
        let wire = said(&mut client);
        let mut arrived = Vec::new();
        for piece in wire.chunks(333) {
            arrived.extend(receive(&mut session, piece).unwrap());
        }
        assert!(arrived == bytes(5_000), "{suite:?}");
        assert_eq!(session.held_bytes(), 0);
        client.send_close_notify();
        assert_eq!(receive(&mut session, &said(&mut client)), Ok(Vec::new()));
        assert!(session.peer_has_ended());
    }
}

#[test]
fn what_is_wrong_gets_its_alert() {
    let site = site(&["x.org"]);
    let wrong = |alert| Err(ReceiveError::Wrong(alert));
    for suite in suites() {
        let fresh = || {
            let mut client = site.client("x.org", Some(suite));
            let session = session(&site, &mut client);
            (client, session)
        };
        let (mut client, mut session) = fresh();
        client.writer().write_all(b"hello").unwrap();
        let mut wire = said(&mut client);
        let last = wire.len() - 1;
        wire[last] ^= 1;
        assert_eq!(receive(&mut session, &wire), wrong(Alert::BAD_RECORD_MAC));

        let (_, mut session) = fresh();
        let is_13 = suite.version().version == ProtocolVersion::TLSv1_3;
        let most = CONTENT_BYTES_MAX + if is_13 { 256 } else { 2048 };
        let header = |length: usize| [&[23, 3, 3][..], &(length as u16).to_be_bytes()].concat();
        assert_eq!(receive(&mut session, &header(most)), Ok(Vec::new()));
        let (_, mut session) = fresh();
        let long = header(most + 1);
        assert_eq!(receive(&mut session, &long), wrong(Alert::RECORD_OVERFLOW));

        let (_, mut session) = fresh();
        let http = *b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(receive(&mut session, &http), wrong(Alert::DECODE_ERROR));

        // The client hears what is wrong.
        let (mut client, mut session) = fresh();
        let mut wire = Vec::new();
        assert!(
            session
                .end(Alert::RECORD_OVERFLOW, &mut workspace(0), |bytes| {
                    wire.extend_from_slice(bytes);
                    Ok(bytes.len())
                })
                .unwrap()
        );
        let heard = hear(&mut client, &wire).unwrap_err().to_string();
        assert!(heard.contains("RecordOverflow"), "{heard}");
    }
}

#[test]
fn messages_without_content_are_bounded() {
    let site = site(&["x.org"]);
    let mut client = site.client("x.org", None);
    let mut session = session(&site, &mut client);
    let mut outcome = Ok(Vec::new());
    for count in 0..40 {
        client.refresh_traffic_keys().unwrap();
        outcome = receive(&mut session, &said(&mut client));
        if outcome.is_err() {
            assert_eq!(count, 32);
            break;
        }
    }
    assert_eq!(outcome, Err(ReceiveError::Wrong(Alert::UNEXPECTED_MESSAGE)));
    assert!(session.held_bytes() < 100, "one answer does for all");
}

#[test]
fn certificates_are_chosen_by_name() {
    let site = site(&["x.org", "*.y.org"]);
    for name in ["x.org", "a.y.org"] {
        let mut client = site.client(name, None);
        session(&site, &mut client);
    }
    let mut client = site.client("z.org", None);
    let refused = established(&site, &mut client);
    assert!(matches!(refused, Err(HandshakeError::Name)));
    // Its first one is for a name, and a client that asks for an address gets that, whatever it thinks of it.
    let mut client = site.client("127.0.0.1", None);
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    assert!(handshake.received(&said(&mut client)).is_ok());
}

#[test]
fn a_certificate_without_names_is_for_any() {
    let mut site = site(&["x.org"]);
    let mut parameters = rcgen::CertificateParams::default();
    parameters.subject_alt_names = Vec::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let made = parameters.self_signed(&key).unwrap();
    std::fs::write(&site.files[0].certificate, made.pem()).unwrap();
    std::fs::write(&site.files[0].key, key.serialize_pem()).unwrap();
    let renewed = site.acceptor.read(&site.files).unwrap();
    site.acceptor.renew(renewed);
    let mut client = site.client("x.org", None);
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    assert!(handshake.received(&said(&mut client)).is_ok());
    site.files.clear();
}

#[test]
fn handshakes_that_are_none_end() {
    let site = site(&["x.org"]);
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    assert!(
        handshake
            .received(b"GET / HTTP/1.1\r\nHost: x.org\r\n\r\n")
            .is_err()
    );
    assert_eq!(handshake.outgoing().first(), Some(&21), "an alert");

    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    let mut long = vec![22, 3, 3, 0x40, 0, 1, 0, 0x7f, 0xff];
    long.resize(RECORD_BYTES_MAX, 0);
    let first = handshake.received(&long).map(drop);
    let refused = first.and_then(|()| handshake.received(&[0; 100]).map(drop));
    assert!(refused.is_err());
    assert_eq!(handshake.outgoing().first(), Some(&21), "an alert");

    // A message in two records, the second of which is none.
    for kind in [0, 23, 99] {
        let mut handshake = Handshake::new(&site.acceptor).unwrap();
        let first = [22, 3, 1, 0, 5, 1, 0, 0, 100, 3];
        assert!(handshake.received(&first).unwrap().is_none());
        assert!(
            handshake.received(&[kind, 3, 1, 0, 1, 0]).is_err(),
            "{kind}"
        );
        assert_eq!(handshake.outgoing().first(), Some(&21), "{kind}");
    }

    let mut client = site.client("x.org", None);
    let hello = said(&mut client);
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    for byte in &hello[..hello.len() - 1] {
        assert!(handshake.received(&[*byte]).unwrap().is_none());
    }
    assert!(handshake.outgoing().is_empty());
    handshake.received(&hello[hello.len() - 1..]).unwrap();
    assert!(!handshake.outgoing().is_empty());
}

#[test]
fn files_that_are_wrong_are_named() {
    let site = site(&["x.org", "y.org"]);
    let says = |files: CertificateFiles| match site.acceptor.read(&[files]) {
        Ok(_) => panic!("it is wrong"),
        Err(error) => error.to_string(),
    };
    let [x, y] = &site.files[..] else {
        panic!("two")
    };
    let error = says(CertificateFiles {
        key: y.key.clone(),
        ..x.clone()
    });
    assert!(
        error.contains("y.org.key: not the key of the certificate in"),
        "{error}"
    );
    let error = says(CertificateFiles {
        key: x.certificate.clone(),
        ..x.clone()
    });
    assert!(error.contains("x.org.pem: no private key"), "{error}");
    let error = says(CertificateFiles {
        certificate: x.key.clone(),
        ..x.clone()
    });
    assert!(error.contains("there is no certificate in it"), "{error}");
    let none = site.directory.path().join("none");
    let error = says(CertificateFiles {
        certificate: none,
        ..x.clone()
    });
    assert!(error.contains("none: No such file"), "{error}");
    let error = says(CertificateFiles {
        ocsp: Some(x.key.clone()),
        ..x.clone()
    });
    assert!(error.contains("not an OCSP response"), "{error}");
}

#[test]
fn a_client_may_go_on_right_behind_its_last_message() {
    let site = site(&["x.org"]);
    for keys in [false, true] {
        let mut client = site.client("x.org", None);
        let mut handshake = Handshake::new(&site.acceptor).unwrap();
        assert!(handshake.received(&said(&mut client)).unwrap().is_none());
        hear(&mut client, handshake.outgoing()).unwrap();
        handshake.sent(handshake.outgoing().len());
        if keys {
            client.refresh_traffic_keys().unwrap();
        }
        client.writer().write_all(b"GET /").unwrap();
        let done = handshake.received(&said(&mut client)).unwrap().unwrap();
        let mut session = done.session;
        assert_eq!(receive(&mut session, &[]).unwrap(), b"GET /");
        hear(&mut client, handshake.outgoing()).unwrap();
        let arrived = send_all(&mut session, &mut client, b"200", &[(10, 100)]);
        assert_eq!(arrived, b"200");
    }
}

#[test]
fn a_client_may_close_right_behind_its_last_message() {
    let site = site(&["x.org"]);
    let mut client = site.client("x.org", None);
    let mut handshake = Handshake::new(&site.acceptor).unwrap();
    assert!(handshake.received(&said(&mut client)).unwrap().is_none());
    hear(&mut client, handshake.outgoing()).unwrap();
    handshake.sent(handshake.outgoing().len());
    client.send_close_notify();
    let done = handshake.received(&said(&mut client)).unwrap().unwrap();
    let mut session = done.session;
    assert_eq!(receive(&mut session, &[]), Ok(Vec::new()));
    assert!(session.peer_has_ended());
    let mut wire = handshake.outgoing().to_vec();
    let ended = session.end(Alert::CLOSE_NOTIFY, &mut workspace(0), |bytes| {
        wire.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert!(ended.unwrap());
    client.read_tls(&mut &wire[..]).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn a_ticket_spares_a_signature() {
    let site = site(&["x.org"]);
    for suite in suites() {
        let (config, name) = (
            site.config(Some(suite)),
            ServerName::try_from("x.org").unwrap(),
        );
        let mut first = ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        let done = established(&site, &mut first)
            .map_err(|error| error.to_string())
            .unwrap();
        assert!(!done.is_resumed);
        let mut second = ClientConnection::new(config, name).unwrap();
        let done = established(&site, &mut second)
            .map_err(|error| error.to_string())
            .unwrap();
        assert!(done.is_resumed, "{suite:?}");
    }
}
