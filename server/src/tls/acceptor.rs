//! What handshakes start from: certificates, versions, ciphers, tickets.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection};

use super::certificates::{CertificateFiles, Certificates, CertificatesError};

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate can't be used.
    #[error("TLS: {0}")]
    Certificates(#[from] CertificatesError),
    /// The library refuses its own settings.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// Certificates that are to take the place of others.
pub struct Renewed(Arc<ServerConfig>);

/// What handshakes start from, shared by the cores.
pub struct Acceptor {
    config: RwLock<Arc<ServerConfig>>,
    /// They outlive a change of certificates: clients go on with the tickets that they have.
    tickets: Arc<dyn ProducesTickets>,
}

impl Acceptor {
    /// With the certificates in these files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(files: &[CertificateFiles]) -> Result<Acceptor, TlsError> {
        // Tickets are sealed with a key that changes every six hours; nothing is kept for a client.
        let tickets = aws_lc_rs::Ticketer::new()?;
        let config = config(files, &tickets)?;
        Ok(Acceptor {
            config: RwLock::new(config),
            tickets,
        })
    }

    /// Reads other certificates, which are not used yet.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(&self, files: &[CertificateFiles]) -> Result<Renewed, TlsError> {
        Ok(Renewed(config(files, &self.tickets)?))
    }

    /// Uses other certificates from now on. Handshakes that have begun go on with the old ones.
    pub fn renew(&self, Renewed(config): Renewed) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// A connection that a client has just made.
    ///
    /// # Errors
    /// If the library can't.
    pub(super) fn connection(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        UnbufferedServerConnection::new(Arc::clone(&config))
    }
}

fn config(
    files: &[CertificateFiles],
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Certificates::read(files, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(tickets);
    // Each is sent to every client, and a client needs one for its next connection.
    config.send_tls13_tickets = 1;
    // Records are ours.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}
