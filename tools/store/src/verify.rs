//! Verify: reads all shares of one object or of all, and reports what is damaged or missing.

use std::cell::Cell;
use std::fmt;
use std::io;

use bytesize::ByteSize;
use decode_kernel::share::Key;
use serde::Serialize;

use crate::check::{Finding, Subject, check_leaves, report_scan};
use crate::count::Count;
use crate::error::FileError;
use crate::get::read_object;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::rows::Rows;
use crate::store::{self, OpenError, Presence, RejectReason, Rejected, Scan, Store, StoreError};
use crate::temp::allow_open_files;
use crate::walk::{Step, Walk};

/// The objects to verify, and the stores.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// All stores that may have shares.
    pub stores: Vec<Store>,
    /// One object, or all if `None`.
    pub key: Option<Key>,
    /// Whether to check the digest of the whole object too, which reads the data a second time.
    /// Only the digest finds shares that match their checksums but were made wrongly.
    pub digest: bool,
    /// How fast it reads, and how a run over all objects is divided.
    pub walk: Walk,
}

/// The health of one object, or the worst of several. Ordered from best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Objects with all n shares good.
    pub healthy: u64,
    /// Objects that can be read, but should be repaired.
    pub damaged: u64,
    /// Objects of which at least a part cannot be read.
    pub unreadable: u64,
    /// Objects that can be read but lose data with the next share: somewhere exactly k shares are good. Those that were
    /// put without parity are among them.
    pub without_redundancy: u64,
    /// Bytes of blocks that were read.
    pub bytes: u64,
    /// Leaves that were bad.
    pub bad_leaves: u64,
    /// Stores that are away. Objects all of whose shares are there were not seen.
    pub stores_away: u64,
    /// Directories that can't be listed. Objects in them may not have been seen.
    pub unlisted: u64,
    /// Whether the run ended before it had visited all objects, since its time or its bytes were used up.
    pub stopped: bool,
}

impl VerifyReport {
    /// The health of the worst object, and of the stores: while one is away nothing is healthy. Healthy if there is no
    /// object.
    pub fn health(&self) -> Health {
        match self {
            VerifyReport {
                unreadable: 1.., ..
            } => Health::Unreadable,
            VerifyReport { damaged: 1.., .. }
            | VerifyReport {
                stores_away: 1.., ..
            }
            | VerifyReport { unlisted: 1.., .. } => Health::Damaged,
            _ => Health::Healthy,
        }
    }

    fn count(&mut self, health: Health) {
        match health {
            Health::Healthy => self.healthy += 1,
            Health::Damaged => self.damaged += 1,
            Health::Unreadable => self.unreadable += 1,
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport {
            healthy,
            damaged,
            unreadable,
            without_redundancy,
            bytes,
            bad_leaves,
            stores_away,
            unlisted,
            stopped,
        } = self;
        write!(
            f,
            "{healthy} healthy, {damaged} damaged, {unreadable} unreadable, {without_redundancy} without redundancy; "
        )?;
        write!(
            f,
            "read {}, {}",
            ByteSize(*bytes).display().iec(),
            Count(*bad_leaves, "bad leaf")
        )?;
        if *stores_away > 0 {
            let verb = if *stores_away == 1 { "is" } else { "are" };
            write!(f, "; {} {verb} away", Count(*stores_away, "store"))?;
        }
        if *unlisted > 0 {
            write!(f, "; {} cannot be listed", Count(*unlisted, "directory"))?;
        }
        if *stopped {
            write!(f, "; the other objects are left for the next run")?;
        }
        Ok(())
    }
}

/// Reads every share of one object or of all. Calls `report` with each finding and what it is about.
///
/// # Errors
/// If the object asked for does not exist, if no store can be read, if too many files are open, or if the cursor can't
/// be written.
pub fn verify(
    options: &VerifyOptions,
    progress: &Progress,
    report: &mut dyn FnMut(&Subject, Finding),
) -> Result<VerifyReport, VerifyError> {
    let stores = &options.stores;
    allow_open_files(stores.len());
    store::check_stores(stores)?;
    let mut sum = VerifyReport::default();
    for (store, root) in stores.iter().enumerate() {
        if let Presence::Absent(error) = store::presence(root) {
            sum.stores_away += 1;
            let reason = RejectReason::Away(error.reason());
            let path = root.path().to_owned();
            report(
                &Subject::Stores,
                Finding::Rejected(Rejected {
                    store,
                    path,
                    reason,
                }),
            );
        }
    }
    let pace = options.walk.pace();
    let mut work = Work {
        options,
        progress,
        pace: &pace,
        sum,
    };
    match &options.key {
        Some(key) => {
            let look = || store::scan(stores, key);
            let name = Subject::Object(key.clone());
            if work.verify_object(&look, name, report)?.is_none() {
                return Err(match store::choose(stores, key, false) {
                    Err(error) => error,
                    // It was put just now.
                    Ok(_) => OpenError::NotFound {
                        key: key.clone(),
                        stores: stores.len(),
                    },
                }
                .into());
            }
        }
        None => {
            let complete = options.walk.go(stores, &pace, &mut |step| {
                let (subject, finding) = match step {
                    Step::Object(found) => {
                        let first = Cell::new(true);
                        let look = || match first.take() {
                            true => store::scan_found(stores, found),
                            // It changed meanwhile.
                            false => store::scan_dir(stores, &found.dir, None),
                        };
                        let name = Subject::Directory(found.dir.clone());
                        work.verify_object(&look, name, report)?;
                        return Ok(());
                    }
                    Step::Stray(store, path) => (Subject::Stores, Finding::Stray { store, path }),
                    Step::Unlisted(rejected) => {
                        work.sum.unlisted += 1;
                        (Subject::Stores, Finding::Rejected(rejected))
                    }
                };
                progress.suspend(|| report(&subject, finding));
                Ok::<_, VerifyError>(())
            })?;
            work.sum.stopped = !complete;
        }
    }
    Ok(work.sum)
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
    /// The cursor can't be read or written.
    #[error(transparent)]
    Cursor(#[from] FileError),
}

/// How often an object that a put or repair changes meanwhile is looked at.
const LOOKS_MAX: usize = 3;

/// A verification under way.
struct Work<'a> {
    options: &'a VerifyOptions,
    progress: &'a Progress,
    pace: &'a Pace,
    sum: VerifyReport,
}

impl Work<'_> {
    /// Verifies the object that `look` finds; `None` if there is none. What looks like damage while the object is being
    /// replaced is looked at again.
    fn verify_object(
        &mut self,
        look: &dyn Fn() -> Scan,
        name: Subject,
        report: &mut dyn FnMut(&Subject, Finding),
    ) -> Result<Option<Health>, OpenError> {
        let mut turn = 0;
        loop {
            turn += 1;
            let scan = look();
            let name = scan.key().cloned().map_or(name.clone(), Subject::Object);
            if let Some(error) = scan.shortage(name.as_str()) {
                return Err(error);
            }
            let before = scan.fingerprint().to_vec();
            let (mut findings, mut found) = (Vec::new(), VerifyReport::default());
            let health = self.verify_once(scan, &mut found, &mut |finding| findings.push(finding));
            let harmless = matches!(health, None | Some(Health::Healthy));
            if !harmless && turn < LOOKS_MAX && look().fingerprint() != before {
                continue;
            }
            for finding in findings {
                self.progress.suspend(|| report(&name, finding));
            }
            let Some(health) = health else {
                return Ok(None);
            };
            self.sum.count(health);
            self.sum.bytes += found.bytes;
            self.sum.bad_leaves += found.bad_leaves;
            self.sum.without_redundancy += found.without_redundancy;
            return Ok(Some(health));
        }
    }

    fn verify_once(
        &self,
        mut scan: Scan,
        found: &mut VerifyReport,
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
            Some(chosen) => Some(self.verify_shares(scan, chosen, found, report)),
            // A removed object, or one that is just being put, is none.
            None if scan.groups.is_empty() && !damaged => None,
            None => Some(Health::Unreadable),
        }
    }

    fn verify_shares(
        &self,
        mut scan: Scan,
        chosen: usize,
        found: &mut VerifyReport,
        report: &mut dyn FnMut(Finding),
    ) -> Health {
        let (options, progress) = (self.options, self.progress);
        let group = scan.groups.swap_remove(chosen);
        let (files, complete) = (group.shares.len() as u64, group.complete());
        let geometry = group.header.geometry;
        progress.add_len(
            geometry.share_bytes() * files + if options.digest { geometry.size() } else { 0 },
        );
        let mut rows = match Rows::new(group) {
            Ok(rows) => rows.paced(self.pace),
            Err(error) => {
                let reason = error.to_string();
                report(Finding::Digest { reason });
                return Health::Unreadable;
            }
        };
        let checked = check_leaves(&mut rows, progress, report);
        found.bytes += geometry.share_bytes() * files;
        found.bad_leaves += checked.bad_leaves;
        if checked.lost {
            return Health::Unreadable;
        }
        if options.digest
            && let Err(error) = read_object(&mut rows, &mut io::sink(), progress)
        {
            let reason = error.to_string();
            report(Finding::Digest { reason });
            return Health::Unreadable;
        }
        found.without_redundancy += u64::from(checked.least == geometry.k());
        if complete && checked.damaged.is_empty() {
            Health::Healthy
        } else {
            Health::Damaged
        }
    }
}
