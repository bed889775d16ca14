//! Certificates and their keys: read from files, and chosen by the name that a client asks for.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those that lead to its root, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// An OCSP response for it, as DER, that is sent along.
    pub ocsp: Option<PathBuf>,
}

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A file can't be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file doesn't hold what it is to hold.
    #[error("{}: {reason}", .path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key is not that of its certificate.
    #[error("{}: not the key of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
}

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, CertificatesError> {
    let bytes = fs::metadata(path).and_then(|metadata| match metadata.len() <= FILE_BYTES_MAX {
        true => fs::read(path),
        false => Err(io::Error::other("longer than any certificate")),
    });
    bytes.map_err(|error| CertificatesError::Read {
        path: path.to_owned(),
        error,
    })
}

/// The certificates in a file, as those that others were signed by.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, CertificatesError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots
            .add(certificate)
            .map_err(|error| CertificatesError::Invalid {
                path: path.to_owned(),
                reason: format!("not a certificate that can be used: {error}"),
            })?;
    }
    Ok(roots)
}

/// All certificates in a file: one at least.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let invalid = |reason: String| CertificatesError::Invalid {
        path: path.to_owned(),
        reason,
    };
    let text = read(path)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| invalid(format!("not a PEM file: {error}")))?;
    match chain.is_empty() {
        false => Ok(chain),
        true => Err(invalid(
            "there is no certificate in it: -----BEGIN CERTIFICATE----- is missing".to_owned(),
        )),
    }
}

/// The certificates of a server.
pub struct Certificates(Vec<Certificate>);

struct Certificate {
    key: Arc<CertifiedKey>,
    /// Whether it is for names at all. One that isn't, as some are that somebody made for himself, does for any.
    is_named: bool,
}

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn read(
        files: &[CertificateFiles],
        provider: &CryptoProvider,
    ) -> Result<Certificates, CertificatesError> {
        let all = files.iter().map(|files| one(files, provider));
        Ok(Certificates(all.collect::<Result<_, _>>()?))
    }

    /// The certificate for a name.
    fn named(&self, name: &ServerName<'_>) -> Option<&Certificate> {
        let is_for = |certificate: &&Certificate| {
            let parsed = certificate.key.cert.first();
            let parsed = parsed.and_then(|der| EndEntityCert::try_from(der).ok());
            parsed.is_some_and(|parsed| parsed.verify_is_valid_for_subject_name(name).is_ok())
        };
        let any = || self.0.iter().find(|certificate| !certificate.is_named);
        self.0.iter().find(is_for).or_else(any)
    }
}

fn one(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<Certificate, CertificatesError> {
    let invalid = |path: &Path, reason: String| CertificatesError::Invalid {
        path: path.to_owned(),
        reason,
    };
    let chain = chain(&files.certificate)?;
    let parsed = EndEntityCert::try_from(&chain[0]).map_err(|error| {
        invalid(
            &files.certificate,
            format!("not a certificate that can be used: {error}"),
        )
    })?;
    let is_named = parsed.valid_dns_names().next().is_some();
    let text = zeroize::Zeroizing::new(read(&files.key)?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        invalid(
            &files.key,
            format!("no private key in it that can be used: {error}"),
        )
    })?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| invalid(&files.key, error.to_string()))?;
    let mut certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return Err(CertificatesError::Mismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            });
        }
    }
    if let Some(ocsp) = &files.ocsp {
        let response = read(ocsp)?;
        // RFC 6960 section 4.2.1: a SEQUENCE.
        if response.first() != Some(&0x30) {
            let reason = "not an OCSP response as DER".to_owned();
            return Err(invalid(ocsp, reason));
        }
        certified.ocsp = Some(response);
    }
    Ok(Certificate {
        key: Arc::new(certified),
        is_named,
    })
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = match hello.server_name() {
            Some(name) => self.named(&ServerName::try_from(name).ok()?),
            // Whoever asks for no name gets the first.
            None => self.0.first(),
        };
        certificate.map(|certificate| Arc::clone(&certificate.key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}
