//! Verify: reads all shares of one object or of all, and reports what is damaged or missing.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytesize::ByteSize;
use decode_kernel::share::Key;

use crate::check::{Finding, check_leaves, report_scan};
use crate::get::read_object;
use crate::progress::Progress;
use crate::rows::Rows;
use crate::store::{self, OpenError, Presence, RejectReason, Rejected, Scan, StoreError};
use crate::temp::allow_open_files;

/// The objects to verify, and the stores.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// All stores that may have shares.
    pub stores: Vec<PathBuf>,
    /// One object, or all if `None`.
    pub key: Option<Key>,
    /// Whether to check the digest of the whole object too, which reads the data a second time.
    /// Only the digest finds shares that match their checksums but were made wrongly.
    pub digest: bool,
}

/// The health of one object, or the worst of several. Ordered from best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// All n shares are there and good.
    Healthy,
    /// It can be read, but shares are missing or damaged.
    Damaged,
    /// Some of it cannot be read.
    Unreadable,
}

impl Health {
    /// The exit code of `penstock verify`: 0, 1, 2.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Healthy => "healthy",
            Health::Damaged => "damaged, but readable",
            Health::Unreadable => "unreadable",
        })
    }
}

/// Totals of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Objects with all n shares good.
    pub healthy: u64,
    /// Objects that can be read, but should be repaired.
    pub damaged: u64,
    /// Objects of which at least a part cannot be read.
    pub unreadable: u64,
    /// Bytes of blocks that were read.
    pub bytes: u64,
    /// Leaves that were bad.
    pub bad_leaves: u64,
}

impl VerifyReport {
    /// The health of the worst object; healthy if there is no object.
    pub fn health(&self) -> Health {
        match self {
            VerifyReport {
                unreadable: 1.., ..
            } => Health::Unreadable,
            VerifyReport { damaged: 1.., .. } => Health::Damaged,
            _ => Health::Healthy,
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport {
            healthy,
            damaged,
            unreadable,
            bytes,
            bad_leaves,
        } = self;
        write!(
            f,
            "{healthy} healthy, {damaged} damaged, {unreadable} unreadable; "
        )?;
        write!(
            f,
            "read {}, {bad_leaves} bad leaves",
            ByteSize(*bytes).display().iec()
        )
    }
}

/// Reads every share of one object or of all. Calls `report` with each finding and the object's
/// name: the name of its directory if no share tells the key, and an empty name for a finding about
/// a store.
///
/// # Errors
/// If the object asked for does not exist, or if no store can be read.
pub fn verify(
    options: &VerifyOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&str, Finding),
) -> Result<VerifyReport, VerifyError> {
    allow_open_files(options.stores.len());
    store::check_stores(&options.stores)?;
    for (store, path) in options.stores.iter().enumerate() {
        if let Presence::Absent(error) = store::presence(path) {
            let reason = RejectReason::Away(error.reason());
            let path = path.clone();
            report(
                "",
                Finding::Rejected(Rejected {
                    store,
                    path,
                    reason,
                }),
            );
        }
    }
    let mut sum = VerifyReport::default();
    match &options.key {
        Some(key) => {
            let look = || store::scan(&options.stores, key);
            if verify_object(&look, key.as_str(), options, progress, &mut sum, report).is_none() {
                return Err(store::choose(&options.stores, key, false)
                    .map(drop)
                    .expect_err("nothing there")
                    .into());
            }
        }
        None => {
            for dir in store::object_dirs(&options.stores) {
                let look = || store::scan_dir(&options.stores, &dir, None);
                verify_object(&look, &dir, options, progress, &mut sum, report);
            }
        }
    }
    Ok(sum)
}

/// Why nothing was verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no such object.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No store can be read.
    #[error(transparent)]
    Stores(#[from] StoreError),
}

/// How often an object that a put or repair changes meanwhile is looked at.
const LOOKS_MAX: usize = 3;

/// Verifies the object that `look` finds; `None` if there is none. What looks like damage while the object is being
/// replaced is looked at again.
fn verify_object(
    look: &dyn Fn() -> Scan,
    name: &str,
    options: &VerifyOptions,
    progress: &Progress,
    sum: &mut VerifyReport,
    report: &mut dyn FnMut(&str, Finding),
) -> Option<Health> {
    let mut turn = 0;
    loop {
        turn += 1;
        let scan = look();
        let before = scan.fingerprint().to_vec();
        let key = scan.key().cloned();
        let (mut findings, mut found) = (Vec::new(), VerifyReport::default());
        let health = verify_once(scan, options, progress, &mut found, &mut |finding| {
            findings.push(finding);
        });
        let harmless = matches!(health, None | Some(Health::Healthy));
        if !harmless && turn < LOOKS_MAX && look().fingerprint() != before {
            continue;
        }
        let name = key.as_ref().map_or(name, Key::as_str);
        for finding in findings {
            progress.suspend(|| report(name, finding));
        }
        match health? {
            Health::Healthy => sum.healthy += 1,
            Health::Damaged => sum.damaged += 1,
            Health::Unreadable => sum.unreadable += 1,
        }
        sum.bytes += found.bytes;
        sum.bad_leaves += found.bad_leaves;
        return health;
    }
}

fn verify_once(
    mut scan: Scan,
    options: &VerifyOptions,
    progress: &Progress,
    sum: &mut VerifyReport,
    report: &mut dyn FnMut(Finding),
) -> Option<Health> {
    // Stores that are away were reported once for all objects.
    scan.forget_stores_away();
    let chosen = scan.chosen(false);
    report_scan(&scan, chosen, report);
    let damaged = !scan.rejected.is_empty();
    std::mem::take(&mut scan.rejected)
        .into_iter()
        .map(Finding::Rejected)
        .for_each(&mut *report);
    match chosen {
        Some(chosen) => Some(verify_shares(scan, chosen, options, progress, sum, report)),
        // A removed object, or one that is just being put, is none.
        None if scan.groups.is_empty() && !damaged => None,
        None => Some(Health::Unreadable),
    }
}

fn verify_shares(
    mut scan: Scan,
    chosen: usize,
    options: &VerifyOptions,
    progress: &Progress,
    sum: &mut VerifyReport,
    report: &mut dyn FnMut(Finding),
) -> Health {
    let group = scan.groups.swap_remove(chosen);
    let (files, complete) = (group.shares.len() as u64, group.complete());
    let geometry = group.header.geometry;
    progress
        .add_len(geometry.share_bytes() * files + if options.digest { geometry.size() } else { 0 });
    let mut rows = match Rows::new(group) {
        Ok(rows) => rows,
        Err(error) => {
            report(Finding::Digest(error.to_string()));
            return Health::Unreadable;
        }
    };
    let checked = check_leaves(&mut rows, progress, report);
    sum.bytes += geometry.share_bytes() * files;
    sum.bad_leaves += checked.bad_leaves;
    if checked.lost {
        return Health::Unreadable;
    }
    if options.digest
        && let Err(error) = read_object(&mut rows, &mut io::sink(), progress)
    {
        report(Finding::Digest(error.to_string()));
        return Health::Unreadable;
    }
    if complete && checked.damaged.is_empty() {
        Health::Healthy
    } else {
        Health::Damaged
    }
}
