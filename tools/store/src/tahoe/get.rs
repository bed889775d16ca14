//! Get: reads a file, or a range of it, by its cap.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use decode_kernel::tahoe::{Cap, ChkCap, StorageIndex};
use serde::{Serialize, Serializer};

use super::open::{Limits, OpenError, OpenFile, open};
use super::reader::{ReadError, ReadStats, Reader};
use crate::error::FileError;
use crate::progress::Progress;
use crate::size::Size;
use crate::temp::{allow_open_files, replace_file};

/// The file to read, and the nodes to read it from.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// All nodes that may have shares of it.
    pub nodes: Vec<PathBuf>,
    /// Its cap.
    pub cap: Cap,
    /// The range to read; the whole file if `None`.
    pub range: Option<Range<u64>>,
    /// Limits on what an uploader's choices may cost.
    pub limits: Limits,
}

/// The result of a get.
#[derive(Clone, Copy, Debug)]
pub struct GetReport {
    /// The file; `None` for a literal file, which the cap itself holds.
    pub storage_index: Option<StorageIndex>,
    /// The number of bytes read.
    pub bytes: u64,
    /// Damage found, and the work done to rebuild.
    pub stats: ReadStats,
    /// Share files and nodes that were not used.
    pub rejected: usize,
}

impl std::fmt::Display for GetReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.storage_index {
            Some(storage_index) => write!(f, "got {storage_index}: ")?,
            None => f.write_str("got a literal file: ")?,
        }
        write!(f, "{}", Size(self.bytes))?;
        let ReadStats {
            bad_blocks,
            rebuilt_bytes,
        } = self.stats;
        if rebuilt_bytes > 0 {
            write!(f, "; rebuilt {}", ByteSize(rebuilt_bytes).display().iec())?;
        }
        if bad_blocks > 0 {
            write!(f, "; {bad_blocks} damaged blocks met")?;
        }
        if self.rejected > 0 {
            write!(f, "; {} files or nodes not used", self.rejected)?;
        }
        Ok(())
    }
}

/// In JSON, which file it is and what it took to read. The cap is a secret.
impl Serialize for GetReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let GetReport {
            storage_index,
            bytes,
            stats:
                ReadStats {
                    bad_blocks,
                    rebuilt_bytes,
                },
            rejected,
        } = self;
        let document = Document {
            format: "tahoe-lafs",
            storage_index: storage_index.map(|index| index.to_string()),
            bytes: *bytes,
            rebuilt_bytes: *rebuilt_bytes,
            bad_blocks: *bad_blocks,
            rejected: *rejected,
        };
        document.serialize(serializer)
    }
}

/// What JSON has of a [`GetReport`].
#[derive(Serialize)]
struct Document {
    format: &'static str,
    storage_index: Option<String>,
    bytes: u64,
    rebuilt_bytes: u64,
    bad_blocks: u64,
    rejected: usize,
}

/// Why a file could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A segment could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The range reaches beyond the end of the file.
    #[error("bytes {}..{} are not all in a file of {size} bytes", range.start, range.end)]
    Range {
        /// The requested range.
        range: Range<u64>,
        /// The size of the file in bytes.
        size: u64,
    },
    /// The output file could not be created.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Writes the file, or the range of it, to `out`. After an error `out` holds a part of it, and every byte of that part
/// was verified. Memory is bounded as [`Reader::new`] says.
pub fn get(
    options: &GetOptions,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<GetReport, GetError> {
    Source::open(options)?.write(out, progress)
}

/// As [`get`], but writes to a file, which appears under its name only when it is complete and synced; see
/// [`crate::get::get_file`].
pub fn get_file(
    options: &GetOptions,
    path: &Path,
    progress: &Progress,
) -> Result<GetReport, GetError> {
    let source = Source::open(options)?;
    replace_file(path, |out| source.write(out, progress))
}

/// The opened source. It is opened before any output file is created.
enum Source<'a> {
    Literal(&'a [u8]),
    Shares(Box<Reader>, Range<u64>),
}

impl Source<'_> {
    fn open(options: &GetOptions) -> Result<Source<'_>, GetError> {
        let size = options.cap.size();
        let range = options.range.clone().unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(GetError::Range { range, size });
        }
        Ok(match &options.cap {
            Cap::Lit(content) => {
                Source::Literal(&content[range.start as usize..range.end as usize])
            }
            Cap::Chk(cap) => {
                let reader = Reader::new(open_allowed(&options.nodes, cap, &options.limits, open)?);
                Source::Shares(Box::new(reader), range)
            }
        })
    }

    fn write(self, out: &mut dyn Write, progress: &Progress) -> Result<GetReport, GetError> {
        let failed = |error| GetError::Read(ReadError::Write(error));
        match self {
            Source::Literal(content) => {
                out.write_all(content)
                    .and_then(|()| out.flush())
                    .map_err(failed)?;
                let (bytes, stats) = (content.len() as u64, ReadStats::default());
                Ok(GetReport {
                    storage_index: None,
                    bytes,
                    stats,
                    rejected: 0,
                })
            }
            Source::Shares(mut reader, range) => {
                let bytes = range.end - range.start;
                progress.add_len(bytes);
                reader.read(range, &mut |part| {
                    progress.add(part.len() as u64);
                    out.write_all(part)
                })?;
                out.flush().map_err(failed)?;
                Ok(GetReport {
                    storage_index: Some(reader.file().cap.storage_index()),
                    bytes,
                    stats: reader.stats(),
                    rejected: reader.file().rejected.len(),
                })
            }
        }
    }
}

/// Opens a file, after raising the limit of open files to what it may need.
pub(super) fn open_allowed(
    nodes: &[PathBuf],
    cap: &ChkCap,
    limits: &Limits,
    open: fn(&[PathBuf], &ChkCap, &Limits) -> Result<OpenFile, OpenError>,
) -> Result<OpenFile, OpenError> {
    allow_open_files(
        limits
            .files_max
            .min(nodes.len().saturating_mul(cap.n().into())),
    );
    open(nodes, cap, limits)
}
