//! What handshakes start from: certificates, versions, ciphers, tickets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection, WebPkiClientVerifier,
};

use super::certificates::{self, CertificateFiles, Certificates, CertificatesError};
use super::traffic;

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate can't be used.
    #[error("TLS: {0}")]
    Certificates(CertificatesError),
    /// The library refuses its own settings.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

// Not by `#[from]`: what is said already would be a source, and be said again.
impl From<CertificatesError> for TlsError {
    fn from(error: CertificatesError) -> TlsError {
        TlsError::Certificates(error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Library(error)
    }
}

/// Certificates that are to take the place of others.
pub struct Renewed(Configs);

/// What handshakes start from, of each listener.
struct Configs {
    objects: Arc<ServerConfig>,
    admin: Option<Arc<ServerConfig>>,
}

/// What handshakes start from, shared by the cores.
pub struct Acceptor {
    configs: RwLock<Configs>,
    /// They outlive a change of certificates: clients go on with the tickets that they have.
    tickets: Arc<dyn ProducesTickets>,
    /// Who signs for those who may ask the admin listener, if that speaks TLS.
    admin_client_ca: Option<PathBuf>,
}

impl Acceptor {
    /// With the certificates in these files. Whoever asks the admin listener has one that was signed by one in
    /// `admin_client_ca`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        files: &[CertificateFiles],
        admin_client_ca: Option<&Path>,
    ) -> Result<Acceptor, TlsError> {
        // Tickets are sealed with a key that changes every six hours; nothing is kept for a client.
        let tickets = aws_lc_rs::Ticketer::new()?;
        let configs = configs(files, &tickets, admin_client_ca)?;
        Ok(Acceptor {
            configs: RwLock::new(configs),
            tickets,
            admin_client_ca: admin_client_ca.map(Path::to_owned),
        })
    }

    /// Reads other certificates, which are not used yet.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(&self, files: &[CertificateFiles]) -> Result<Renewed, TlsError> {
        let client_ca = self.admin_client_ca.as_deref();
        Ok(Renewed(configs(files, &self.tickets, client_ca)?))
    }

    /// Uses other certificates from now on. Handshakes that have begun go on with the old ones.
    pub fn renew(&self, Renewed(configs): Renewed) {
        *self.configs.write().unwrap_or_else(PoisonError::into_inner) = configs;
    }

    /// What handshakes with the admin listener start from, if that speaks TLS.
    pub fn admin(&self) -> Option<Arc<ServerConfig>> {
        let configs = self.configs.read().unwrap_or_else(PoisonError::into_inner);
        configs.admin.clone()
    }

    /// A connection that a client has just made.
    ///
    /// # Errors
    /// If the library can't.
    pub(super) fn connection(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        let configs = self.configs.read().unwrap_or_else(PoisonError::into_inner);
        UnbufferedServerConnection::new(Arc::clone(&configs.objects))
    }
}

fn configs(
    files: &[CertificateFiles],
    tickets: &Arc<dyn ProducesTickets>,
    admin_client_ca: Option<&Path>,
) -> Result<Configs, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Arc::new(Certificates::read(files, &provider)?);
    let builder = || {
        ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
    };
    let mut objects = builder()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&certificates) as _);
    objects.session_storage = Arc::new(NoServerSessionStorage {});
    objects.ticketer = Arc::clone(tickets);
    // Each is sent to every client, and a client needs one for its next connection.
    objects.send_tls13_tickets = 1;
    // Records are ours, and so are the keys that come after the first ones.
    objects.enable_secret_extraction = true;
    objects.key_log = Arc::new(traffic::Listener);
    objects.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    let mut configs = Configs {
        objects: Arc::new(objects),
        admin: None,
    };
    if let Some(path) = admin_client_ca {
        let roots = Arc::new(certificates::roots(path)?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| CertificatesError::Invalid {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let mut admin = builder()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificates);
        // Who came once is asked for its certificate again: it may have been withdrawn.
        admin.session_storage = Arc::new(NoServerSessionStorage {});
        admin.send_tls13_tickets = 0;
        admin.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        configs.admin = Some(Arc::new(admin));
    }
    Ok(configs)
}

/// The names of the protocols above, the best first (RFC 7301 section 6). A client that speaks HTTP/1.0 may ask for nothing else.
const PROTOCOLS: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];
