//! HTTPS: versions and ciphers, names, tickets, certificates that change, how connections end, and clients that do wrong.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use common::client::End;
use common::secure::{
    Identity, config, config_of, connect, hello, nothing_is_left, operator_config, raw, serve,
    session_named, try_connect,
};
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, program, run, wait_until,
};
use rustls::crypto::aws_lc_rs::cipher_suite as suites;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, StreamOwned};

on_both_backends! {
    every_version_and_cipher
    a_session_is_resumed
    a_certificate_for_each_name
    a_protocol_that_is_not_spoken
    keys_are_updated
    clean_ends
    a_body_that_is_cut_looks_cut
    certificates_are_renewed
    certificates_that_cannot_be_used
    real_clients
    nothing_weak
    half_open_handshakes
    the_admin_listener_wants_a_certificate
}

/// Some segments, and far more than the sockets of both sides hold.
const LARGE: usize = (4 << 20) + 4321;
/// The receive buffer of a client that takes its body bit by bit.
const RECEIVE_BYTES: usize = 64 << 10;
/// The bytes that such a client reads before it stops.
const READ_FIRST: usize = 100_000;

/// An object on six stores, and its content.
fn stores() -> (Stores, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(24).bytes(LARGE);
    stores.put_bytes(&content);
    (stores, content)
}

/// Begins a download and stops reading.
fn begin(server: &Server, config: &Arc<ClientConfig>, content: &[u8]) -> Client {
    let address = server.secured.expect("a listener of TLS");
    let mut client = Client::connect_plain_with(address, RECEIVE_BYTES);
    client.secure(session_named("localhost", config)).unwrap();
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    assert_same(
        &client.body(READ_FIRST),
        &content[..READ_FIRST],
        "the beginning",
    );
    client
}

fn the_admin_listener_wants_a_certificate(io: Backend) {
    let (stores, _) = stores();
    let (identity, operator) = (Identity::shared(), Identity::new(&["operator"]));
    let [ca, _] = operator.write(&stores, "operator");
    let option = ["--admin-client-ca", ca.to_str().unwrap()];
    let server = serve(&stores, io, &[identity], &option);
    let ask = |who: Option<&Identity>| -> std::io::Result<String> {
        let config = Arc::new(operator_config(identity, who));
        let session = session_named("localhost", &config);
        let mut stream = StreamOwned::new(session, TcpStream::connect(server.admin)?);
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask(Some(&operator)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for who in [None, Some(&Identity::new(&["operator"]))] {
        let refused = ask(who).expect_err("nobody else is answered").to_string();
        assert!(refused.contains("alert"), "{refused}");
    }
    let mut plain = TcpStream::connect(server.admin).unwrap();
    plain
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert_ne!(answer.first(), Some(&b'H'), "no answer without TLS");
}

fn every_version_and_cipher(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    for lost in [&[][..], &[0, 2]] {
        for &store in lost {
            stores.remove_store(store);
        }
        let server = serve(&stores, io, &[identity], &[]);
        for (version, suite) in [
            (&TLS13, suites::TLS13_AES_128_GCM_SHA256),
            (&TLS13, suites::TLS13_AES_256_GCM_SHA384),
            (&TLS13, suites::TLS13_CHACHA20_POLY1305_SHA256),
            (&TLS12, suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            (&TLS12, suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
            (
                &TLS12,
                suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            ),
        ] {
            let what = format!("{suite:?}, {lost:?} lost");
            let config = Arc::new(config_of(&[identity], &[version], &[suite]));
            let mut client = connect(&server, "localhost", &config);
            let session = client.session();
            assert_eq!(session.protocol_version(), Some(version.version), "{what}");
            let whole = client.request("GET", PATH, &[]);
            assert_eq!(whole.status(), 200, "{what}");
            assert_same(&whole.body, &content, &what);

            // Records that the socket takes a part of.
            let mut slow = begin(&server, &config, &content);
            let rest = slow.body(LARGE - READ_FIRST);
            assert_same(&rest, &content[READ_FIRST..], &what);
            slow.expect_open(PATH);

            let part = client.request("GET", PATH, &["Range: bytes=70000-99999"]);
            assert_same(&part.body, &content[70_000..100_000], &what);

            // Many requests in one record, then one in as many records as it has bytes.
            let one = format!("GET {PATH} HTTP/1.1\r\nHost: h\r\nRange: bytes=5-9\r\n\r\n");
            client.send(one.repeat(100));
            for _ in 0..100 {
                assert_same(&client.response("GET").body, &content[5..10], &what);
            }
            for byte in one.as_bytes() {
                client.send([*byte]);
            }
            assert_same(&client.response("GET").body, &content[5..10], &what);
        }
        assert_eq!(server.total("rebuilt_bytes") > 0, !lost.is_empty());
        assert_eq!(server.total("reset_bodies"), 0);
    }
}

fn a_session_is_resumed(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let mut resumed = 0;
    for version in [&TLS13, &TLS12] {
        let mut config = config_of(&[identity], &[version], &[]);
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = connect(&server, "localhost", &config);
            // With TLS 1.3 the ticket comes behind the handshake.
            let answer = client.request("GET", PATH, &["Range: bytes=0-99"]);
            assert_same(&answer.body, &content[..100], "the object");
            let was = client.session().handshake_kind();
            let was_full = was != Some(HandshakeKind::Resumed);
            assert_eq!(
                was_full,
                kind == HandshakeKind::Full,
                "{version:?}: {was:?}"
            );
        }
        resumed += 1;
        assert_eq!(server.total("tls_handshakes_resumed"), resumed);
    }
}

fn a_certificate_for_each_name(io: Backend) {
    let (stores, _) = stores();
    let (a, b) = (Identity::new(&["a.test"]), Identity::new(&["b.test"]));
    let server = serve(&stores, io, &[&a, &b], &[]);
    let config = Arc::new(config(&[&a, &b]));
    for (name, identity) in [("a.test", &a), ("b.test", &b)] {
        let mut client = connect(&server, name, &config);
        assert!(identity.is_of(client.session()), "{name}");
        client.expect_open(PATH);
    }
    let mut nameless = (*config).clone();
    nameless.enable_sni = false;
    let mut client = connect(&server, "a.test", &Arc::new(nameless));
    assert!(
        a.is_of(client.session()),
        "the first one is for who asks for no name"
    );

    let refused = try_connect(&server, "c.test", &config).map(drop);
    let error = refused.expect_err("there is none for it");
    assert!(error.contains("UnrecognisedName"), "{error}");
    drop(client);
    nothing_is_left(&server);
}

fn a_protocol_that_is_not_spoken(io: Backend) {
    let (stores, _) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    for (protocols, error) in [
        (&["h2"][..], Some("NoApplicationProtocol")),
        (&["h2", "http/1.1"], None),
        (&["http/1.0"], None),
        (&[], None),
    ] {
        let mut config = config(&[identity]);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        match (try_connect(&server, "localhost", &Arc::new(config)), error) {
            (Ok(mut client), None) => client.expect_open(PATH),
            (Err(said), Some(error)) => assert!(said.contains(error), "{said}"),
            (Err(said), None) => panic!("{protocols:?}: {said}"),
            (Ok(_), Some(_)) => panic!("{protocols:?} were taken"),
        }
    }
    nothing_is_left(&server);
}

fn keys_are_updated(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let config = Arc::new(config(&[identity]));
    let mut client = connect(&server, "localhost", &config);
    // The first comes right behind the handshake. Each asks for new keys of the server's too. More in all than may come in a row.
    for _ in 0..50 {
        client.session().refresh_traffic_keys().unwrap();
        let part = client.request("GET", PATH, &["Range: bytes=70000-99999"]);
        assert_same(&part.body, &content[70_000..100_000], "under new keys");
    }
    drop(client);
    // While a body is sent.
    let mut client = begin(&server, &config, &content);
    client.session().refresh_traffic_keys().unwrap();
    client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = client.body(LARGE - READ_FIRST);
    assert_same(&rest, &content[READ_FIRST..], "the rest");
    assert_eq!(client.response("HEAD").status(), 404);

    // Work for nothing has an end.
    for _ in 0..100 {
        client.session().refresh_traffic_keys().unwrap();
    }
    let _ = client.try_send("x");
    let error = client.try_body(1).expect_err("an end").to_string();
    assert!(error.contains("UnexpectedMessage"), "{error}");
    drop(client);
    nothing_is_left(&server);
}

fn clean_ends(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &["--idle-timeout", "1s"]);
    for version in [&TLS13, &TLS12] {
        let config = Arc::new(config_of(&[identity], &[version], &[]));
        // The client takes an end without close_notify for an error.
        let mut client = connect(&server, "localhost", &config);
        let whole = client.request("GET", PATH, &["Connection: close"]);
        assert_same(&whole.body, &content, "the object");
        client.expect_close();

        let mut idle = connect(&server, "localhost", &config);
        idle.expect_open(PATH);
        idle.expect_close();

        let mut unused = connect(&server, "localhost", &config);
        unused.expect_close();

        // A client that has said its last words is answered: right behind the handshake, and later.
        for before in [0, 1] {
            let mut finished = connect(&server, "localhost", &config);
            for _ in 0..before {
                finished.expect_open(PATH);
            }
            finished.ask("GET", PATH, &[]);
            finished.finish();
            assert_same(&finished.response("GET").body, &content, "the object");
            finished.expect_close();
        }
    }
    nothing_is_left(&server);
}

fn a_body_that_is_cut_looks_cut(io: Backend) {
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &[]);
    let mut client = begin(&server, &Arc::new(config(&[identity])), &content);
    // Files that are open can be read when they are removed.
    for store in [0, 3, 5] {
        stores.truncate(KEY, store, 4096);
    }
    // Without close_notify: the client would take that for a clean end.
    let (rest, end) = client.until_end();
    assert_eq!(end, End::Reset);
    assert!(READ_FIRST + rest.len() < LARGE);
    assert_same(&rest, &content[READ_FIRST..][..rest.len()], "what came");
    assert_eq!(server.total("reset_bodies"), 1);
    nothing_is_left(&server);
}

fn certificates_are_renewed(io: Backend) {
    let (stores, content) = stores();
    let [old, new, last] = [(); 3].map(|()| Identity::new(&["localhost"]));
    let server = serve(&stores, io, &[&old], &[]);
    let config = Arc::new(config(&[&old, &new, &last]));
    let has = |identity: &Identity| {
        let mut client = connect(&server, "localhost", &config);
        client.expect_open(PATH);
        identity.is_of(client.session())
    };
    assert!(has(&old));
    let mut client = begin(&server, &config, &content);

    new.write(&stores, "0");
    server.signal("HUP");
    server.wait_for_log("configuration read again");
    assert!(has(&new), "the new one");
    let half = LARGE / 2 - READ_FIRST;
    assert_same(
        &client.body(half),
        &content[READ_FIRST..LARGE / 2],
        "before and after",
    );
    assert!(old.is_of(client.session()));

    // A key of another certificate.
    let key = stores.file("0.key");
    fs::write(&key, &last.key).unwrap();
    server.signal("HUP");
    server.wait_for_log("not the key of the certificate");
    assert!(has(&new), "the one of before");

    // Nobody says that there is another one.
    last.write(&stores, "0");
    wait_until(|| match has(&last) {
        true => Ok(()),
        false => Err("the files have changed, and nobody has looked".to_owned()),
    });
    assert_same(
        &client.body(LARGE - LARGE / 2),
        &content[LARGE / 2..],
        "the rest",
    );
    client.expect_open(PATH);
}

fn certificates_that_cannot_be_used(io: Backend) {
    let (stores, _) = stores();
    let [certificate, key] = Identity::shared().write(&stores, "good");
    let [_, other] = Identity::new(&["localhost"]).write(&stores, "other");
    let (empty, nowhere) = (stores.file("empty"), stores.file("nowhere"));
    fs::write(&empty, "").unwrap();
    for (certificate, key, wrong, words) in [
        (&nowhere, &key, &nowhere, "No such file"),
        (&certificate, &nowhere, &nowhere, "No such file"),
        (
            &certificate,
            &other,
            &other,
            "not the key of the certificate",
        ),
        (&empty, &key, &empty, "no certificate"),
        (&certificate, &empty, &empty, "no private key"),
        (&key, &key, &key, "no certificate"),
    ] {
        let mut command = Server::command(&stores, io, &["--tls-listen", "127.0.0.1:0"]);
        command
            .arg("--tls-cert")
            .arg(certificate)
            .arg("--tls-key")
            .arg(key);
        let said = Server::launch(command)
            .map(drop)
            .expect_err("it can't start");
        let wrong = wrong.display().to_string();
        assert!(
            said.contains(&wrong) && said.contains(words),
            "{wrong}, {words}: {said}"
        );
    }
}

/// The object by Python's own client.
const PYTHON: &str = r#"
import hashlib, http.client, ssl, sys
port, path, trusted = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=trusted)
# A certificate that signs itself lacks what strict checks of a chain ask for.
context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
connection = http.client.HTTPSConnection("localhost", port, context=context)
connection.request("GET", path)
print(hashlib.sha256(connection.getresponse().read()).hexdigest())
connection.request("GET", path, headers={"Range": "bytes=5-9"})
answer = connection.getresponse()
assert answer.status == 206 and len(answer.read()) == 5, answer.status
"#;

fn real_clients(io: Backend) {
    let (stores, content) = stores();
    for lost in [&[][..], &[0, 2]] {
        for &store in lost {
            stores.remove_store(store);
        }
        let server = serve(&stores, io, &[Identity::shared()], &[]);
        let port = server.secured.unwrap().port().to_string();
        let url = format!("https://localhost:{port}{PATH}");
        let (trusted, out) = (stores.file("0.pem"), stores.file("out"));
        let trusted = trusted.to_str().unwrap();
        let check = |what: &str| {
            assert_same(&fs::read(&out).unwrap(), &content, what);
            fs::remove_file(&out).unwrap();
        };
        for version in ["1.2", "1.3"] {
            let Some(mut curl) = program("curl") else {
                break;
            };
            curl.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*"]);
            curl.args(["--ipv4", "--tls-max", version, "--cacert", trusted, "-o"]);
            run(curl.arg(&out).arg(&url));
            check("curl");
        }
        if let Some(mut wget) = program("wget") {
            wget.args(["--no-config", "--no-proxy", "--no-verbose", "--tries=1"]);
            wget.arg(format!("--ca-certificate={trusted}"));
            run(wget.arg("-4O").arg(&out).arg(&url));
            check("wget");
        }
        if let Some(mut aria2) = program("aria2c") {
            aria2.args([
                "--no-conf",
                "--quiet",
                "--file-allocation=none",
                "-x4",
                "-s4",
                "-k1M",
            ]);
            aria2.arg(format!("--ca-certificate={trusted}"));
            aria2.args(["--disable-ipv6", "--async-dns=false", "-o", "out", "-d"]);
            run(aria2.arg(out.parent().unwrap()).arg(&url));
            check("aria2");
        }
        if let Some(mut python) = program("python3") {
            let said = run(python.args(["-c", PYTHON, &port, PATH, trusted]));
            assert_eq!(said.trim(), common::sha256(&content), "python");
        }
        if let Some(mut openssl) = common::openssl() {
            let request = stores.file("request");
            let text = format!("GET {PATH} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            fs::write(&request, text).unwrap();
            openssl.args([
                "s_client",
                "-quiet",
                "-verify_return_error",
                "-CAfile",
                trusted,
            ]);
            openssl.args([
                "-servername",
                "localhost",
                "-connect",
                &format!("127.0.0.1:{port}"),
            ]);
            openssl.stdin(fs::File::open(&request).unwrap());
            let output = openssl.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let start = output.stdout.len().saturating_sub(LARGE);
            assert_same(&output.stdout[start..], &content, "openssl");
        }
    }
}

/// A ClientHello of this version at most, without the extension that says more (RFC 5246 section 7.4.1.2).
fn old_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let list = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let words = |words: &[u16]| {
        words
            .iter()
            .flat_map(|w| w.to_be_bytes())
            .collect::<Vec<_>>()
    };
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &list(body)].concat();
    let extensions = [
        // Groups, formats of points, signatures, the extended master secret.
        extension(10, &list(&words(&[29, 23, 24]))),
        extension(11, &[1, 0]),
        extension(
            13,
            &list(&words(&[0x0403, 0x0503, 0x0804, 0x0401, 0x0203, 0x0201])),
        ),
        extension(23, &[]),
    ];
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &[0],
        &list(&words(suites)),
        &[1, 0],
        &list(&extensions.concat()),
    ]
    .concat();
    let message = [&[1, 0][..], &list(&body)].concat();
    [&[22, 3, 1][..], &list(&message)].concat()
}

/// What scanners of servers look for. See <https://testssl.sh>.
fn nothing_weak(io: Backend) {
    const PROTOCOL_VERSION: u8 = 70;
    const HANDSHAKE_FAILURE: u8 = 40;
    const GOOD: u16 = 0xc02b;
    let (stores, _) = stores();
    let server = serve(&stores, io, &[Identity::shared()], &[]);
    let answer = |version, suites: &[u16]| {
        let mut client = raw(&server);
        client.send_raw(&old_hello(version, suites)).unwrap();
        client.finish();
        client.raw_until_end().0
    };
    // The same hello with what is spoken is answered.
    for suites in [&[GOOD][..], &[0xc009, 0x000a, GOOD, 0x0005]] {
        let said = answer(0x0303, suites);
        assert_eq!(said[0], 22, "{said:?}");
        assert_eq!(said[5], 2, "ServerHello: {said:?}");
        assert_eq!(said[9..11], [3, 3], "{said:?}");
        let suite = 44 + usize::from(said[43]);
        assert_eq!(said[suite..suite + 2], GOOD.to_be_bytes(), "{said:?}");
    }
    let alert = |said: &[u8]| match *said {
        [21, 3, _, 0, 2, 2, alert] => alert,
        _ => panic!("no alert: {said:?}"),
    };
    // SSL 3, TLS 1.0, TLS 1.1.
    for version in [0x0300, 0x0301, 0x0302] {
        let said = answer(version, &[GOOD, 0xc009, 0xc013, 0x002f]);
        assert_eq!(alert(&said), PROTOCOL_VERSION, "{version:#x}");
    }
    for (what, suites) in [
        (
            "CBC",
            &[
                0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028, 0x0033, 0x0067,
            ][..],
        ),
        ("RC4", &[0xc007, 0xc011, 0x0004, 0x0005]),
        ("3DES and DES", &[0xc008, 0xc012, 0x0016, 0x000a, 0x0009]),
        ("no encryption", &[0xc006, 0xc010, 0x0001, 0x0002, 0x003b]),
        (
            "nobody authenticated",
            &[0xc018, 0xc019, 0x0034, 0x003a, 0x00a6, 0x00a7],
        ),
        (
            "no forward secrecy",
            &[0x002f, 0x0035, 0x003c, 0x003d, 0x009c, 0x009d],
        ),
        ("for export", &[0x0003, 0x0008, 0x0014]),
    ] {
        for suite in suites {
            assert_eq!(
                alert(&answer(0x0303, &[*suite])),
                HANDSHAKE_FAILURE,
                "{what} {suite:#x}"
            );
        }
    }
    nothing_is_left(&server);
}

/// Clients that send a ClientHello and then nothing. Downloads go on beside them, and whoever comes then waits for a place
/// and no longer.
fn half_open_handshakes(io: Backend) {
    const CLIENTS: usize = 3000;
    const DECLARED: u64 = 256 << 20;
    let open_files = fs::read_to_string("/proc/self/limits").unwrap();
    let line = open_files
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let most: usize = line
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX);
    if most < CLIENTS + 200 {
        common::skip("too few files may be open here");
        return;
    }
    let (stores, content) = stores();
    let identity = Identity::shared();
    let server = serve(&stores, io, &[identity], &["--memory", "256MiB"]);
    let config = Arc::new(config(&[identity]));
    let mut downloads: Vec<Client> = (0..4).map(|_| begin(&server, &config, &content)).collect();
    let hello = hello(&config);
    let within = || {
        let used = server.rss_bytes() + server.total("socket_bytes");
        assert!(used <= DECLARED, "{} KiB used", used >> 10);
    };
    let mut half_open = Vec::new();
    let (parts, mut at) = (6, READ_FIRST);
    for part in 1..=parts {
        for _ in 0..CLIENTS / parts {
            let mut client = raw(&server);
            // The server may have refused it, or given it up.
            let _ = client.send_raw(&hello);
            half_open.push(client);
        }
        let end = READ_FIRST + (LARGE - READ_FIRST) * part / parts;
        for client in &mut downloads {
            assert_same(&client.body(end - at), &content[at..end], "a download");
        }
        within();
        at = end;
    }
    // One that comes last.
    let mut client = connect(&server, "localhost", &config);
    assert_same(
        &client.request("GET", PATH, &[]).body,
        &content,
        "another download",
    );
    within();
    for client in &mut downloads {
        client.expect_open(PATH);
    }
    drop((half_open, downloads, client));
    nothing_is_left(&server);
}
