//! Reads all leaves of all shares of a put. `verify` reports the findings, and `repair` acts on
//! them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use decode_kernel::share::{BLOCKS_OFFSET, Generation, Header, Key, PAGE_BYTES};
use serde::Serialize;

use crate::count::Count;
use crate::date::{now, rfc3339};
use crate::json;
use crate::progress::Progress;
use crate::rows::{Rows, ShareReader, prefetch};
use crate::store::{Rejected, Scan};

/// Bytes of one share that are read at once; one leaf if a leaf is longer.
const WINDOW_BYTES: u64 = 1 << 20;

/// What a finding or an action is about. Displays as it is printed: a key that could pass for something else is quoted
/// and escaped. Empty for the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A store, or what lies in it.
    Stores,
    /// The directory below `objects` of an object none of whose shares tells its key.
    Directory(String),
    /// An object.
    Object(Key),
}

impl Subject {
    /// The key or the directory as it is; empty for the stores.
    pub fn as_str(&self) -> &str {
        match self {
            Subject::Stores => "",
            Subject::Directory(dir) => dir,
            Subject::Object(key) => key.as_str(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Stores => Ok(()),
            Subject::Directory(dir) => f.write_str(dir),
            Subject::Object(key) => key.fmt(f),
        }
    }
}

/// A finding about one object: damage, or something worth knowing.
#[derive(Debug, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// Leaves that do not match their checksums, or cannot be read.
    BadLeaves {
        /// Which share.
        number: u16,
        /// Index of its store.
        store: usize,
        /// The share file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
        /// The run of consecutive leaves.
        leaves: Range<u64>,
        /// Their byte range in the file.
        offsets: Range<u64>,
    },
    /// A page of the table of leaf checksums is damaged, so that the leaves it covers cannot be
    /// verified.
    BadTablePage {
        /// Which share.
        number: u16,
        /// Index of its store.
        store: usize,
        /// The share file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
        /// Which page.
        page: u64,
        /// Its byte offset in the file.
        offset: u64,
        /// The leaves whose checksums it holds.
        leaves: Range<u64>,
    },
    /// No good file has this share.
    MissingShare {
        /// Which share.
        number: u16,
    },
    /// A store or file that cannot be used.
    Rejected(Rejected),
    /// A second file of the same share; harmless.
    Copy {
        /// Which share.
        number: u16,
        /// The second file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
    },
    /// Shares of an older put, which the next repair removes; harmless.
    Older {
        /// Which put.
        #[serde(serialize_with = "json::text")]
        generation: Generation,
        /// The number of files.
        shares: usize,
    },
    /// Shares of a put that was not decided: it runs, or was interrupted; harmless.
    Undecided {
        /// Which put.
        #[serde(serialize_with = "json::text")]
        generation: Generation,
        /// The number of files.
        shares: usize,
    },
    /// Files of a removed object, which the next repair removes; harmless.
    Removed {
        /// The number of files.
        files: usize,
    },
    /// The object has expired: it is as if it were not there, and the next repair removes it; harmless.
    Expired {
        /// When, in seconds since 1970; in JSON as RFC 3339.
        #[serde(serialize_with = "json::date")]
        at: u64,
    },
    /// An older put that can be read where the newest can't.
    OlderReadable {
        /// Which put.
        #[serde(serialize_with = "json::text")]
        generation: Generation,
    },
    /// Too few shares: nothing of the object can be read.
    TooFewShares {
        /// Different shares found of the newest put.
        have: usize,
        /// Its k.
        need: usize,
    },
    /// Rows in which fewer than k leaves are good. These bytes of the blocks cannot be read.
    LostRows {
        /// Which leaves of every share.
        leaves: Range<u64>,
        /// Bytes in share space; add 4096 for offsets in the files.
        range: Range<u64>,
    },
    /// Every leaf matches its checksum, but the object does not match its digest.
    Digest {
        /// Both digests.
        reason: String,
    },
    /// A file or directory of a store that is none of its own; harmless.
    Stray {
        /// Index of its store.
        store: usize,
        /// Its path.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
    },
}

impl Finding {
    /// Whether it is a note, and not damage.
    pub fn is_note(&self) -> bool {
        matches!(
            self,
            Finding::Copy { .. }
                | Finding::Older { .. }
                | Finding::Undecided { .. }
                | Finding::Removed { .. }
                | Finding::Expired { .. }
                | Finding::OlderReadable { .. }
                | Finding::Stray { .. }
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::BadLeaves {
                number,
                store,
                path,
                leaves,
                offsets,
            } => write!(
                f,
                "share {number} in store {store}: bad {} at bytes {}..{} of {}",
                Leaves(leaves),
                offsets.start,
                offsets.end,
                path.display()
            ),
            Finding::BadTablePage {
                number,
                store,
                path,
                page,
                offset,
                leaves,
            } => write!(
                f,
                "share {number} in store {store}: damaged page {page} of the leaf table at byte \
                 {offset} of {}: {} cannot be verified",
                path.display(),
                Leaves(leaves)
            ),
            Finding::MissingShare { number } => write!(f, "share {number} is missing"),
            Finding::Rejected(rejected) => {
                write!(f, "not used, in store {}: {rejected}", rejected.store)
            }
            Finding::Copy { number, path } => {
                write!(
                    f,
                    "note: another copy of share {number}: {}",
                    path.display()
                )
            }
            Finding::Older { generation, shares } => {
                let shares = Count(*shares, "share");
                write!(f, "note: {shares} of an older put, {generation}")
            }
            Finding::Undecided { generation, shares } => write!(
                f,
                "note: {} of a put that runs or was interrupted, {generation}",
                Count(*shares, "share")
            ),
            Finding::Removed { files } => {
                write!(f, "note: {} of a removed object", Count(*files, "file"))
            }
            Finding::Expired { at } => write!(
                f,
                "note: it expired at {}, and the next repair removes it",
                rfc3339(*at)
            ),
            Finding::OlderReadable { generation } => write!(
                f,
                "note: an older put, {generation}, can be read with --allow-stale"
            ),
            Finding::TooFewShares { have, need } => {
                let verb = if *have == 1 { "is" } else { "are" };
                let have = Count(*have, "share");
                write!(f, "UNREADABLE: {have} {verb} left, {need} are needed")
            }
            Finding::LostRows { leaves, range } => write!(
                f,
                "UNREADABLE: too few shares are good in {}, bytes {}..{} of their blocks",
                Leaves(leaves),
                range.start,
                range.end
            ),
            Finding::Digest { reason } => write!(f, "UNREADABLE: {reason}"),
            Finding::Stray { store, path } => write!(
                f,
                "note: not of this program, in store {store}: {}",
                path.display()
            ),
        }
    }
}

/// "leaf 3", "leaves 3 to 7".
struct Leaves<'a>(&'a Range<u64>);

impl fmt::Display for Leaves<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.end - self.0.start {
            1 => write!(f, "leaf {}", self.0.start),
            _ => write!(f, "leaves {} to {}", self.0.start, self.0.end - 1),
        }
    }
}

/// Reports the findings that headers and directories alone give. `chosen` is the group that a
/// reader would use.
pub(crate) fn report_scan(scan: &Scan, chosen: Option<usize>, report: &mut dyn FnMut(Finding)) {
    let need = |header: &Header| usize::from(header.geometry.k());
    for undecided in &scan.undecided {
        let generation = undecided.header.generation;
        report(Finding::Undecided {
            generation,
            shares: undecided.shares.len(),
        });
    }
    let files = scan.removed.iter().map(|group| group.shares.len()).sum();
    if files > 0 {
        report(Finding::Removed { files });
    }
    let Some(chosen) = chosen else {
        if let Some(newest) = scan.groups.first() {
            report(Finding::TooFewShares {
                have: newest.distinct(),
                need: need(&newest.header),
            });
        }
        if let Some(older) = scan.chosen(true) {
            let generation = scan.groups[older].header.generation;
            report(Finding::OlderReadable { generation });
        }
        return;
    };
    let metadata = &scan.groups[chosen].header.metadata;
    if let Some(at) = metadata.expires.filter(|_| metadata.is_expired(now())) {
        report(Finding::Expired { at: at.get() });
    }
    for older in &scan.groups[chosen + 1..] {
        let generation = older.header.generation;
        report(Finding::Older {
            generation,
            shares: older.shares.len(),
        });
    }
    let shares = &scan.groups[chosen].shares;
    for pair in shares
        .windows(2)
        .filter(|pair| pair[0].number == pair[1].number)
    {
        report(Finding::Copy {
            number: pair[1].number,
            path: pair[1].path.clone(),
        });
    }
    for number in missing(
        shares.iter().map(|share| share.number),
        &scan.groups[chosen].header,
    ) {
        report(Finding::MissingShare { number });
    }
}

/// The share numbers below n that `present` lacks.
pub(crate) fn missing(present: impl Iterator<Item = u16>, header: &Header) -> Vec<u16> {
    let present: BTreeSet<u16> = present.collect();
    (0..header.geometry.n())
        .filter(|number| !present.contains(number))
        .collect()
}

/// The result of [`check_leaves`].
pub(crate) struct Checked {
    /// Numbers of shares with bad leaves or table pages (in the first file of that number).
    pub(crate) damaged: BTreeSet<u16>,
    /// Bad leaves in all files.
    pub(crate) bad_leaves: u64,
    /// Whether some row has fewer than k good leaves.
    pub(crate) lost: bool,
    /// The fewest different shares that are good in one row.
    pub(crate) least: u16,
}

/// Consecutive leaves that are bad for the same reason.
#[derive(Clone)]
struct BadRun {
    leaves: Range<u64>,
    /// The damaged table page, if the page is the reason.
    page: Option<u64>,
}

/// Reads every leaf of every file and reports bad leaves, one finding for each run of them. Takes 1
/// MiB of memory, or one leaf if that is longer, and a few bytes for each share; for a share in a bucket as much again.
pub(crate) fn check_leaves(
    rows: &mut Rows,
    progress: &Progress,
    report: &mut dyn FnMut(Finding),
) -> Checked {
    let Rows {
        header, readers, ..
    } = rows;
    let geometry = header.geometry;
    let leaf_bytes = u64::from(geometry.leaf_bytes());
    let window_leaves = (WINDOW_BYTES / leaf_bytes).max(1);
    let mut checked = Checked {
        damaged: BTreeSet::new(),
        bad_leaves: 0,
        lost: false,
        least: readers
            .chunk_by(|a, b| a.share.number == b.share.number)
            .count() as u16,
    };
    let mut runs: Vec<Option<BadRun>> = vec![None; readers.len()];
    let mut lost: Option<Range<u64>> = None;
    let mut buffer = vec![0; (window_leaves * leaf_bytes) as usize];
    let mut good = vec![false; window_leaves as usize];

    for first in (0..geometry.leaves()).step_by(window_leaves as usize) {
        let leaves = (geometry.leaves() - first).min(window_leaves) as usize;
        let start = first * leaf_bytes;
        let len = (geometry.share_bytes() - start).min(buffer.len() as u64) as usize;
        // For each row: the number of good shares, and the share counted last. Copies of one share
        // follow each other, so a share counts once.
        let mut rows: Vec<(u16, Option<u16>)> = vec![(0, None); leaves];
        prefetch(readers, &(start..start + len as u64), |_| true);
        for (i, reader) in readers.iter_mut().enumerate() {
            let number = reader.share.number;
            checked.bad_leaves +=
                reader.read(header, start, &mut buffer[..len], &mut good[..leaves]);
            for (leaf, (good, row)) in (first..).zip(good.iter().zip(&mut rows)) {
                if *good {
                    if row.1 != Some(number) {
                        *row = (row.0 + 1, Some(number));
                    }
                    continue;
                }
                let (page, _) = geometry.table_page_of(leaf);
                let page = reader.table_page(header, page).is_none().then_some(page);
                match &mut runs[i] {
                    Some(run) if run.leaves.end == leaf && run.page == page => run.leaves.end += 1,
                    run => {
                        let done = run.replace(BadRun {
                            leaves: leaf..leaf + 1,
                            page,
                        });
                        done.into_iter()
                            .for_each(|done| report(bad_leaves_finding(reader, header, done)));
                    }
                }
            }
            progress.add(len as u64);
        }
        let least = rows.iter().map(|row| row.0);
        checked.least = least.fold(checked.least, u16::min);
        for (leaf, _) in (first..).zip(&rows).filter(|(_, row)| row.0 < geometry.k()) {
            match &mut lost {
                Some(run) if run.end == leaf => run.end += 1,
                run => {
                    let done = run.replace(leaf..leaf + 1);
                    done.into_iter()
                        .for_each(|done| report(lost_rows(header, done)));
                    checked.lost = true;
                }
            }
        }
        for (i, reader) in readers.iter().enumerate() {
            if runs[i].is_some() && (i == 0 || readers[i - 1].share.number != reader.share.number) {
                checked.damaged.insert(reader.share.number);
            }
        }
    }
    for (reader, run) in readers.iter().zip(runs) {
        run.into_iter()
            .for_each(|run| report(bad_leaves_finding(reader, header, run)));
    }
    lost.into_iter()
        .for_each(|run| report(lost_rows(header, run)));
    checked
}

fn bad_leaves_finding(reader: &ShareReader, header: &Header, run: BadRun) -> Finding {
    let geometry = &header.geometry;
    let (number, store, path) = (
        reader.share.number,
        reader.share.store,
        reader.share.path.clone(),
    );
    let leaves = run.leaves;
    match run.page {
        Some(page) => {
            let offset = geometry.table_offset() + page * PAGE_BYTES as u64;
            Finding::BadTablePage {
                number,
                store,
                path,
                page,
                offset,
                leaves,
            }
        }
        None => {
            let range = share_space_range(header, &leaves);
            let offsets = BLOCKS_OFFSET + range.start..BLOCKS_OFFSET + range.end;
            Finding::BadLeaves {
                number,
                store,
                path,
                leaves,
                offsets,
            }
        }
    }
}

fn lost_rows(header: &Header, leaves: Range<u64>) -> Finding {
    let range = share_space_range(header, &leaves);
    Finding::LostRows { leaves, range }
}

/// The range of share space that consecutive leaves cover.
fn share_space_range(header: &Header, leaves: &Range<u64>) -> Range<u64> {
    let geometry = &header.geometry;
    geometry.leaf_range(leaves.start).start..geometry.leaf_range(leaves.end - 1).end
}
