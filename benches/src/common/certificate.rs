//! A certificate for the servers of a benchmark.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The files of a certificate for localhost, with a key on P-256.
pub struct Certificate {
    /// The certificate, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a directory.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn make(directory: &Path) -> anyhow::Result<Certificate> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let files = Certificate {
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        };
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
        };
        write(&files.certificate, made.cert.pem())?;
        write(&files.key, made.signing_key.serialize_pem())?;
        Ok(files)
    }

    /// The options of a `penstock serve` that listens with it at this address.
    pub fn options(&self, address: SocketAddr) -> [String; 3] {
        [
            format!("--tls-listen={address}"),
            format!("--tls-cert={}", self.certificate.display()),
            format!("--tls-key={}", self.key.display()),
        ]
    }
}
