//! Ls: lists the objects in the stores, from the headers of their shares.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytesize::ByteSize;
use decode_kernel::code::CodeKind;
use decode_kernel::share::{Digest, Generation, Header, Key, Metadata};
use serde::Serialize;

use crate::date::{self, rfc3339};
use crate::error::FileError;
use crate::json;
use crate::store::{
    self, Found, Group, OpenError, Presence, RejectReason, Rejected, Store, StoreError,
};
use crate::temp::allow_open_files;
use crate::walk::{Step, Walk};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct LsOptions {
    /// All stores that may have shares.
    pub stores: Vec<Store>,
    /// Only objects whose keys begin like this.
    pub prefix: String,
}

/// How many of an object's shares are left, judged by names and headers alone. Ordered from best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// All n.
    Healthy,
    /// Some are missing, and more than k are there.
    Degraded,
    /// Some are missing, and exactly k are there: with the next one the object is lost.
    AtRisk,
    /// Fewer than k.
    Unreadable,
}

impl Health {
    pub(crate) fn of(shares: usize, k: u16, n: u16) -> Health {
        match shares {
            _ if shares >= usize::from(n) => Health::Healthy,
            _ if shares > usize::from(k) => Health::Degraded,
            _ if shares == usize::from(k) => Health::AtRisk,
            _ => Health::Unreadable,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::AtRisk => "at-risk",
            Health::Unreadable => "unreadable",
        })
    }
}

/// An object, as its headers describe it. Takes about 200 bytes, and those of the key and of header fields. Displays as a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    #[serde(serialize_with = "json::key")]
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// When it was put, in seconds since 1970; in JSON as RFC 3339.
    #[serde(serialize_with = "json::date")]
    pub created: u64,
    /// The code that made its parity.
    #[serde(serialize_with = "json::text")]
    pub code: CodeKind,
    /// Shares that are needed.
    pub k: u16,
    /// Shares that there should be.
    pub n: u16,
    /// Different shares that there are.
    pub shares: usize,
    /// How many are left.
    pub health: Health,
    /// Its media type.
    #[serde(serialize_with = "json::text")]
    pub content_type: Arc<str>,
    /// The digest of its bytes.
    #[serde(rename = "sha256", serialize_with = "json::text")]
    pub digest: Digest,
    /// The put that made it.
    #[serde(serialize_with = "json::text")]
    pub generation: Generation,
    /// Share files of older puts.
    pub other_puts: usize,
    /// Whether it has expired: it is as if it were not there, and a repair removes it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    /// What else its put said of it.
    #[serde(flatten, serialize_with = "json::metadata")]
    pub metadata: Metadata,
}

impl Entry {
    /// The entry as a longer line: with the date, exact bytes, generation and digest.
    pub fn long(&self) -> impl fmt::Display + '_ {
        Long(self)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry {
            key,
            code,
            k,
            n,
            shares,
            health,
            other_puts,
            expired,
            ..
        } = self;
        let size = ByteSize(self.size).display().iec().to_string();
        write!(f, "{size:>10}  {health:<10}  {code} {k}+{}", n - k)?;
        write!(f, "  {shares:>2}/{n} shares  {key}")?;
        if *other_puts > 0 {
            write!(f, "  ({other_puts} shares of other puts)")?;
        }
        if *expired {
            write!(f, "  (expired)")?;
        }
        Ok(())
    }
}

struct Long<'a>(&'a Entry);

impl fmt::Display for Long<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry {
            key,
            size,
            created,
            code,
            k,
            n,
            shares,
            health,
            digest,
            generation,
            expired,
            metadata,
            ..
        } = self.0;
        let created = rfc3339(*created);
        write!(
            f,
            "{created}  {size:>14}  {health:<10}  {code} {k}+{}",
            n - k
        )?;
        write!(f, "  {shares:>2}/{n} shares  {generation}  {digest}  {key}")?;
        if let Some(expires) = metadata.expires {
            let word = if *expired { "expired" } else { "expires" };
            write!(f, "  ({word} {})", rfc3339(expires.get()))?;
        }
        for (name, value) in metadata.fields.iter() {
            write!(f, "  ({name}: {value})")?;
        }
        Ok(())
    }
}

/// An object, or the remains of one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Listed {
    /// An object with at least one good header: the put that a reader would use; the newest put, if none is readable.
    Object(Entry),
    /// A directory whose share files all have bad headers, so that its key is unknown.
    Unusable {
        /// The directory below `objects`.
        directory: String,
        /// [`Health::Unreadable`].
        health: Health,
        /// The problem of each file.
        rejected: Vec<Rejected>,
    },
}

impl Listed {
    /// Its place in the order: objects by key, then what has none.
    fn place(&self) -> (bool, &str) {
        match self {
            Listed::Object(entry) => (false, entry.key.as_str()),
            Listed::Unusable { directory, .. } => (true, directory),
        }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listed::Object(entry) => entry.fmt(f),
            Listed::Unusable {
                directory,
                health,
                rejected,
            } => {
                write!(f, "{:>10}  {health:<10}  no usable share in ", "?")?;
                write!(f, "objects/{directory}")?;
                rejected
                    .iter()
                    .try_for_each(|rejected| write!(f, "; {rejected}"))
            }
        }
    }
}

/// What a store could not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its directory.
    pub store: PathBuf,
    /// What is wrong, or the first of it.
    pub reason: String,
    /// How much more is wrong.
    pub more: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more in store {}", self.store.display()),
        }
    }
}

/// The objects in the stores.
#[derive(Debug)]
pub struct Listing {
    /// Sorted by key; those without one come last, and not where a prefix was asked for.
    pub objects: Vec<Listed>,
    /// Stores that are away, and those that could not be read in part.
    pub problems: Vec<Problem>,
    /// Whether no object can be missing in the list: everything could be read, and fewer stores are away than any object
    /// has shares. Shares in stores that are away are missing in the objects' numbers all the same.
    pub complete: bool,
}

/// Why nothing was listed.
#[derive(Debug, thiserror::Error)]
pub enum LsError {
    /// No store can be read.
    #[error(transparent)]
    Stores(#[from] StoreError),
    /// Too many files are open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Not returned: a walk without cursor writes nothing.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Lists the objects in the stores, sorted by key. Removed objects and puts that are not decided are none. Opens the
/// shares of one object at a time, reads their headers and closes them. Holds an [`Entry`] for each object: about 250
/// MB for a million.
///
/// # Errors
/// If none of the stores can be read, or too many files are open.
pub fn ls(options: &LsOptions) -> Result<Listing, LsError> {
    let stores = &options.stores;
    allow_open_files(stores.len());
    store::check_stores(stores)?;
    let mut list = List {
        stores,
        prefix: &options.prefix,
        objects: Vec::new(),
        content_types: HashSet::new(),
        problems: BTreeMap::new(),
    };
    let walk = Walk::default();
    walk.go(stores, &walk.pace(), &mut |step| {
        match step {
            Step::Object(found) => list.add(found)?,
            Step::Stray(..) => {}
            Step::Unlisted(rejected) => list.note(&rejected),
        }
        Ok::<_, LsError>(())
    })?;
    Ok(list.finish())
}

/// A list that is being made.
struct List<'a> {
    stores: &'a [Store],
    prefix: &'a str,
    objects: Vec<Listed>,
    /// Each once, since most objects share them.
    content_types: HashSet<Arc<str>>,
    /// By store: the first problem, and the number of others.
    problems: BTreeMap<usize, (String, usize)>,
}

impl List<'_> {
    fn add(&mut self, found: &Found) -> Result<(), OpenError> {
        let dir = found.dir.as_str();
        let mut scan = store::scan_found(self.stores, found);
        let name = scan.key().map_or(dir, Key::as_str);
        if let Some(error) = scan.shortage(name) {
            return Err(error);
        }
        // Stores that are away are told once for all objects.
        scan.forget_stores_away();
        for rejected in &scan.rejected {
            if matches!(rejected.reason, RejectReason::Io(_)) {
                self.note(rejected);
            }
        }
        let Some(group) = scan.groups.get(scan.chosen(false).unwrap_or(0)) else {
            // An interrupted put of a new key leaves an empty directory, a removal its tombstone.
            if !scan.rejected.is_empty() && self.prefix.is_empty() {
                self.objects.push(Listed::Unusable {
                    directory: dir.to_owned(),
                    health: Health::Unreadable,
                    rejected: scan.rejected,
                });
            }
            return Ok(());
        };
        if !group.header.key.as_str().starts_with(self.prefix) {
            return Ok(());
        }
        let all: usize = scan.groups.iter().map(|group| group.shares.len()).sum();
        let other_puts = all - group.shares.len();
        let mut content_type = |text: &str| {
            if let Some(known) = self.content_types.get(text) {
                return Arc::clone(known);
            }
            let new: Arc<str> = text.into();
            self.content_types.insert(Arc::clone(&new));
            new
        };
        let content_type = content_type(&group.header.content_type);
        let entry = entry(group, content_type, other_puts);
        self.objects.push(Listed::Object(entry));
        Ok(())
    }

    fn note(&mut self, rejected: &Rejected) {
        let text = || (rejected.to_string(), 0);
        self.problems
            .entry(rejected.store)
            .and_modify(|(_, more)| *more += 1)
            .or_insert_with(text);
    }

    fn finish(mut self) -> Listing {
        let mut complete = self.problems.is_empty();
        let (mut away, mut least) = (0, None::<u16>);
        for (index, store) in self.stores.iter().enumerate() {
            match store::presence(store) {
                Presence::Marked(marker) => {
                    least = least.into_iter().chain(marker.least_shares).min();
                }
                Presence::Unmarked(_) => {}
                Presence::Absent(error) => {
                    away += 1;
                    self.problems.insert(index, (error.to_string(), 0));
                }
            }
        }
        // As for one object: where the stores don't tell how few shares one has, most of them must be here.
        complete &= match least {
            _ if away == 0 => true,
            Some(least) => away < usize::from(least),
            None => away * 2 < self.stores.len(),
        };
        // In place: a million objects are many bytes.
        self.objects
            .sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        let problem = |(store, (reason, more)): (usize, _)| Problem {
            store: self.stores[store].path().to_owned(),
            reason,
            more,
        };
        Listing {
            objects: self.objects,
            problems: self.problems.into_iter().map(problem).collect(),
            complete,
        }
    }
}

fn entry(group: &Group, content_type: Arc<str>, other_puts: usize) -> Entry {
    let Header {
        key,
        geometry,
        code,
        digest,
        generation,
        created,
        metadata,
        ..
    } = &group.header;
    let (k, n, shares) = (geometry.k(), geometry.n(), group.distinct());
    Entry {
        key: key.clone(),
        size: geometry.size(),
        created: *created,
        code: *code,
        k,
        n,
        shares,
        health: Health::of(shares, k, n),
        content_type,
        digest: *digest,
        generation: *generation,
        other_puts,
        expired: metadata.is_expired(date::now()),
        metadata: metadata.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_from_numbers() {
        let of = |shares| Health::of(shares, 4, 6);
        assert_eq!(of(6), Health::Healthy);
        assert_eq!(of(5), Health::Degraded);
        assert_eq!(of(4), Health::AtRisk);
        assert_eq!(of(3), Health::Unreadable);
        // Without parity nothing is missing, as long as all are there.
        assert_eq!(Health::of(3, 3, 3), Health::Healthy);
        assert_eq!(Health::of(2, 3, 3), Health::Unreadable);
    }

    #[test]
    fn what_is_listed_is_small() {
        // A million objects are held at once.
        assert!(size_of::<Listed>() <= 200, "{}", size_of::<Listed>());
    }
}
