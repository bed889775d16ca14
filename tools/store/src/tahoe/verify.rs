//! Verify: checks every block of every share of a file, every stored hash, and the ciphertext.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use bytesize::ByteSize;
use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{Cap, Hash, ProvenNodes};

use serde::Serialize;

use super::blocks::{Fault, Job, check_block, check_ciphertext, hash_blocks};
use super::get::open_allowed;
use super::open::{Limits, OpenError, OpenShare, open_quietly};
use super::reader::Reader;
use super::rejected::{RejectReason, Rejected};
use crate::json;
use crate::progress::Progress;
use crate::verify::Health;

/// The number of blocks hashed side by side.
const JOBS_MAX: usize = 32;
/// Bytes of one block that are read at once.
const WINDOW_BYTES: u64 = 64 << 10;

/// The file to verify, and the nodes.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// All nodes that may have shares.
    pub nodes: Vec<PathBuf>,
    /// The file's cap.
    pub cap: Cap,
    /// Limits on what an uploader's choices may cost.
    pub limits: Limits,
}

/// A finding about the file: damage, or something worth knowing.
#[derive(Debug, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// Damaged blocks of a share, or blocks whose hashes are damaged.
    BadBlocks {
        /// Which share.
        number: u16,
        /// The share file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
        /// The run of consecutive segments.
        segments: Range<u64>,
        /// The fault of the first one.
        reason: String,
    },
    /// A share's copy of the ciphertext hash tree is damaged. The copy of any other share serves as well.
    BadTree {
        /// Which share.
        number: u16,
        /// The share file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
        /// The run of consecutive segments.
        segments: Range<u64>,
        /// The fault of the first one.
        reason: String,
    },
    /// Segments that cannot be read.
    Lost {
        /// The run of consecutive segments.
        segments: Range<u64>,
        /// The fault of the first one.
        reason: String,
    },
    /// No good file has this share.
    MissingShare {
        /// Which share.
        number: u16,
    },
    /// A file or a node that is not used.
    Rejected(Rejected),
    /// A second file of the same share; harmless.
    Copy {
        /// Which share.
        number: u16,
        /// The second file.
        #[serde(serialize_with = "json::path")]
        path: PathBuf,
    },
}

impl Finding {
    /// Whether it is a note, and not damage.
    pub fn is_note(&self) -> bool {
        matches!(self, Finding::Copy { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |segments: &Range<u64>| match segments.end - segments.start {
            1 => format!("segment {}", segments.start),
            _ => format!("segments {}..{}", segments.start, segments.end),
        };
        match self {
            Finding::BadBlocks {
                number,
                path,
                segments,
                reason,
            } => {
                let (span, path) = (span(segments), path.display());
                write!(
                    f,
                    "share {number}: bad blocks in {span} of {path}: {reason}"
                )
            }
            Finding::BadTree {
                number,
                path,
                segments,
                reason,
            } => {
                let (span, path) = (span(segments), path.display());
                write!(
                    f,
                    "share {number}: bad ciphertext hashes for {span} in {path}: {reason}"
                )
            }
            Finding::Lost { segments, reason } => {
                write!(f, "{} cannot be read: {reason}", span(segments))
            }
            Finding::MissingShare { number } => write!(f, "share {number} is missing"),
            Finding::Rejected(rejected) => write!(f, "not used: {rejected}"),
            Finding::Copy { number, path } => {
                write!(
                    f,
                    "note: another copy of share {number}: {}",
                    path.display()
                )
            }
        }
    }
}

/// Totals of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The health of the file.
    pub health: Health,
    /// The number of different shares that have a file good in all its parts.
    pub good_shares: u16,
    /// The number of shares there should be; 0 for a literal file.
    pub shares: u16,
    /// Bytes of blocks that were read.
    pub bytes: u64,
    /// Blocks that were bad.
    pub bad_blocks: u64,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport {
            health,
            good_shares,
            shares,
            bytes,
            bad_blocks,
        } = self;
        if *shares == 0 {
            return write!(f, "{health}; the cap holds the file itself");
        }
        let bytes = ByteSize(*bytes).display().iec();
        write!(f, "{health}; {good_shares} of {shares} shares good; ")?;
        write!(f, "read {bytes}, {bad_blocks} bad blocks")
    }
}

/// Reads every block of every share, even after damage was found elsewhere. Calls `report` with each finding. Every
/// check starts at the root again, so that every stored hash is used, as a reader that starts in the middle would use
/// them. Memory is bounded as for get, with some KiB more for each share.
///
/// # Errors
/// If the file cannot be opened, so that no part of it can be read.
pub fn verify(
    options: &VerifyOptions,
    progress: &Progress,
    report: &mut dyn FnMut(Finding),
) -> Result<VerifyReport, OpenError> {
    let mut report = |finding| progress.suspend(|| report(finding));
    let cap = match &options.cap {
        Cap::Chk(cap) => cap,
        Cap::Lit(_) => {
            let health = Health::Healthy;
            return Ok(VerifyReport {
                health,
                good_shares: 0,
                shares: 0,
                bytes: 0,
                bad_blocks: 0,
            });
        }
    };
    let mut file = open_allowed(&options.nodes, cap, &options.limits, open_quietly)?;
    let mut damaged = false;
    for rejected in std::mem::take(&mut file.rejected) {
        damaged |= !matches!(rejected.reason, RejectReason::NodeMissing);
        report(Finding::Rejected(rejected));
    }
    for pair in file
        .shares
        .windows(2)
        .filter(|pair| pair[0].number == pair[1].number)
    {
        let (number, path) = (pair[1].number, pair[1].path.clone());
        report(Finding::Copy { number, path });
    }
    let geometry = file.geometry;
    progress.add_len(geometry.share_data_bytes() * file.shares.len() as u64);
    let mut states: Vec<State> = file
        .shares
        .iter()
        .map(|_| State {
            bad_blocks: Run::default(),
            bad_tree: Run::default(),
            good: true,
        })
        .collect();
    let mut checker = Checker::new();
    let mut reader = Reader::new(file).quiet();
    let mut lost = Run::default();
    let (mut bad_blocks, mut any_lost) = (0, false);
    for segment in 0..geometry.segments() {
        for (first, states) in states.chunks_mut(JOBS_MAX).enumerate() {
            let shares = first * JOBS_MAX..first * JOBS_MAX + states.len();
            let results = checker.check(&reader, shares, segment);
            progress.add(geometry.block_len(segment) * results.len() as u64);
            for (offset, result) in results.into_iter().enumerate() {
                let share = &reader.file().shares[first * JOBS_MAX + offset];
                let state = &mut states[offset];
                bad_blocks += u64::from(result.is_err());
                state.good &= result.is_ok();
                if let Some((segments, reason)) = state.bad_blocks.next(segment, result.err()) {
                    let (number, path) = (share.number, share.path.clone());
                    report(Finding::BadBlocks {
                        number,
                        path,
                        segments,
                        reason,
                    });
                }
            }
        }
        let read = reader.read_segment(segment, 0..0, &mut |_| Ok(()));
        if let Ok(hash) = read {
            for (share, state) in reader.file().shares.iter().zip(&mut states) {
                let mut fresh = ProvenNodes::new(geometry.tree(), reader.file().ciphertext_root);
                let checked = check_ciphertext(share, &mut fresh, segment, hash);
                state.good &= checked.is_ok();
                let fault = checked.err().map(|fault| fault.to_string());
                if let Some((segments, reason)) = state.bad_tree.next(segment, fault) {
                    let (number, path) = (share.number, share.path.clone());
                    report(Finding::BadTree {
                        number,
                        path,
                        segments,
                        reason,
                    });
                }
            }
        }
        any_lost |= read.is_err();
        if let Some((segments, reason)) = lost.next(segment, read.err().map(|e| e.to_string())) {
            report(Finding::Lost { segments, reason });
        }
    }
    let mut good = BTreeSet::new();
    for (share, mut state) in reader.file().shares.iter().zip(states) {
        let (number, path) = (share.number, &share.path);
        if let Some((segments, reason)) = state.bad_blocks.take() {
            report(Finding::BadBlocks {
                number,
                path: path.clone(),
                segments,
                reason,
            });
        }
        if let Some((segments, reason)) = state.bad_tree.take() {
            report(Finding::BadTree {
                number,
                path: path.clone(),
                segments,
                reason,
            });
        }
        damaged |= !state.good;
        if state.good {
            good.insert(number);
        }
    }
    if let Some((segments, reason)) = lost.take() {
        report(Finding::Lost { segments, reason });
    }
    let present = |number: &u16| {
        reader
            .file()
            .shares
            .iter()
            .any(|share| share.number == *number)
    };
    for number in (0..geometry.n()).filter(|number| !present(number)) {
        damaged = true;
        report(Finding::MissingShare { number });
    }
    Ok(VerifyReport {
        health: match (any_lost, damaged) {
            (true, _) => Health::Unreadable,
            (false, true) => Health::Damaged,
            (false, false) => Health::Healthy,
        },
        good_shares: good.len() as u16,
        shares: geometry.n(),
        bytes: geometry.share_data_bytes() * reader.file().shares.len() as u64,
        bad_blocks,
    })
}

/// The state of one share.
struct State {
    bad_blocks: Run,
    bad_tree: Run,
    /// Whether no fault was found so far.
    good: bool,
}

/// Consecutive segments with a fault, reported as one finding.
#[derive(Default)]
struct Run(Option<(Range<u64>, String)>);

impl Run {
    /// Continues with `segment`. Returns the run that ended before it, if one did.
    fn next(&mut self, segment: u64, fault: Option<String>) -> Option<(Range<u64>, String)> {
        match (&mut self.0, fault) {
            (Some((segments, _)), Some(_)) => {
                segments.end = segment + 1;
                None
            }
            (None, Some(fault)) => {
                self.0 = Some((segment..segment + 1, fault));
                None
            }
            (_, None) => self.0.take(),
        }
    }

    fn take(&mut self) -> Option<(Range<u64>, String)> {
        self.0.take()
    }
}

/// Hashes blocks of several shares at once.
struct Checker {
    lanes: Lanes,
    areas: Vec<u8>,
}

impl Checker {
    fn new() -> Checker {
        Checker {
            lanes: Lanes::new(JOBS_MAX),
            areas: Vec::new(),
        }
    }

    /// The faults of one segment's blocks in several shares.
    fn check(
        &mut self,
        reader: &Reader,
        shares: Range<usize>,
        segment: u64,
    ) -> Vec<Result<(), String>> {
        let file = reader.file();
        let block_len = file.geometry.block_len(segment);
        let window = WINDOW_BYTES.min(block_len);
        self.areas.resize(JOBS_MAX * window as usize, 0);
        let shares = &file.shares[shares];
        let areas = self.areas.chunks_mut(window as usize);
        let mut jobs: Vec<Job<'_>> = shares
            .iter()
            .zip(areas)
            .map(|(share, area)| Job {
                share,
                segment,
                area,
            })
            .collect();
        let hashes = hash_blocks(
            &mut self.lanes,
            &mut jobs,
            block_len,
            window,
            &mut |_, _| (),
        );
        let check = |(hash, share): (Result<Hash, Fault>, &OpenShare)| {
            let mut fresh = ProvenNodes::new(file.geometry.tree(), share.block_root);
            let checked = hash.and_then(|hash| check_block(share, &mut fresh, segment, hash));
            checked.map_err(|fault| fault.to_string())
        };
        hashes.into_iter().zip(shares).map(check).collect()
    }
}
