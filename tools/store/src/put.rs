//! Put: a stream of unknown length becomes n shares in n stores.
//!
//! The order of the steps makes a crash harmless at any point:
//!
//! 1. Shares are written as temporary files, which no reader opens. The header is written last, since size and digest
//!    are known only then. All are synced.
//! 2. The shares become the object, in one step (`commit.rs`).
//! 3. Only then are the shares of older puts removed.
//!
//! An error before the decision takes everything back. A crash leaves temporary and pending files, which a repair
//! removes, or a decided put, which a repair completes.

mod commit;
mod source;

#[cfg(test)]
mod crash_tests;

pub use source::SourceFile;

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use decode_kernel::CodeError;
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::share::{
    Digest, DigestAlgorithm, Generation, Geometry, GeometryError, Header, HeaderError, Key,
    LeafChecksum, check_content_type,
};
use sha2::{Digest as _, Sha256};

use crate::check;
use crate::error::{FileError, list};
use crate::progress::Progress;
use crate::store::{self, Place, Places, Scan, StoreError, Tally};
use crate::temp::{allow_open_files, remove_stale};
use crate::write::NewShares;
use commit::{Ready, Step};

pub(crate) use commit::remove_older;

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
    /// The stores of one set. At most one share of the object goes to each.
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
    /// Length of the source in bytes, if known. Stores without room for their share are passed over.
    pub size_hint: Option<u64>,
    /// How many shares must be written at least, from k + 1 to n; all of them if `None`. A repair adds those that are
    /// missing.
    pub min_shares: Option<u16>,
    /// Whether an object that exists is left as it is.
    pub no_clobber: bool,
    /// Which stores get the shares.
    pub placement: Placement,
}

/// Which stores get the shares of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Those that the key prefers, spread over failure domains.
    #[default]
    Hashed,
    /// Share i to the i-th store, for tests and benchmarks that lose a certain share.
    Listed,
}

/// The result of a put.
#[derive(Debug)]
pub struct PutReport {
    /// The header of share 0.
    pub header: Header,
    /// The path of each share that was written, by number.
    pub paths: Vec<PathBuf>,
    /// Shares that were not written, of an object that was put with fewer than n.
    pub missing: Vec<u16>,
    /// Files of older puts that were removed.
    pub replaced: usize,
    /// What did not go as it should: stores that failed, domains with too many shares.
    pub warnings: Vec<String>,
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
        if !self.missing.is_empty() {
            let written = usize::from(n) - self.missing.len();
            write!(
                f,
                "; {written} of {n} shares were written: `penstock repair` adds the others"
            )?;
        }
        Ok(())
    }
}

/// Why nothing was stored. The object is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Fewer stores than shares.
    #[error(
        "{need} shares need {need} stores, each its own, and {} can be written{}{}",
        match have { 0 => "none".to_owned(), 1 => "only one".to_owned(), have => format!("only {have}") },
        list(reasons),
        if *have > usize::from(*data) { "; --min-shares writes fewer now, and a repair adds the others" } else { "" }
    )]
    TooFewStores {
        /// Shares that must be written.
        need: u16,
        /// Stores that can be written.
        have: usize,
        /// k.
        data: u16,
        /// Why the others can't be.
        reasons: Vec<String>,
    },
    /// A number of shares that makes no sense as the least.
    #[error("--min-shares {least}: it must be between {} (one more than the data shares) and {n}", data + 1)]
    MinShares {
        /// What was asked for.
        least: u16,
        /// k.
        data: u16,
        /// n.
        n: u16,
    },
    /// The object is there already.
    #[error("{key:?} is there already, and is left as it is")]
    Exists {
        /// Its name.
        key: Key,
    },
    /// Stores that can't be used together.
    #[error(transparent)]
    Stores(#[from] StoreError),
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
    /// A store failed at the end, so that too few shares could be placed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Whether the object exists can't be known.
    #[error(transparent)]
    Open(#[from] store::OpenError),
}

/// What a put reads.
pub enum Content<'a> {
    /// A stream, which can be read once.
    Stream(&'a mut dyn Read),
    /// A file, which is read again if a store fails and others can take its place.
    File(&'a mut SourceFile),
}

impl Content<'_> {
    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Content::Stream(stream) => stream,
            Content::File(file) => *file,
        }
    }

    /// Starts again; whether that is possible.
    fn rewind(&mut self) -> io::Result<bool> {
        match self {
            Content::Stream(_) => Ok(false),
            Content::File(file) => file.rewind().map(|()| true),
        }
    }
}

/// Stores all bytes of `source`. The memory it takes does not depend on their number: a batch of segments (8 MiB, or
/// one segment of at most [`SEGMENT_BYTES_MAX`]), 8 MiB of parity (or one leaf of each parity share), and 4 KiB for
/// each share.
///
/// # Errors
/// If nothing was stored; the object is as it was.
pub fn put(
    source: &mut dyn Read,
    options: &PutOptions,
    progress: &Progress,
) -> Result<PutReport, PutError> {
    Puts::default().put(&mut Content::Stream(source), options, progress)
}

/// The puts of one process, which spreads data and parity over the stores alike.
#[derive(Debug, Default)]
pub struct Puts {
    tally: Tally,
    /// The stores that were looked at last, and what was found.
    known: Option<(Vec<PathBuf>, Places)>,
}

impl Puts {
    /// As [`put`].
    ///
    /// # Errors
    /// As [`put`].
    pub fn put(
        &mut self,
        content: &mut Content<'_>,
        options: &PutOptions,
        progress: &Progress,
    ) -> Result<PutReport, PutError> {
        self.put_in_steps(content, options, progress, &mut |_| Ok(()))
    }

    /// As [`Puts::put`], but calls `after` at each step. An error from `after` acts like a disk failure at that step.
    pub(crate) fn put_in_steps(
        &mut self,
        content: &mut Content<'_>,
        options: &PutOptions,
        progress: &Progress,
        after: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<PutReport, PutError> {
        let encoding = Encoding::new(options)?;
        let mut places = self.places(&options.stores)?;
        let result = loop {
            if let Some(bytes) = options.size_hint {
                progress.add_len(bytes);
            }
            let attempt = Attempt::new(options, &encoding, &mut places, &mut self.tally)?;
            match attempt.run(content.reader(), progress, after) {
                Err(Failure::Stores(failed)) => {
                    let passes_over_some = !failed.is_empty();
                    for (index, error) in failed {
                        tracing::warn!(store = index, "a store is passed over: {error}");
                        places.pass_over(index, error.to_string());
                    }
                    // Where too few stores are left, the next try says so.
                    let again = passes_over_some && content.rewind().map_err(PutError::Source)?;
                    if !again {
                        break Err(encoding.too_few(&places, places.open.len(), 0));
                    }
                }
                Err(Failure::Put(error)) => break Err(error),
                Ok(report) => break Ok(report),
            }
        };
        self.known = Some((options.stores.clone(), places));
        result
    }

    /// The stores, as they are now. The first time, files of interrupted puts are removed.
    fn places(&mut self, stores: &[PathBuf]) -> Result<Places, PutError> {
        if let Some((known, mut places)) = self.known.take()
            && known == stores
        {
            places.refresh();
            return Ok(places);
        }
        let places = Places::new(stores)?;
        for place in &places.open {
            remove_stale(&place.path);
        }
        Ok(places)
    }
}

/// How the bytes of an object become shares.
struct Encoding {
    code: Code,
    geometry: Geometry,
    content_type: String,
    /// Shares that must be written.
    least: u16,
}

impl Encoding {
    fn new(options: &PutOptions) -> Result<Encoding, PutError> {
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
        let least = options.min_shares.unwrap_or(n);
        if least > n || least <= *k && least < n {
            return Err(PutError::MinShares { least, data: *k, n });
        }
        let kind = options.code.unwrap_or(if n <= 256 {
            CodeKind::Rs8
        } else {
            CodeKind::Rs16
        });
        let content_type = match &options.content_type {
            Some(given) => given.clone(),
            None => mime_guess::from_path(key.as_str())
                .first_or_octet_stream()
                .to_string(),
        };
        check_content_type(&content_type)?;
        Ok(Encoding {
            code: Code::new(kind, (*k).into(), n.into())?,
            geometry,
            content_type,
            least,
        })
    }

    /// The error where only `have` stores can take a share of so many bytes.
    fn too_few(&self, places: &Places, have: usize, share_bytes: u64) -> PutError {
        let passed = places.passed_over.iter().map(ToString::to_string);
        let full = places
            .open
            .iter()
            .filter(|place| !place.has_room(share_bytes));
        let full = full.map(|place| format!("{}: no room", place.path.display()));
        PutError::TooFewStores {
            need: self.least,
            have,
            data: self.geometry.k(),
            reasons: passed.chain(full).collect(),
        }
    }

    /// The geometry of an object of `size` bytes.
    fn geometry_of(&self, size: u64) -> Result<Geometry, GeometryError> {
        let geometry = &self.geometry;
        let (block_bytes, leaf_bytes) = (geometry.block_bytes(), geometry.leaf_bytes());
        Geometry::new(size, geometry.k(), geometry.n(), block_bytes, leaf_bytes)
    }
}

/// One try to put an object into certain stores.
struct Attempt<'a> {
    options: &'a PutOptions,
    encoding: &'a Encoding,
    /// The store of each share, by number.
    targets: Vec<(usize, PathBuf)>,
    /// The header of an empty object; the size is filled in once it is known.
    empty: Header,
    warnings: Vec<String>,
}

/// Why a try failed.
enum Failure {
    /// Too few stores are left; with others it may succeed.
    Stores(Vec<(usize, FileError)>),
    Put(PutError),
}

impl<E: Into<PutError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Put(error.into())
    }
}

impl<'a> Attempt<'a> {
    fn new(
        options: &'a PutOptions,
        encoding: &'a Encoding,
        places: &mut Places,
        tally: &mut Tally,
    ) -> Result<Attempt<'a>, PutError> {
        let (geometry, key) = (encoding.geometry, &options.key);
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        let share_bytes = encoding
            .geometry_of(options.size_hint.unwrap_or(0))?
            .share_file_bytes();
        allow_open_files(n * 3);
        places.note_shares(encoding.least);
        let mut warnings = Vec::new();
        let mut chosen: Vec<&Place> = match options.placement {
            Placement::Hashed => {
                let chosen = places.choose(key, n, n - k, share_bytes);
                warnings.extend(chosen.crowded.map(|domain| {
                    format!("domain {domain} gets more shares than may be lost: losing it loses the object")
                }));
                chosen.places
            }
            Placement::Listed => places.open.iter().take(n).collect(),
        };
        if chosen.len() < usize::from(encoding.least) {
            return Err(encoding.too_few(places, chosen.len(), share_bytes));
        }
        if options.placement == Placement::Hashed {
            tally.order(&mut chosen, k);
        }
        let targets: Vec<_> = chosen
            .iter()
            .map(|place| (place.index, place.path.clone()))
            .collect();
        if targets.len() < n {
            let passed = places.passed_over.iter().map(ToString::to_string);
            warnings.extend(passed);
        }

        let scan = store::scan(&options.stores, key);
        refuse_clobber(options, &scan)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let empty = Header {
            key: key.clone(),
            content_type: encoding.content_type.clone(),
            geometry,
            code: encoding.code.kind(),
            number: 0,
            leaf_checksum: LeafChecksum::Crc64Nvme,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: Sha256::digest([]).into(),
            },
            generation: new_generation(&scan, now.as_nanos() as u64)?,
            created: new_created(&scan, now.as_secs()),
        };
        Ok(Attempt {
            options,
            encoding,
            targets,
            empty,
            warnings,
        })
    }

    fn run(
        self,
        source: &mut dyn Read,
        progress: &Progress,
        after: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<PutReport, Failure> {
        let (header, ready) = self.write(source, progress)?;
        if self.options.no_clobber {
            // Another put may have come first meanwhile.
            let scan = store::scan(&self.options.stores, &self.options.key);
            refuse_clobber(self.options, &scan)?;
        }
        let least = usize::from(self.encoding.least);
        let committed = commit::commit(&header, ready, least, after)?;
        let mut warnings = self.warnings;
        let failed = committed.failed.iter().map(|(_, _, error)| error);
        warnings.extend(failed.chain(&committed.unsettled).map(ToString::to_string));
        if !committed.unsettled.is_empty() {
            warnings.push(
                "the object is stored; `penstock repair` finishes what a store failed to do"
                    .to_owned(),
            );
        }
        let missing = check::missing(committed.shares.iter().map(|(number, ..)| *number), &header);
        let replaced = remove_older(&self.options.stores, &header.key, &header.generation);
        let paths = committed.shares.into_iter().map(|(.., path)| path);
        Ok(PutReport {
            header,
            paths: paths.collect(),
            missing,
            replaced,
            warnings,
        })
    }

    /// Reads `source` to its end and writes all shares, under temporary names. Returns the object's header and the
    /// shares, without those whose stores failed.
    fn write(
        &self,
        source: &mut dyn Read,
        progress: &Progress,
    ) -> Result<(Header, Vec<Ready>), Failure> {
        let Header {
            geometry,
            generation,
            leaf_checksum,
            ..
        } = self.empty;
        let encoding = self.encoding;
        let (k, least) = (usize::from(geometry.k()), usize::from(encoding.least));
        let mut shares = NewShares::new(generation, leaf_checksum, geometry.leaf_bytes());
        let mut failed = Vec::new();
        let mut targets = Vec::with_capacity(self.targets.len());
        for (number, (index, store)) in self.targets.iter().enumerate() {
            match shares.add(store, number as u16) {
                Ok(()) => targets.push((*index, store)),
                Err(error) => failed.push((*index, error)),
            }
        }
        // Share i is not the i-th file once a store failed.
        let mut slots: Vec<Option<usize>> = vec![None; usize::from(geometry.n())];
        for (slot, number) in shares.numbers().enumerate() {
            slots[usize::from(number)] = Some(slot);
        }
        let segment_bytes = geometry.segment_bytes() as usize; // at most SEGMENT_BYTES_MAX
        let batch_segments = (BATCH_BYTES / geometry.segment_bytes()).max(1) as usize;
        let mut batch = vec![0; batch_segments * segment_bytes];
        let mut parity = Parity::new(&encoding.code, &geometry, batch_segments);
        let mut digest = Sha256::new();
        let mut size = 0;
        loop {
            if shares.live() < least {
                break;
            }
            let len = read_full(source, &mut batch).map_err(PutError::Source)?;
            size += len as u64;
            let whole = len - len % segment_bytes;
            // The last segment is cut into k shorter blocks, padded with zeros.
            let tail_block = encoding
                .geometry_of((len - whole) as u64)?
                .tail_block_bytes() as usize;
            let padded = whole + k * tail_block;
            batch[len..padded.max(len)].fill(0);
            let mut segments: Vec<&[u8]> = batch[..whole].chunks_exact(segment_bytes).collect();
            segments.extend((tail_block > 0).then(|| &batch[whole..padded]));
            // SHA-256 takes longer than everything else together, so it gets a thread of its own.
            std::thread::scope(|scope| {
                scope.spawn(|| digest.update(&batch[..len]));
                for (share, slot) in slots[..k].iter().enumerate() {
                    let blocks = segments.iter().map(|segment| block(segment, k, share));
                    if let Some(slot) = slot {
                        shares.append(*slot, &blocks.collect::<Vec<_>>());
                    }
                }
                parity.append(&segments, &slots, &mut shares)
            })?;
            progress.add(len as u64);
            if len < batch.len() {
                break;
            }
        }
        let header = Header {
            geometry: encoding.geometry_of(size)?,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: digest.finalize().into(),
            },
            ..self.empty.clone()
        };
        let enough = |shares: &NewShares| shares.live() >= least;
        if enough(&shares) {
            shares.finish(&header);
        }
        let enough = enough(&shares);
        let mut ready = Vec::new();
        for ((number, file), (store, root)) in shares.into_files().zip(targets) {
            match file {
                Ok(temp) => ready.push(Ready {
                    number,
                    store,
                    root: root.clone(),
                    temp,
                }),
                Err(error) => failed.push((store, error)),
            }
        }
        if !enough {
            return Err(Failure::Stores(failed));
        }
        for (_, error) in &failed {
            tracing::warn!("a share is not written: {error}");
        }
        Ok((header, ready))
    }
}

fn refuse_clobber(options: &PutOptions, scan: &Scan) -> Result<(), PutError> {
    let key = &options.key;
    if !options.no_clobber {
        return Ok(());
    }
    if !scan.groups.is_empty() {
        return Err(PutError::Exists { key: key.clone() });
    }
    match store::choose(&options.stores, key, false) {
        Err(store::OpenError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(PutError::Exists { key: key.clone() }),
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
    fn append(
        &mut self,
        segments: &[&[u8]],
        slots: &[Option<usize>],
        shares: &mut NewShares,
    ) -> Result<(), PutError> {
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
                    self.flush(&mut filled, slots, shares);
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
        self.flush(&mut filled, slots, shares);
        Ok(())
    }

    fn flush(&self, filled: &mut usize, slots: &[Option<usize>], shares: &mut NewShares) {
        for (buffer, slot) in self.buffers.iter().zip(&slots[self.code.k()..]) {
            if let Some(slot) = slot {
                shares.append(*slot, &[&buffer[..*filled]]);
            }
        }
        *filled = 0;
    }
}

/// A generation newer than every one there is, even if the clock was set back.
pub(crate) fn new_generation(scan: &Scan, now: u64) -> Result<Generation, PutError> {
    let nanos = match scan.newest_generation() {
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

/// A time of creation, in seconds since 1970, later than that of every earlier put: `Last-Modified` is made of it, and
/// tells two puts of one second apart.
fn new_created(scan: &Scan, now: u64) -> u64 {
    let seconds = |generation: Generation| generation.unix_nanos() / 1_000_000_000;
    let named = scan.newest_generation().map(seconds);
    let latest = scan.latest_created().max(named);
    latest.map_or(now, |latest| now.max(latest.saturating_add(1)))
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
