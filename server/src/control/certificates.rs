//! The files of certificates: who renews them writes them, and perhaps tells nobody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::state::ServerState;
use crate::tls::certificates::CertificateFiles;

/// What tells one state of a file from another: device, inode, length, and the time of its last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Looks at the files of the certificates, and has those that changed read again.
#[derive(Default)]
pub(super) struct CertificateWatch {
    seen: Vec<Stamp>,
}

impl CertificateWatch {
    /// Looks. Certificates that can't be used are told of once, and those of before stay.
    pub(super) fn look(&mut self, state: &ServerState) {
        let Some(acceptor) = &state.tls else { return };
        let files = &state.live().tls_certificates;
        let stamps: Vec<Stamp> = files.iter().flat_map(paths).map(stamp).collect();
        let before = std::mem::replace(&mut self.seen, stamps);
        if before.is_empty() || before == self.seen {
            return;
        }
        match acceptor.read(files) {
            Ok(renewed) => {
                acceptor.renew(renewed);
                tracing::info!("certificates have changed, and were read again");
            }
            Err(error) => {
                tracing::error!("certificates have changed, and those of before stay: {error}");
            }
        }
    }
}

fn paths(files: &CertificateFiles) -> impl Iterator<Item = &Path> {
    let CertificateFiles {
        certificate,
        key,
        ocsp,
    } = files;
    [Some(certificate), Some(key), ocsp.as_ref()]
        .into_iter()
        .flatten()
        .map(AsRef::as_ref)
}

fn stamp(path: &Path) -> Stamp {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.len(), of.ctime(), of.ctime_nsec()))
}
