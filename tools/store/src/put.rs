//! Put: a stream of unknown length becomes n shares in n stores.
//!
//! The order of the steps makes a crash harmless at any point:
//!
//! 1. Shares are written as temporary files, which no reader opens. The header is written last, since size and digest
//!    are known only then.
//! 2. All shares are synced, then all are renamed into place beside those of older puts, then the directories are
//!    synced. Readers use the newest put with k shares, so the object changes at the k-th rename, in one step.
//! 3. Only then are the shares of older puts removed.
//!
//! An error before the end undoes the renames. A crash leaves temporary files, which the next put or repair removes. It
//! may also leave some shares of the new put: repair completes them if there are at least k, and otherwise no reader
//! uses them.

mod place;
mod source;

#[cfg(test)]
mod crash_tests;

pub use source::SourceFile;

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use decode_kernel::CodeError;
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::share::{
    Digest, DigestAlgorithm, Generation, Geometry, GeometryError, Header, HeaderError, Key,
    LeafChecksum, check_content_type, object_dir,
};
use sha2::{Digest as _, Sha256};

use crate::error::{During, FileError};
use crate::progress::Progress;
use crate::store;
use crate::temp::{TempFile, allow_open_files, create_dir, remove_stale};
use crate::write::NewShares;
use place::{Step, share_files};

pub(crate) use place::remove_older;

/// The default block length in bytes: as long as k blocks are at most 480 KiB, from 16 to 64 KiB in steps of 16. Long
/// blocks mean fewer reads for the same bytes. A whole segment and its rebuilt blocks should fit one of the server's
/// pool buffers (768 KiB), or ranges are read more than once. They are also read more than once where a connection's
/// piece (128 KiB and more) covers only few of the blocks that are lost together. Measured with k = 10 and four shares
/// lost, each block rebuilt for one connection only: see docs/decisions/0014.
pub fn default_block_bytes(k: u16) -> u32 {
    const STEP: u32 = 16 << 10;
    let most = (480 << 10) / u32::from(k.max(1));
    (most / STEP * STEP).clamp(STEP, 4 * STEP)
}
/// The longest segment (k blocks) that put accepts, in bytes: put holds one whole segment in memory.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;
/// Short segments are read, encoded and written together, up to this many bytes.
const BATCH_BYTES: u64 = 8 << 20;
/// Bytes of parity made in one step, unless one leaf of each parity share is more.
const PARITY_BYTES: usize = 8 << 20;

/// The object to store, its code, and the stores.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// At least n different directories; share i goes to the i-th. They are created if they do not exist.
    pub stores: Vec<PathBuf>,
    /// k: the number of data shares, which is also the number needed to read.
    pub data: u16,
    /// m: the number of parity shares, which is also the number that may be lost. n = k + m.
    pub parity: u16,
    /// The object's name.
    pub key: Key,
    /// Block length in bytes: a multiple of 4096 up to 16 MiB, with k of them at most
    /// [`SEGMENT_BYTES_MAX`].
    pub block_size: u32,
    /// The code. If `None`, rs8 up to n = 256 and rs16 above.
    pub code: Option<CodeKind>,
    /// The media type; guessed from the extension of the key if `None`.
    pub content_type: Option<String>,
    /// Length of the source in bytes, if known. Only the progress bar uses it.
    pub size_hint: Option<u64>,
}

/// The result of a put.
#[derive(Clone, Debug)]
pub struct PutReport {
    /// The header of share 0.
    pub header: Header,
    /// The path of each share, by number.
    pub paths: Vec<PathBuf>,
    /// Share files of older puts that were removed.
    pub replaced: usize,
}

impl fmt::Display for PutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            key,
            geometry,
            code,
            digest,
            content_type,
            ..
        } = &self.header;
        let (k, n) = (geometry.k(), geometry.n());
        let size = geometry.size();
        write!(
            f,
            "put {key}: {} ({size} bytes), {content_type}, ",
            ByteSize(size).display().iec()
        )?;
        write!(f, "{code} {k}+{}, sha256 {digest}", n - k)?;
        if self.replaced > 0 {
            write!(f, ", replacing an older one")?;
        }
        Ok(())
    }
}

/// Why nothing was stored. The object is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Fewer stores than shares.
    #[error("{need} shares need {need} stores, each its own; {have} given")]
    TooFewStores {
        /// n.
        need: u32,
        /// Stores given.
        have: usize,
    },
    /// One directory given twice, perhaps under two names.
    #[error(
        "stores {} and {} are the same directory: losing it would lose two shares",
        .0.display(), .1.display()
    )]
    SameStore(PathBuf, PathBuf),
    /// The numbers make no valid layout.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A segment of k blocks is too long.
    #[error(
        "a segment of {k} blocks of {block_size} bytes is over {SEGMENT_BYTES_MAX} bytes; choose a \
         smaller block size"
    )]
    Segment {
        /// k.
        k: u16,
        /// Bytes.
        block_size: u32,
    },
    /// The numbers make no valid code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A content type that cannot be stored.
    #[error(transparent)]
    ContentType(#[from] HeaderError),
    /// The source failed.
    #[error("cannot read what is to be put: {0}")]
    Source(io::Error),
    /// The newest share of the object has the last generation there is, so no newer put can be made.
    #[error(
        "the generation {0} of the object's newest share leaves no room for a newer one; remove \
         that share"
    )]
    Generation(Generation),
    /// The system gives no random bytes.
    #[error("cannot get random bytes: {0}")]
    Random(getrandom::Error),
    /// A store failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Stores all bytes of `source`. The memory it takes does not depend on their number: a batch of segments (8 MiB, or
/// one segment of at most [`SEGMENT_BYTES_MAX`]), 8 MiB of parity (or one leaf of each parity share), and 4 KiB for
/// each share.
pub fn put(
    source: &mut dyn Read,
    options: &PutOptions,
    progress: &Progress,
) -> Result<PutReport, PutError> {
    put_in_steps(source, options, progress, &mut |_| Ok(()))
}

/// As [`put`], but calls `after` at each step. An error from `after` acts like a disk failure at that step.
fn put_in_steps(
    source: &mut dyn Read,
    options: &PutOptions,
    progress: &Progress,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<PutReport, PutError> {
    let plan = Plan::new(options)?;
    if let Some(bytes) = options.size_hint {
        progress.add_len(bytes);
    }
    let (header, files) = plan.write(source, progress)?;
    let (paths, replaced) = place::commit(&options.stores, &plan.dirs, &header, files, after)?;
    Ok(PutReport {
        header,
        paths,
        replaced,
    })
}

/// The checked choices of a put, whose directories exist.
struct Plan<'a> {
    /// n stores.
    stores: &'a [PathBuf],
    /// The object's directory in each.
    dirs: Vec<PathBuf>,
    code: Code,
    /// The header of an empty object; the size is filled in once it is known.
    empty: Header,
}

impl Plan<'_> {
    fn new(options: &PutOptions) -> Result<Plan<'_>, PutError> {
        let PutOptions {
            data: k,
            parity,
            key,
            block_size,
            ..
        } = options;
        let n = u32::from(*k) + u32::from(*parity);
        let n = u16::try_from(n).map_err(|_| GeometryError::Shares { k: *k, n: u16::MAX })?;
        let leaf_bytes = Geometry::default_leaf_bytes(*k);
        let geometry = Geometry::new(0, *k, n, *block_size, leaf_bytes)?;
        if geometry.segment_bytes() > SEGMENT_BYTES_MAX {
            return Err(PutError::Segment {
                k: *k,
                block_size: *block_size,
            });
        }
        let kind = options.code.unwrap_or(if n <= 256 {
            CodeKind::Rs8
        } else {
            CodeKind::Rs16
        });
        let code = Code::new(kind, (*k).into(), n.into())?;
        let content_type = match &options.content_type {
            Some(given) => given.clone(),
            None => mime_guess::from_path(key.as_str())
                .first_or_octet_stream()
                .to_string(),
        };
        check_content_type(&content_type)?;
        let Some(stores) = options.stores.get(..n.into()) else {
            return Err(PutError::TooFewStores {
                need: n.into(),
                have: options.stores.len(),
            });
        };
        allow_open_files(usize::from(n) * 2);
        let dirs = prepare_stores(stores, key)?;
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let empty = Header {
            key: key.clone(),
            content_type,
            geometry,
            code: kind,
            number: 0,
            leaf_checksum: LeafChecksum::Crc64Nvme,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: Sha256::digest([]).into(),
            },
            generation: new_generation(&options.stores, key, created.as_nanos() as u64)?,
            created: created.as_secs(),
        };
        Ok(Plan {
            stores,
            dirs,
            code,
            empty,
        })
    }

    /// Reads `source` to its end and writes all shares, under temporary names.
    fn write(
        &self,
        source: &mut dyn Read,
        progress: &Progress,
    ) -> Result<(Header, Vec<(u16, TempFile)>), PutError> {
        let Header {
            geometry,
            generation,
            leaf_checksum,
            ..
        } = self.empty;
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        let mut shares = NewShares::new(
            &self.stores[0],
            n,
            generation,
            leaf_checksum,
            geometry.leaf_bytes(),
        );
        for (number, store) in self.stores.iter().enumerate() {
            shares.add(store, number as u16)?;
        }
        let segment_bytes = geometry.segment_bytes() as usize; // at most SEGMENT_BYTES_MAX
        let batch_segments = (BATCH_BYTES / geometry.segment_bytes()).max(1) as usize;
        let mut batch = vec![0; batch_segments * segment_bytes];
        let mut parity = Parity::new(&self.code, &geometry, batch_segments);
        let mut digest = Sha256::new();
        let with_size = |size| {
            let (block_bytes, leaf_bytes) = (geometry.block_bytes(), geometry.leaf_bytes());
            Geometry::new(size, geometry.k(), geometry.n(), block_bytes, leaf_bytes)
        };
        let mut size = 0;
        loop {
            let len = read_full(source, &mut batch).map_err(PutError::Source)?;
            size += len as u64;
            let whole = len - len % segment_bytes;
            // The last segment is cut into k shorter blocks, padded with zeros.
            let tail_block = with_size((len - whole) as u64)?.tail_block_bytes() as usize;
            let padded = whole + k * tail_block;
            batch[len..padded.max(len)].fill(0);
            let mut segments: Vec<&[u8]> = batch[..whole].chunks_exact(segment_bytes).collect();
            segments.extend((tail_block > 0).then(|| &batch[whole..padded]));
            // SHA-256 takes longer than everything else together, so it gets a thread of its own.
            std::thread::scope(|scope| {
                scope.spawn(|| digest.update(&batch[..len]));
                for share in 0..k {
                    let blocks = segments.iter().map(|segment| block(segment, k, share));
                    shares.append(share, &blocks.collect::<Vec<_>>())?;
                }
                parity.append(&segments, &mut shares)
            })?;
            progress.add(len as u64);
            if len < batch.len() {
                break;
            }
        }
        let header = Header {
            geometry: with_size(size)?,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: digest.finalize().into(),
            },
            ..self.empty.clone()
        };
        for index in 0..n {
            shares.finish(index, &header)?;
        }
        Ok((header, shares.into_files().collect()))
    }
}

/// Block `number` of a segment of k blocks.
fn block(segment: &[u8], k: usize, number: usize) -> &[u8] {
    let len = segment.len() / k;
    &segment[number * len..][..len]
}

/// Makes parity shares from segments, in steps of bounded memory.
struct Parity<'a> {
    code: &'a Code,
    coder: Coder,
    /// One buffer for each parity share.
    buffers: Vec<Vec<u8>>,
    /// Length of each buffer, a multiple of the leaf's.
    capacity: usize,
}

impl Parity<'_> {
    fn new<'a>(code: &'a Code, geometry: &Geometry, batch_segments: usize) -> Parity<'a> {
        let m = code.n() - code.k();
        let leaf = geometry.leaf_bytes() as usize;
        let most = batch_segments * geometry.block_bytes() as usize;
        let capacity = (PARITY_BYTES / m.max(1) / leaf * leaf).clamp(leaf, most);
        Parity {
            code,
            coder: Coder::new(1),
            buffers: vec![vec![0; capacity]; m],
            capacity,
        }
    }

    /// Appends the parity blocks of `segments` to the parity shares.
    fn append(&mut self, segments: &[&[u8]], shares: &mut NewShares) -> Result<(), PutError> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        let k = self.code.k();
        let mut filled = 0;
        for segment in segments {
            let block_len = segment.len() / k;
            for start in (0..block_len).step_by(self.capacity) {
                let len = self.capacity.min(block_len - start);
                if filled + len > self.capacity {
                    self.flush(&mut filled, shares)?;
                }
                let data: Vec<&[u8]> = (0..k)
                    .map(|share| &block(segment, k, share)[start..][..len])
                    .collect();
                let mut outputs: Vec<&mut [u8]> = self
                    .buffers
                    .iter_mut()
                    .map(|buffer| &mut buffer[filled..][..len])
                    .collect();
                self.coder.encode(self.code, &data, &mut outputs)?;
                filled += len;
            }
        }
        self.flush(&mut filled, shares)
    }

    fn flush(&self, filled: &mut usize, shares: &mut NewShares) -> Result<(), PutError> {
        for (buffer, share) in self.buffers.iter().zip(self.code.k()..) {
            shares.append(share, &[&buffer[..*filled]])?;
        }
        *filled = 0;
        Ok(())
    }
}

/// Creates the stores and the object's directory in each, and removes the files of interrupted writes. Refuses a list
/// in which one store occurs twice.
fn prepare_stores(stores: &[PathBuf], key: &Key) -> Result<Vec<PathBuf>, PutError> {
    let mut seen: Vec<((u64, u64), &PathBuf)> = Vec::new();
    for store in stores {
        create_dir(store)?;
        let found = fs::metadata(store).during("read the metadata of", store)?;
        let id = (found.dev(), found.ino());
        if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == id) {
            return Err(PutError::SameStore((*other).clone(), store.clone()));
        }
        seen.push((id, store));
    }
    let mut dirs = Vec::with_capacity(stores.len());
    for store in stores {
        remove_stale(store);
        let dir = store::objects_dir(store).join(object_dir(key));
        create_dir(&dir)?;
        dirs.push(dir);
    }
    Ok(dirs)
}

/// A generation newer than that of every existing share, even if the clock was set back.
fn new_generation(stores: &[PathBuf], key: &Key, now: u64) -> Result<Generation, PutError> {
    let scan = store::scan(stores, key);
    let from_headers = scan.groups.iter().map(|group| group.header.generation);
    let from_names = share_files(stores, key).filter_map(|(_, generation)| generation);
    let nanos = match from_headers.chain(from_names).max() {
        Some(newest) => now.max(
            newest
                .unix_nanos()
                .checked_add(1)
                .ok_or(PutError::Generation(newest))?,
        ),
        None => now,
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(PutError::Random)?;
    Ok(Generation::new(nanos, random))
}

/// Fills `buffer` from `source`. Reads fewer bytes only at the end of `source`.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
