//! TLS in the tests: certificates made for them, and the client's end of a session.
//!
//! With `PENSTOCK_TEST_TLS=1` the server listens by TLS besides, [`Server::objects`](super::Server::objects) is that listener,
//! and every [`Client`](super::Client) of it speaks TLS. So suites that know nothing of TLS run over it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use ::aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ::aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, KeyLog, RootCertStore, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::{Backend, Client, Server, Stores, skip, wait_until};

/// Whether the suites run over TLS.
pub fn is_on() -> bool {
    std::env::var_os("PENSTOCK_TEST_TLS").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Whether a test is left out since its subject is the plain wire, and `why`.
pub fn skipped(why: &str) -> bool {
    if is_on() {
        skip(why);
    }
    is_on()
}

/// A certificate that signs itself, and its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    der: CertificateDer<'static>,
}

impl Identity {
    /// For these names or addresses.
    pub fn new(names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Identity {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        }
    }

    /// The same with a long chain, in which it signs itself many times.
    pub fn chain_of(identity: &Identity, length: usize) -> Identity {
        Identity {
            certificate: identity.certificate.repeat(length),
            key: identity.key.clone(),
            der: identity.der.clone(),
        }
    }

    /// That of this process's servers.
    pub fn shared() -> &'static Identity {
        static SHARED: OnceLock<Identity> = OnceLock::new();
        // Tests give their clients other addresses of loopback, and their servers this one.
        SHARED.get_or_init(|| Identity::new(&["localhost", "127.0.0.1"]))
    }

    /// Writes it beside the stores as `name.pem` and `name.key`, and returns these paths. Both are new files that take the
    /// old ones' places, so that nobody sees half of one.
    pub fn write(&self, stores: &Stores, name: &str) -> [PathBuf; 2] {
        let parts = [("pem", &self.certificate), ("key", &self.key)];
        parts.map(|(kind, text)| {
            let path = stores.file(&format!("{name}.{kind}"));
            let new = stores.file(&format!("{name}.{kind}.new"));
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
            path
        })
    }

    /// Whether a session's peer has this certificate.
    pub fn is_of(&self, session: &ClientConnection) -> bool {
        let chain = session.peer_certificates().unwrap_or_default();
        chain.first() == Some(&self.der)
    }
}

/// The settings of somebody who asks the admin listener, perhaps with a certificate.
pub fn operator_config(trusted: &Identity, who: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match who {
        None => builder.with_no_client_auth(),
        Some(who) => {
            let key = PrivateKeyDer::from_pem_slice(who.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![who.der.clone()], key)
                .unwrap()
        }
    }
}

/// A client's settings: whom it trusts, what it speaks. It resumes no session unless that is changed.
pub fn config_of(
    trusted: &[&Identity],
    versions: &[&'static SupportedProtocolVersion],
    suites: &[SupportedCipherSuite],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.der.clone()).unwrap();
    }
    let mut provider = aws_lc_rs::default_provider();
    if !suites.is_empty() {
        provider.cipher_suites = suites.to_vec();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// A client that trusts these, and has no other wish.
pub fn config(trusted: &[&Identity]) -> ClientConfig {
    config_of(trusted, rustls::ALL_VERSIONS, &[])
}

/// Listeners that speak TLS to every client of the tests.
fn listeners() -> &'static Mutex<HashSet<SocketAddr>> {
    static LISTENERS: OnceLock<Mutex<HashSet<SocketAddr>>> = OnceLock::new();
    LISTENERS.get_or_init(Mutex::default)
}

/// Whether clients of an address speak TLS. The kernel gives ports again: it must be told when a listener is gone.
pub fn note_listener(address: SocketAddr, speaks_tls: bool) {
    let mut listeners = listeners().lock().unwrap();
    match speaks_tls {
        true => listeners.insert(address),
        false => listeners.remove(&address),
    };
}

/// The client's end of a session with this address, if it speaks TLS.
pub fn session_with(address: SocketAddr) -> Option<ClientConnection> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if !listeners().lock().unwrap().contains(&address) {
        return None;
    }
    let config = CONFIG.get_or_init(|| Arc::new(config(&[Identity::shared()])));
    Some(ClientConnection::new(Arc::clone(config), address.ip().into()).unwrap())
}

/// The client's end of a session with who has this name.
pub fn session_named(name: &str, config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// Performs the handshake.
pub fn handshake(session: &mut ClientConnection, stream: &TcpStream) -> io::Result<()> {
    while session.is_handshaking() {
        session.complete_io(&mut &*stream)?;
    }
    flush(session, stream)
}

/// Sends what waits.
pub fn flush(session: &mut ClientConnection, stream: &TcpStream) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(&mut &*stream)?;
    }
    Ok(())
}

/// Sends all of these bytes.
pub fn send(session: &mut ClientConnection, stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = session.writer().write(rest)?;
        rest = &rest[taken..];
        flush(session, stream)?;
    }
    Ok(())
}

/// Sends as many of these bytes as the kernels accept now, and returns their number. Of the last ones a part may wait, which
/// leaves with the next.
pub fn push(session: &mut ClientConnection, stream: &TcpStream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    for piece in bytes.chunks(1024) {
        if flush(session, stream).is_err() {
            break;
        }
        session.writer().write_all(piece).unwrap();
        taken += piece.len();
    }
    let _ = flush(session, stream);
    taken
}

/// Receives content. No more bytes are taken from the kernel than fit `into`, unless a record needs them. The end is one
/// (`Ok(0)`) only if the peer said so before it closed.
pub fn receive(
    session: &mut ClientConnection,
    stream: &TcpStream,
    into: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(into) {
            Ok(0) => {
                return match (&*stream).read(&mut [0])? {
                    0 => Ok(0),
                    _ => Err(io::Error::other("bytes behind close_notify")),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        session.read_tls(&mut stream.take(into.len() as u64))?;
        session.process_new_packets().map_err(io::Error::other)?;
        flush(session, stream)?;
    }
}

/// A server with these certificates, whose files are called `0`, `1`, …
pub fn serve(stores: &Stores, io: Backend, identities: &[&Identity], options: &[&str]) -> Server {
    let files: Vec<_> = identities
        .iter()
        .enumerate()
        .flat_map(|(at, identity)| {
            let [certificate, key] = identity.write(stores, &at.to_string());
            let text = |path: std::path::PathBuf| path.display().to_string();
            [
                "--tls-cert".to_owned(),
                text(certificate),
                "--tls-key".to_owned(),
                text(key),
            ]
        })
        .collect();
    // A busy disk is not what these tests are about.
    let mut all = vec!["--tls-listen", "127.0.0.1:0", "--store-timeout", "5s"];
    all.extend(files.iter().map(String::as_str));
    all.extend(options);
    Server::start(stores, io, &all)
}

/// A client of the TLS listener that has not sent anything.
pub fn raw(server: &Server) -> Client {
    Client::connect_plain(server.secured.expect("a listener of TLS"))
}

pub fn try_connect(
    server: &Server,
    name: &str,
    config: &Arc<ClientConfig>,
) -> Result<Client, String> {
    let mut client = raw(server);
    let session = session_named(name, config);
    client.secure(session).map_err(|error| error.to_string())?;
    Ok(client)
}

pub fn connect(server: &Server, name: &str, config: &Arc<ClientConfig>) -> Client {
    try_connect(server, name, config).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The first bytes that a client sends.
pub fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut session: ClientConnection = session_named("localhost", config);
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

pub fn nothing_is_left(server: &Server) {
    wait_until(|| match server.connections() {
        0 => Ok(()),
        count => Err(format!("{count} connections are left")),
    });
}

/// Seals records by hand, as a client of TLS 1.3 with AES-128-GCM that keeps to no rule.
pub struct Sealer {
    secret: Vec<u8>,
    sequence: u64,
}

/// What a client's secret is told to.
#[derive(Debug, Default)]
struct Overheard(Mutex<Vec<u8>>);

impl KeyLog for Overheard {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            *self.0.lock().unwrap() = secret.to_vec();
        }
    }
}

impl Sealer {
    /// A client of this server that has said nothing in its session, and what seals for it.
    pub fn connect(server: &Server, trusted: &Identity) -> (Client, Sealer) {
        let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let mut config = config_of(&[trusted], &[&rustls::version::TLS13], &[suite]);
        let overheard = Arc::new(Overheard::default());
        config.key_log = Arc::clone(&overheard) as _;
        let client = connect(server, "localhost", &Arc::new(config));
        let secret = overheard.0.lock().unwrap().clone();
        let sequence = 0;
        (client, Sealer { secret, sequence })
    }

    /// The next record, of what is to be sealed: content, its kind, and zeros.
    pub fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let key = UnboundKey::new(&AES_128_GCM, &self.expand("key", 16)).unwrap();
        let mut nonce: [u8; 12] = self.expand("iv", 12).try_into().unwrap();
        for (byte, of_number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_number;
        }
        self.sequence += 1;
        let length = (inner.len() + AES_128_GCM.tag_len()) as u16;
        let header = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
        let mut sealed = inner.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        LessSafeKey::new(key)
            .seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed)
            .unwrap();
        [header, sealed].concat()
    }

    /// A record that says that the next one is sealed with the next key, and whether the other side is to change its key.
    pub fn update(&mut self, asks: bool) -> Vec<u8> {
        let record = self.seal(&[24, 0, 0, 1, u8::from(asks), 22]);
        *self = Sealer {
            secret: self.expand("traffic upd", 32),
            sequence: 0,
        };
        record
    }

    /// RFC 8446 section 7.1.
    fn expand(&self, label: &str, length: usize) -> Vec<u8> {
        struct Length(usize);
        impl KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let label = ["tls13 ", label].concat();
        let info = [
            &(length as u16).to_be_bytes()[..],
            &[label.len() as u8],
            label.as_bytes(),
            &[0],
        ];
        let mut bytes = vec![0; length];
        let secret = Prk::new_less_safe(HKDF_SHA256, &self.secret);
        let expanded = secret.expand(&info, Length(length)).unwrap();
        expanded.fill(&mut bytes).unwrap();
        bytes
    }
}
