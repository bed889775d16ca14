//! Compares received bodies with the object's bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::LoadError;
use crate::plan::Verify;

/// The object's bytes as a group expects them; shared by its clients.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Nothing,
    Sha256([u8; 32]),
    File { file: Arc<File>, size: u64 },
}

impl Expected {
    pub(crate) fn open(verify: &Verify) -> Result<Expected, LoadError> {
        match verify {
            Verify::No => Ok(Expected::Nothing),
            Verify::Sha256(digest) => Ok(Expected::Sha256(*digest)),
            Verify::File(path) => {
                let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (size, file) = opened.map_err(|source| file_error(path, source))?;
                Ok(Expected::File {
                    file: Arc::new(file),
                    size,
                })
            }
        }
    }

    /// The object's size, if it is known without asking the server.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Expected::File { size, .. } => Some(*size),
            Expected::Nothing | Expected::Sha256(_) => None,
        }
    }
}

fn file_error(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::File {
        path: path.to_owned(),
        source,
    }
}

/// The comparison of one body.
#[derive(Debug)]
pub(crate) enum Check<'a> {
    Nothing,
    /// Boxed, since it would otherwise be the largest part of every client.
    Sha256(Box<Sha256>, [u8; 32]),
    /// The body's first byte is the object's byte `offset`.
    File {
        file: &'a File,
        size: u64,
        offset: u64,
    },
}

impl Check<'_> {
    /// The check of a body that starts at the object's byte `offset`. `whole` says that the body continues to the
    /// object's end.
    pub(crate) fn new(expected: &Expected, offset: u64, whole: bool) -> Check<'_> {
        match expected {
            Expected::Sha256(digest) if whole => Check::Sha256(Box::default(), *digest),
            Expected::Nothing | Expected::Sha256(_) => Check::Nothing,
            Expected::File { file, size } => Check::File {
                file,
                size: *size,
                offset,
            },
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Check::Nothing)
    }

    /// Checks the next piece. `at` is its offset in the body; `scratch` holds at least as many bytes.
    pub(crate) fn feed(
        &mut self,
        at: u64,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), String> {
        match self {
            Check::Nothing => Ok(()),
            Check::Sha256(sum, _) => {
                sum.update(bytes);
                Ok(())
            }
            Check::File { file, size, offset } => {
                let from = offset.saturating_add(at);
                let past = from.saturating_add(bytes.len() as u64) > *size;
                if past {
                    return Err(format!(
                        "bytes up to {} of an object of {size}",
                        from.saturating_add(bytes.len() as u64)
                    ));
                }
                if scratch.len() < bytes.len() {
                    scratch.resize(bytes.len(), 0);
                }
                let expected = &mut scratch[..bytes.len()];
                file.read_exact_at(expected, from)
                    .map_err(|error| format!("cannot read the file to compare with: {error}"))?;
                if *expected == *bytes {
                    return Ok(());
                }
                let differ = expected
                    .iter()
                    .zip(bytes)
                    .position(|(expected, got)| expected != got);
                let place = differ.unwrap_or_default();
                Err(format!(
                    "byte {} is 0x{:02x} and should be 0x{:02x}",
                    from + place as u64,
                    bytes[place],
                    expected[place]
                ))
            }
        }
    }

    /// Checks the end of the body.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self {
            Check::Nothing | Check::File { .. } => Ok(()),
            Check::Sha256(sum, expected) => {
                let got: [u8; 32] = sum.finalize().into();
                if got == expected {
                    Ok(())
                } else {
                    Err(format!(
                        "SHA-256 is {} and should be {}",
                        hex(&got),
                        hex(&expected)
                    ))
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
