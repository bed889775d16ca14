//! Inspect: prints what one share file says about itself, and checks whether its parts are good.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::code::CodeKind;
use decode_kernel::share::{
    Digest, Generation, Header, HeaderError, Key, LeafChecksum, Metadata, PAGE_BYTES,
};
use serde::{Serialize, Serializer};

use crate::date::rfc3339;
use crate::error::{During, FileError};
use crate::json;
use crate::open::open_regular;
use crate::progress::Progress;
use crate::rows::ShareReader;
use crate::size::Size;
use crate::stat::Lines;
use crate::store::{OpenFile, OpenShare};

const WINDOW_BYTES: u64 = 1 << 20;

/// The content of a share file. Displays as lines of names and values.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its header.
    pub header: Header,
    /// Its length in bytes, which should be the length that the geometry gives.
    pub file_bytes: u64,
    /// Pages of the leaf table that are damaged or missing.
    pub bad_pages: u64,
    /// Leaves that are damaged, missing, or covered by a bad page of the table. `None` if the
    /// leaves were not read.
    pub bad_leaves: Option<u64>,
}

impl Inspection {
    /// Whether no part that was checked is damaged.
    pub fn good(&self) -> bool {
        self.file_bytes == self.header.geometry.share_file_bytes()
            && self.bad_pages == 0
            && self.bad_leaves.unwrap_or(0) == 0
    }
}

/// Why a file cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It does not begin with a header.
    #[error("{}: {cause}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The problem.
        cause: HeaderError,
    },
}

/// Reads the header and the table of a share file, and with `leaves` all its blocks.
pub fn inspect(path: &Path, leaves: bool, progress: &Progress) -> Result<Inspection, InspectError> {
    let not_regular = || io::Error::other("not a regular file");
    let file = open_regular(path)
        .and_then(|file| file.ok_or_else(not_regular))
        .during("open", path)?;
    let file_bytes = file.metadata().during("read the metadata of", path)?.len();
    let mut page = vec![0; file_bytes.min(PAGE_BYTES as u64) as usize];
    file.read_exact_at(&mut page, 0).during("read", path)?;
    let header = Header::decode(&page).map_err(|cause| InspectError::Header {
        path: path.to_owned(),
        cause,
    })?;

    let share = OpenShare {
        number: header.number,
        store: 0,
        path: path.to_owned(),
        file: OpenFile::Local(file),
    };
    let mut reader = ShareReader::new(share, &header);
    let geometry = header.geometry;
    // A header may promise more than the file has. Pages beyond the end of the file count as bad
    // without being read.
    let there = file_bytes.saturating_sub(geometry.table_offset()) / PAGE_BYTES as u64;
    let there = there.min(geometry.table_pages());
    let bad = (0..there)
        .filter(|&index| reader.table_page(&header, index).is_none())
        .count();
    let bad_pages = geometry.table_pages() - there + bad as u64;
    let bad_leaves = leaves.then(|| {
        // Leaves without a good table page cannot be verified, so only the others are read.
        let leaf_bytes = u64::from(geometry.leaf_bytes());
        let readable = geometry
            .leaves()
            .min(there * decode_kernel::share::TABLE_PAGE_ENTRIES as u64);
        let end = geometry.share_bytes().min(readable * leaf_bytes);
        progress.add_len(end);
        let window = (WINDOW_BYTES / leaf_bytes).max(1) * leaf_bytes;
        let mut bad = geometry.leaves() - readable;
        let mut buffer = vec![0; window as usize];
        for start in (0..end).step_by(window as usize) {
            let buffer = &mut buffer[..window.min(end - start) as usize];
            let mut good = vec![false; buffer.len().div_ceil(leaf_bytes as usize)];
            bad += reader.read(&header, start, buffer, &mut good);
            progress.add(buffer.len() as u64);
        }
        bad
    });
    Ok(Inspection {
        header,
        file_bytes,
        bad_pages,
        bad_leaves,
    })
}

/// In JSON an inspection is one document.
impl Serialize for Inspection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Header {
            key,
            content_type,
            geometry,
            code,
            number,
            leaf_checksum,
            digest,
            generation,
            created,
            metadata,
        } = &self.header;
        let document = Document {
            format: "penstock",
            good: self.good(),
            key,
            content_type,
            size: geometry.size(),
            digest,
            code,
            k: geometry.k(),
            n: geometry.n(),
            number: *number,
            generation,
            created: *created,
            metadata,
            block_bytes: geometry.block_bytes(),
            tail_block_bytes: geometry.tail_block_bytes(),
            segments: geometry.segments(),
            leaves: geometry.leaves(),
            leaf_bytes: geometry.leaf_bytes(),
            leaf_checksum,
            bad_leaves: self.bad_leaves,
            table_offset: geometry.table_offset(),
            table_pages: geometry.table_pages(),
            bad_pages: self.bad_pages,
            file_bytes: self.file_bytes,
            expected_file_bytes: geometry.share_file_bytes(),
        };
        document.serialize(serializer)
    }
}

/// What JSON has of an [`Inspection`].
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    good: bool,
    #[serde(serialize_with = "json::key")]
    key: &'a Key,
    content_type: &'a str,
    size: u64,
    #[serde(rename = "sha256", serialize_with = "json::text")]
    digest: &'a Digest,
    #[serde(serialize_with = "json::text")]
    code: &'a CodeKind,
    k: u16,
    n: u16,
    number: u16,
    #[serde(serialize_with = "json::text")]
    generation: &'a Generation,
    #[serde(serialize_with = "json::date")]
    created: u64,
    #[serde(flatten, serialize_with = "json::metadata")]
    metadata: &'a Metadata,
    block_bytes: u32,
    tail_block_bytes: u32,
    segments: u64,
    leaves: u64,
    leaf_bytes: u32,
    #[serde(serialize_with = "json::text")]
    leaf_checksum: &'a LeafChecksum,
    bad_leaves: Option<u64>,
    table_offset: u64,
    table_pages: u64,
    bad_pages: u64,
    file_bytes: u64,
    expected_file_bytes: u64,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            key,
            content_type,
            geometry,
            code,
            number,
            leaf_checksum,
            digest,
            generation,
            created,
            metadata,
        } = &self.header;
        let (k, n) = (geometry.k(), geometry.n());
        let kind = if *number < k { "data" } else { "parity" };
        let size = geometry.size();
        writeln!(f, "key           {key}")?;
        writeln!(f, "size          {}", Size(size))?;
        writeln!(f, "created       {}", rfc3339(*created))?;
        writeln!(f, "content type  {content_type}")?;
        writeln!(f, "sha256        {digest}")?;
        write!(f, "{}", Lines(metadata))?;
        writeln!(f, "generation    {generation}")?;
        writeln!(f, "code          {code}, {k} of {n} shares needed")?;
        writeln!(f, "share         {number} of 0..{n} ({kind})")?;
        writeln!(
            f,
            "block         {} bytes, the last {}",
            geometry.block_bytes(),
            geometry.tail_block_bytes()
        )?;
        writeln!(f, "segments      {}", geometry.segments())?;
        writeln!(
            f,
            "leaves        {} of {} bytes, {leaf_checksum}",
            geometry.leaves(),
            geometry.leaf_bytes()
        )?;
        match self.bad_leaves {
            None => {}
            Some(0) => writeln!(f, "              all good")?,
            Some(bad) => writeln!(f, "              {bad} BAD")?,
        }
        write!(
            f,
            "table         {} pages at byte {}",
            geometry.table_pages(),
            geometry.table_offset()
        )?;
        match self.bad_pages {
            0 => writeln!(f, ", all good")?,
            bad => writeln!(f, ", {bad} BAD")?,
        }
        write!(f, "file          {} bytes", self.file_bytes)?;
        let expected = geometry.share_file_bytes();
        if self.file_bytes != expected {
            write!(f, ", WRONG: its header says {expected}")?;
        }
        Ok(())
    }
}
