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

mod attempt;
mod commit;
mod encoding;
mod source;
mod syntax;

#[cfg(test)]
mod crash_tests;

pub use source::SourceFile;

use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::PathBuf;

use decode_kernel::CodeError;
use decode_kernel::code::CodeKind;
use decode_kernel::share::{
    Digest, Fields, Generation, GeometryError, Header, HeaderError, Key, Metadata,
};
use serde::{Serialize, Serializer};

use crate::error::{FileError, list};
use crate::json;
use crate::progress::Progress;
use crate::size::Size;
use crate::store::{self, Places, Store, StoreError, Tally};
use attempt::{Attempt, Failure};
use commit::Step;
use encoding::Encoding;

pub(crate) use attempt::new_generation;
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
    pub stores: Vec<Store>,
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
    /// When the object expires, in seconds since 1970. A time that has passed is accepted.
    pub expires: Option<NonZeroU64>,
    /// Header fields that a server sends with it.
    pub fields: Fields,
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
        write!(f, "put {key}: {}, {content_type}, ", Size(size))?;
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

/// In JSON, what the headers have in common, and which shares were written where.
impl Serialize for PutReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PutReport {
            header,
            paths,
            missing,
            replaced,
            warnings,
        } = self;
        let document = Document {
            size: header.geometry.size(),
            created: header.created,
            content_type: &header.content_type,
            digest: &header.digest,
            metadata: &header.metadata,
            generation: &header.generation,
            code: &header.code,
            k: header.geometry.k(),
            n: header.geometry.n(),
            shares: paths.len(),
            missing,
            paths: paths
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            replaced: *replaced,
            warnings,
        };
        document.serialize(serializer)
    }
}

/// What JSON has of a [`PutReport`].
#[derive(Serialize)]
struct Document<'a> {
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
    /// Shares that were written.
    shares: usize,
    missing: &'a [u16],
    paths: Vec<String>,
    replaced: usize,
    warnings: &'a [String],
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
    /// A content type or a header field that is not written as HTTP wants it.
    #[error("{what} {text:?} is not written as HTTP wants it; for example: {example}")]
    Syntax {
        /// The field.
        what: String,
        /// Its value.
        text: String,
        /// A right one.
        example: &'static str,
    },
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

fn paths(stores: &[Store]) -> Vec<PathBuf> {
    stores.iter().map(|store| store.path().to_owned()).collect()
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
/// one segment of at most [`SEGMENT_BYTES_MAX`]), 8 MiB of parity (or one leaf of each parity share), and for each share
/// 4 KiB in a directory, three parts of an upload in a bucket: 24 MiB, and more where it has over 80 GB.
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
        self.known = Some((paths(&options.stores), places));
        result
    }

    /// The stores, as they are now. The first time, files of interrupted puts are removed.
    fn places(&mut self, stores: &[Store]) -> Result<Places, PutError> {
        if let Some((known, mut places)) = self.known.take()
            && known == paths(stores)
        {
            places.refresh();
            return Ok(places);
        }
        let places = Places::new(stores)?;
        for place in &places.open {
            place.store.remove_stale();
        }
        Ok(places)
    }
}
