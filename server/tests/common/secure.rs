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

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::{Stores, skip};

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
