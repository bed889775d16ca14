//! Get: reads an object from any k shares, verifies each leaf, and checks the digest of the whole.

use std::io::{self, Write};
use std::path::Path;

use bytesize::ByteSize;
use crc_fast::CrcAlgorithm;
use decode_kernel::code::CodeKind;
use decode_kernel::share::{Digest, Generation, Header, Key, Metadata};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::date::{now, rfc3339};
use crate::error::FileError;
use crate::json;
use crate::progress::Progress;
use crate::rows::{ReadStats, RowError, Rows};
use crate::size::Size;
use crate::store::{self, OpenError, Store};
use crate::temp::{allow_open_files, replace_file, write_all_parts};

/// Segments up to this length are read whole, several at once if they are short. Longer segments
/// are read block by block, and then a missing block costs k reads of other shares. Rebuilding
/// takes at most as much memory again.
const WINDOW_BYTES: u64 = 16 << 20;

/// The object to read, and the stores to read it from.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// All stores that may have shares of it.
    pub stores: Vec<Store>,
    /// Its name.
    pub key: Key,
    /// Whether an older put may be read where the newest has too few shares left.
    pub stale: bool,
}

/// The result of a get.
#[derive(Clone, Debug)]
pub struct GetReport {
    /// The object's header, with the share number of one of the shares read.
    pub header: Header,
    /// Damage found, and the work done to repair it in memory.
    pub stats: ReadStats,
}

impl std::fmt::Display for GetReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Header {
            key,
            geometry,
            digest,
            ..
        } = &self.header;
        let size = geometry.size();
        write!(f, "got {key}: {}, sha256 {digest}", Size(size))?;
        let ReadStats {
            bad_leaves,
            rebuilt_bytes,
        } = self.stats;
        if rebuilt_bytes > 0 {
            write!(f, "; rebuilt {}", ByteSize(rebuilt_bytes).display().iec())?;
        }
        if bad_leaves > 0 {
            write!(f, "; {bad_leaves} damaged leaves met, repair is advised")?;
        }
        Ok(())
    }
}

/// In JSON, what the headers have in common, and what it took to read.
impl Serialize for GetReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let GetReport {
            header,
            stats:
                ReadStats {
                    bad_leaves,
                    rebuilt_bytes,
                },
        } = self;
        let document = Document {
            format: "penstock",
            key: &header.key,
            size: header.geometry.size(),
            created: header.created,
            content_type: &header.content_type,
            digest: &header.digest,
            metadata: &header.metadata,
            generation: &header.generation,
            code: &header.code,
            k: header.geometry.k(),
            n: header.geometry.n(),
            rebuilt_bytes: *rebuilt_bytes,
            bad_leaves: *bad_leaves,
        };
        document.serialize(serializer)
    }
}

/// What JSON has of a [`GetReport`].
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    #[serde(serialize_with = "json::key")]
    key: &'a Key,
    size: u64,
    #[serde(serialize_with = "json::date")]
    created: u64,
    content_type: &'a str,
    #[serde(rename = "sha256", serialize_with = "json::text")]
    digest: &'a Digest,
    #[serde(flatten, serialize_with = "json::metadata")]
    metadata: &'a Metadata,
    #[serde(serialize_with = "json::text")]
    generation: &'a Generation,
    #[serde(serialize_with = "json::text")]
    code: &'a CodeKind,
    k: u16,
    n: u16,
    rebuilt_bytes: u64,
    bad_leaves: u64,
}

/// Why an object could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is too damaged.
    #[error(transparent)]
    Row(#[from] RowError),
    /// Every leaf matched its checksum, but the object does not match its digest: the shares do not
    /// belong together, or were made wrongly.
    #[error("object {key:?}: its digest is {found}, its shares say {expected}")]
    Digest {
        /// Which object.
        key: Key,
        /// The digest in the headers.
        expected: Digest,
        /// The digest of the bytes that were read.
        found: Digest,
    },
    /// Its CRC-64/NVME is not that in its shares, though the digest is: they were made wrongly.
    #[error("object {key:?}: its CRC-64/NVME is {found:016x}, its shares say {expected:016x}")]
    Checksum {
        /// Which object.
        key: Key,
        /// The checksum in the headers.
        expected: u64,
        /// That of the bytes that were read.
        found: u64,
    },
    /// It is as if it were not there.
    #[error("object {key:?} expired at {}; `penstock repair` removes it", rfc3339(*at))]
    Expired {
        /// Which object.
        key: Key,
        /// When, in seconds since 1970.
        at: u64,
    },
    /// Writing to the output failed.
    #[error("cannot write the object: {0}")]
    Write(io::Error),
    /// The output file could not be created.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Writes the object to `out`. After an error `out` holds a part of the object, and every byte of
/// it was verified. After [`GetError::Digest`] it holds the whole object, which is not to be
/// trusted. Takes at most 32 MiB of memory, or two rows of the widest code if those are longer.
pub fn get(
    options: &GetOptions,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<GetReport, GetError> {
    let mut rows = open(options)?;
    progress.add_len(rows.header.geometry.size());
    read_object(&mut rows, out, progress)?;
    out.flush().map_err(GetError::Write)?;
    Ok(GetReport {
        header: rows.header,
        stats: rows.stats,
    })
}

/// As [`get`], but writes to a file. The file appears under its name only when it is complete and
/// synced, and replaces an existing file in one step. A device or a pipe is written to directly.
pub fn get_file(
    options: &GetOptions,
    path: &Path,
    progress: &Progress,
) -> Result<GetReport, GetError> {
    let mut rows = open(options)?;
    progress.add_len(rows.header.geometry.size());
    replace_file(path, |out| {
        read_object(&mut rows, out, progress)?;
        Ok(GetReport {
            header: rows.header,
            stats: rows.stats,
        })
    })
}

fn open(options: &GetOptions) -> Result<Rows, GetError> {
    allow_open_files(options.stores.len());
    let group = store::choose(&options.stores, &options.key, options.stale)?;
    let metadata = &group.header.metadata;
    if let Some(at) = metadata.expires.filter(|_| metadata.is_expired(now())) {
        return Err(GetError::Expired {
            key: options.key.clone(),
            at: at.get(),
        });
    }
    for share in &group.shares {
        tracing::debug!(share = share.number, path = %share.path.display(), "can be read from");
    }
    Ok(Rows::new(group)?)
}

/// Writes the object to `out` in order, and checks its digest and its checksum.
pub(crate) fn read_object(
    rows: &mut Rows,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<(), GetError> {
    let mut sha = Sha256::new();
    let mut crc = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    for_each_window(rows, &mut |parts: &[&[u8]]| {
        // SHA-256 takes longer than everything else together, so it gets a thread of its own.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for part in parts {
                    sha.update(part);
                    crc.update(part);
                }
            });
            write_all_parts(out, parts)
        })?;
        progress.add(parts.iter().map(|part| part.len() as u64).sum());
        Ok(())
    })?;
    let expected = rows.header.digest;
    let found = Digest {
        algorithm: expected.algorithm,
        bytes: sha.finalize().into(),
    };
    if found != expected {
        return Err(GetError::Digest {
            key: rows.header.key.clone(),
            expected,
            found,
        });
    }
    let found = crc.finalize();
    match rows.header.metadata.crc64nvme {
        Some(expected) if expected != found => Err(GetError::Checksum {
            key: rows.header.key.clone(),
            expected,
            found,
        }),
        _ => Ok(()),
    }
}

/// Passes the object's bytes to `take`, in order, several parts at a time.
fn for_each_window(
    rows: &mut Rows,
    take: &mut dyn FnMut(&[&[u8]]) -> io::Result<()>,
) -> Result<(), GetError> {
    let geometry = rows.header.geometry;
    let (k, block_bytes) = (u64::from(geometry.k()), u64::from(geometry.block_bytes()));
    let mut left = geometry.size(); // bytes of the object still to come
    if geometry.segment_bytes() <= WINDOW_BYTES {
        let wanted: Vec<u16> = (0..geometry.k()).collect();
        let window_segments = WINDOW_BYTES / geometry.segment_bytes();
        let mut buffers: Vec<Vec<u8>> = vec![Vec::new(); wanted.len()];
        for first in (0..geometry.segments()).step_by(window_segments as usize) {
            let start = first * block_bytes;
            let end = geometry
                .share_bytes()
                .min(start + window_segments * block_bytes);
            let segments = (end - start).div_ceil(block_bytes);
            buffers
                .iter_mut()
                .for_each(|buffer| buffer.resize((end - start) as usize, 0));
            let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            rows.read(start..end, &wanted, &mut outputs)?;
            let mut parts: Vec<&[u8]> = Vec::with_capacity((segments * k) as usize);
            for segment in 0..segments {
                let len = geometry.block_len(first + segment) as usize;
                let at = (segment * block_bytes) as usize;
                parts.extend(
                    buffers
                        .iter()
                        .map(|buffer| trim(&buffer[at..at + len], &mut left)),
                );
            }
            take(&parts).map_err(GetError::Write)?;
        }
        return Ok(());
    }
    // One block at a time, in strips that end where leaves end.
    let leaf_bytes = u64::from(geometry.leaf_bytes());
    let strip = (WINDOW_BYTES / k / leaf_bytes).max(1) * leaf_bytes;
    let mut buffer = vec![0; strip as usize];
    for segment in 0..geometry.segments() {
        let block_len = u64::from(geometry.block_len(segment));
        for number in 0..geometry.k() {
            for at in (0..block_len).step_by(strip as usize) {
                let start = segment * block_bytes + at;
                let len = strip.min(block_len - at);
                let output = &mut buffer[..len as usize];
                rows.read(start..start + len, &[number], &mut [&mut *output])?;
                take(&[trim(output, &mut left)]).map_err(GetError::Write)?;
            }
        }
    }
    Ok(())
}

/// The part of `bytes` that belongs to the object, without padding. `left` counts the object's
/// bytes still to come.
fn trim<'a>(bytes: &'a [u8], left: &mut u64) -> &'a [u8] {
    let len = bytes
        .len()
        .min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= len as u64;
    &bytes[..len]
}
