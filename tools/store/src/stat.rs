//! Stat: everything about one object that the headers of its share files tell.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use decode_kernel::code::CodeKind;
use decode_kernel::share::{Digest, Generation, Header, Key, Metadata};
use serde::Serialize;

use crate::check::missing;
use crate::date::{self, rfc3339};
use crate::json;
use crate::ls::Health;
use crate::size::Size;
use crate::store::{self, Group, OpenError, RejectReason, Rejected, Scan, Store, StoreError};
use crate::temp::allow_open_files;

/// Whether an object can be read, as far as headers tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// At least k shares of its newest put are there.
    Readable,
    /// It could be read, but has expired: it is as if it were not there, and a repair removes it.
    Expired,
    /// There are files, and too few shares among them.
    Unreadable,
    /// There is no such object, or it was removed.
    Absent,
    /// No store that is here has it, and those that are away may.
    Unknown,
}

impl State {
    /// The exit code of `penstock stat`: 0 if it can be read, 1 if it does not exist or has expired, 2 otherwise.
    pub fn exit_code(self) -> u8 {
        match self {
            State::Readable => 0,
            State::Absent | State::Expired => 1,
            State::Unreadable | State::Unknown => 2,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Readable => "readable",
            State::Expired => "expired",
            State::Unreadable => "unreadable",
            State::Absent => "no such object",
            State::Unknown => "unknown: stores are away that may have it",
        })
    }
}

/// What the stores have of an object. Displays as lines of names and values.
#[derive(Debug, Serialize)]
pub struct ObjectStat {
    /// Its name.
    #[serde(serialize_with = "json::key")]
    pub key: Key,
    /// Whether it can be read.
    pub state: State,
    /// The put that is the object; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    /// All its files that may be shares, by generation and number: first those of the object.
    pub files: Vec<ShareFile>,
    /// Other puts of the key.
    pub other_puts: Vec<OtherPut>,
    /// The generation of its tombstone, if it was removed: every put up to this one is hidden.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional")]
    pub tombstone: Option<Generation>,
    /// Stores that could not be asked.
    pub stores_away: Vec<Rejected>,
}

/// The fields of an object's header that all its shares have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// When it was put, in seconds since 1970; in JSON as RFC 3339.
    #[serde(serialize_with = "json::date")]
    pub created: u64,
    /// Its media type.
    pub content_type: String,
    /// The digest of its bytes.
    #[serde(rename = "sha256", serialize_with = "json::text")]
    pub digest: Digest,
    /// What else its put said of it.
    #[serde(flatten, serialize_with = "json::metadata")]
    pub metadata: Metadata,
    /// The put that made it.
    #[serde(serialize_with = "json::text")]
    pub generation: Generation,
    /// The code that made its parity.
    #[serde(serialize_with = "json::text")]
    pub code: CodeKind,
    /// Shares that are needed.
    pub k: u16,
    /// Shares that there should be.
    pub n: u16,
    /// Different shares that there are.
    pub shares: usize,
    /// Numbers of those that are missing.
    pub missing: Vec<u16>,
    /// How many are left.
    pub health: Health,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Segments.
    pub segments: u64,
    /// Bytes of a leaf.
    pub leaf_bytes: u32,
    /// Bytes of each share file.
    pub share_file_bytes: u64,
}

/// What a file in an object's directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// A share of the object.
    Share,
    /// A second file of the same share.
    Copy,
    /// A share of an older put, or of one whose headers differ.
    Other,
    /// A share of a put that is not decided: it runs, or was interrupted.
    Undecided,
    /// A share that a tombstone hides.
    Removed,
    /// It can't be used.
    Rejected,
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FileState::Share => "share",
            FileState::Copy => "copy",
            FileState::Other => "other",
            FileState::Undecided => "undecided",
            FileState::Removed => "removed",
            FileState::Rejected => "rejected",
        })
    }
}

/// A file in an object's directory of a store.
#[derive(Debug, Serialize)]
pub struct ShareFile {
    /// What it is.
    pub state: FileState,
    /// Which share; `None` if its header can't be used.
    pub number: Option<u16>,
    /// Index of its store.
    pub store: usize,
    /// The store's directory.
    #[serde(serialize_with = "json::path")]
    pub store_path: PathBuf,
    /// Its path.
    #[serde(serialize_with = "json::path")]
    pub path: PathBuf,
    /// Its length in bytes, if it is a file.
    pub size: Option<u64>,
    /// The put that made it, if its header tells.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional")]
    pub generation: Option<Generation>,
    /// Why it can't be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A put of the key that is not the object.
#[derive(Debug, Serialize)]
pub struct OtherPut {
    /// Which.
    #[serde(serialize_with = "json::text")]
    pub generation: Generation,
    /// What its files are.
    pub state: FileState,
    /// Bytes of the object that it put.
    pub size: u64,
    /// When it was put, in seconds since 1970; in JSON as RFC 3339.
    #[serde(serialize_with = "json::date")]
    pub created: u64,
    /// Shares that are needed.
    pub k: u16,
    /// Shares that there should be.
    pub n: u16,
    /// Different shares that there are.
    pub shares: usize,
}

fn optional<S: serde::Serializer>(
    generation: &Option<Generation>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match generation {
        Some(generation) => json::text(generation, serializer),
        None => serializer.serialize_none(),
    }
}

/// Why nothing is known of an object.
#[derive(Debug, thiserror::Error)]
pub enum StatError {
    /// No store can be read.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// Too many files are open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Reads the headers of all files of an object in all stores. That there is no such object is no error.
///
/// # Errors
/// If no store can be read, or too many files are open.
pub fn stat(stores: &[Store], key: &Key) -> Result<ObjectStat, StatError> {
    allow_open_files(stores.len());
    store::check_stores(stores)?;
    let mut scan = store::scan(stores, key);
    if let Some(error) = scan.shortage(key.as_str()) {
        return Err(error.into());
    }
    let is_away = |rejected: &mut Rejected| matches!(rejected.reason, RejectReason::Away(_));
    let stores_away: Vec<_> = scan.rejected.extract_if(.., is_away).collect();
    let state = state(&scan);
    let mut stat = ObjectStat {
        key: key.clone(),
        state,
        object: None,
        files: Vec::new(),
        other_puts: Vec::new(),
        tombstone: scan.tombstone,
        stores_away,
    };
    let current = scan.chosen(false).unwrap_or(0);
    for (index, group) in scan.groups.iter().enumerate() {
        if index == current {
            stat.object = Some(object(group));
            stat.add_files(stores, group, FileState::Share);
        }
    }
    for (index, group) in scan.groups.iter().enumerate() {
        if index != current {
            stat.add_put(stores, group, FileState::Other);
        }
    }
    for group in &scan.undecided {
        stat.add_put(stores, group, FileState::Undecided);
    }
    for group in &scan.removed {
        stat.add_put(stores, group, FileState::Removed);
    }
    for rejected in &scan.rejected {
        let found = fs::symlink_metadata(&rejected.path).ok();
        stat.files.push(ShareFile {
            state: FileState::Rejected,
            number: None,
            store: rejected.store,
            store_path: path_of(stores, rejected.store),
            path: rejected.path.clone(),
            size: found.filter(fs::Metadata::is_file).map(|found| found.len()),
            generation: None,
            reason: Some(rejected.reason.to_string()),
        });
    }
    Ok(stat)
}

/// As [`store::choose`] judges.
fn state(scan: &Scan) -> State {
    let removed = scan.tombstone.is_some();
    if let Some(chosen) = scan.chosen(false) {
        let metadata = &scan.groups[chosen].header.metadata;
        match metadata.is_expired(date::now()) {
            true => State::Expired,
            false => State::Readable,
        }
    } else if !scan.groups.is_empty() || (!removed && !scan.rejected.is_empty()) {
        State::Unreadable
    } else if removed || scan.certain() {
        State::Absent
    } else {
        State::Unknown
    }
}

fn path_of(stores: &[Store], index: usize) -> PathBuf {
    let store = stores.get(index).map(Store::path);
    store.unwrap_or(Path::new("")).to_owned()
}

fn object(group: &Group) -> Object {
    let Header {
        content_type,
        geometry,
        code,
        digest,
        generation,
        created,
        metadata,
        ..
    } = &group.header;
    let (k, n, shares) = (geometry.k(), geometry.n(), group.distinct());
    let numbers = group.shares.iter().map(|share| share.number);
    Object {
        size: geometry.size(),
        created: *created,
        content_type: content_type.clone(),
        digest: *digest,
        metadata: metadata.clone(),
        generation: *generation,
        code: *code,
        k,
        n,
        shares,
        missing: missing(numbers, &group.header),
        health: Health::of(shares, k, n),
        block_bytes: geometry.block_bytes(),
        segments: geometry.segments(),
        leaf_bytes: geometry.leaf_bytes(),
        share_file_bytes: geometry.share_file_bytes(),
    }
}

/// Metadata as lines of names and values, each with its end.
pub(crate) struct Lines<'a>(pub(crate) &'a Metadata);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metadata = self.0;
        if let Some(crc) = metadata.crc64nvme_text() {
            writeln!(f, "crc64nvme     {crc}")?;
        }
        if let Some(expires) = metadata.expires {
            writeln!(f, "expires       {}", rfc3339(expires.get()))?;
        }
        for (name, value) in metadata.fields.iter() {
            writeln!(f, "field         {name}: {value}")?;
        }
        Ok(())
    }
}

impl ObjectStat {
    fn add_files(&mut self, stores: &[Store], group: &Group, state: FileState) {
        let mut last = None;
        for share in &group.shares {
            let again = last.replace(share.number) == Some(share.number);
            self.files.push(ShareFile {
                state: match state {
                    FileState::Share if again => FileState::Copy,
                    state => state,
                },
                number: Some(share.number),
                store: share.store,
                store_path: path_of(stores, share.store),
                path: share.path.clone(),
                // A file of another length would have been rejected.
                size: Some(group.header.geometry.share_file_bytes()),
                generation: Some(group.header.generation),
                reason: None,
            });
        }
    }

    fn add_put(&mut self, stores: &[Store], group: &Group, state: FileState) {
        let Header {
            geometry,
            generation,
            created,
            ..
        } = &group.header;
        self.other_puts.push(OtherPut {
            generation: *generation,
            state,
            size: geometry.size(),
            created: *created,
            k: geometry.k(),
            n: geometry.n(),
            shares: group.distinct(),
        });
        self.add_files(stores, group, state);
    }
}

impl fmt::Display for ObjectStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key           {}", self.key)?;
        write!(f, "state         {}", self.state)?;
        if let Some(object) = &self.object {
            let Object {
                size,
                created,
                content_type,
                digest,
                metadata,
                generation,
                code,
                k,
                n,
                shares,
                health,
                ..
            } = object;
            if *health != Health::Unreadable {
                write!(f, ", {health}")?;
            }
            writeln!(f, ": {shares} of {n} shares, {k} are needed")?;
            writeln!(f, "size          {}", Size(*size))?;
            writeln!(f, "created       {}", rfc3339(*created))?;
            writeln!(f, "content type  {content_type}")?;
            writeln!(f, "sha256        {digest}")?;
            write!(f, "{}", Lines(metadata))?;
            writeln!(f, "generation    {generation}")?;
            write!(f, "code          {code} {k}+{}", n - k)?;
        }
        for file in &self.files {
            let number = file
                .number
                .map_or("?".to_owned(), |number| number.to_string());
            let path: &Path = &file.path;
            write!(f, "\n{:<12} {number:>4}  {}", file.state, path.display())?;
            if let Some(reason) = &file.reason {
                write!(f, ": {reason}")?;
            }
        }
        for number in self.object.iter().flat_map(|object| &object.missing) {
            write!(f, "\n{:<12} {number:>4}", "missing")?;
        }
        for put in &self.other_puts {
            let OtherPut {
                generation,
                state,
                created,
                shares,
                n,
                ..
            } = put;
            let created = rfc3339(*created);
            write!(f, "\nother put     {generation}, {state}, of {created}: ")?;
            write!(f, "{shares} of {n} shares")?;
        }
        if let Some(tombstone) = &self.tombstone {
            write!(f, "\nremoved       up to generation {tombstone}")?;
        }
        for away in &self.stores_away {
            write!(f, "\naway          {away}")?;
        }
        Ok(())
    }
}
