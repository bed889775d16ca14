//! How clients speak TLS: the settings, and rustls's configuration made of them once for all clients. What a session
//! does is in [`session`](crate::session).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};

use crate::error::LoadError;
use crate::target::Target;

/// Server names whose sessions are kept for resumption; a plan has one.
const RESUMED_NAMES_MAX: usize = 8;

/// How clients of an `https://` URL speak TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Which certificates are accepted.
    pub trust: Trust,
    /// The only version that is spoken; `None`: 1.3, or 1.2 if the server has no other.
    pub version: Option<TlsVersion>,
    /// Resume sessions where the server gave a ticket for it. Clients of one plan share their tickets; one of TLS 1.3 serves
    /// once.
    pub resume: bool,
    /// Offer the key exchange X25519MLKEM768 first. Otherwise it is not offered at all: a server that prefers it would ask
    /// for another ClientHello, and the handshake would take one more round trip.
    pub post_quantum: bool,
    /// The name that the certificate must have, which is sent as SNI unless it is an address; `None`: the URL's host.
    pub server_name: Option<String>,
}

/// Which server certificates are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the system's roots.
    #[default]
    System,
    /// Those of the roots in this PEM file.
    File(PathBuf),
    /// All. The server's signatures are not checked either, so that old and odd servers can be measured.
    All,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// What a new session needs, shared by all clients.
#[derive(Debug, Clone)]
pub(crate) struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl TlsClient {
    pub(crate) fn new(tls: &Tls, target: &Target) -> Result<TlsClient, LoadError> {
        let name = tls.server_name.as_deref().unwrap_or(target.bare_host());
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| fail("server name", format!("{name:?}: {error}")))?;
        let mut provider = aws_lc_rs::default_provider();
        provider
            .kx_groups
            .retain(|group| group.name() != NamedGroup::X25519MLKEM768);
        if tls.post_quantum {
            provider
                .kx_groups
                .insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
        }
        let provider = Arc::new(provider);
        let versions: &[_] = match tls.version {
            None => &[&TLS13, &TLS12],
            Some(TlsVersion::V12) => &[&TLS12],
            Some(TlsVersion::V13) => &[&TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| fail("tls", error.to_string()))?;
        let mut config = match &tls.trust {
            Trust::System => builder.with_root_certificates(system_roots()?),
            Trust::File(path) => builder.with_root_certificates(file_roots(path)?),
            Trust::All => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAll(provider))),
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = match tls.resume {
            true => Resumption::in_memory_sessions(RESUMED_NAMES_MAX),
            false => Resumption::disabled(),
        };
        Ok(TlsClient {
            config: Arc::new(config),
            name,
        })
    }
}

fn fail(setting: &'static str, reason: String) -> LoadError {
    LoadError::Setting { setting, reason }
}

fn system_roots() -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let first = found.errors.first();
        let reason = first.map_or("none found".to_owned(), ToString::to_string);
        return Err(fail("the system's root certificates", reason));
    }
    Ok(roots)
}

fn file_roots(path: &Path) -> Result<RootCertStore, LoadError> {
    let file_error = |reason: String| LoadError::File {
        path: path.to_owned(),
        source: std::io::Error::other(reason),
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|e| file_error(e.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| file_error(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| file_error(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(file_error("no certificate in PEM form".to_owned()));
    }
    Ok(roots)
}

/// Accepts every certificate and every signature.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn client(tls: &Tls) -> Result<TlsClient, LoadError> {
        let target = Target::parse("https://127.0.0.1/", false)?;
        TlsClient::new(tls, &target)
    }

    #[test]
    fn roots_and_names_that_cannot_be_used_are_named() {
        let trust = |path: &Path| Tls {
            trust: Trust::File(path.to_owned()),
            ..Tls::default()
        };
        let error = client(&trust(Path::new("/no/such/file"))).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/file: "), "{error}");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"no certificate").unwrap();
        let error = client(&trust(file.path())).unwrap_err();
        assert!(error.to_string().contains("no certificate in"), "{error}");
        let error = client(&Tls {
            trust: Trust::All,
            server_name: Some("a b".to_owned()),
            ..Tls::default()
        })
        .unwrap_err();
        assert!(error.to_string().contains("\"a b\""), "{error}");
    }

    #[test]
    fn the_post_quantum_group_is_first_or_not_offered() {
        let groups = |post_quantum| {
            let tls = Tls {
                trust: Trust::All,
                post_quantum,
                ..Tls::default()
            };
            let config = client(&tls).unwrap().config;
            let groups = &config.crypto_provider().kx_groups;
            groups.iter().map(|group| group.name()).collect::<Vec<_>>()
        };
        assert!(!groups(false).contains(&NamedGroup::X25519MLKEM768));
        assert_eq!(groups(true)[0], NamedGroup::X25519MLKEM768);
    }
}
