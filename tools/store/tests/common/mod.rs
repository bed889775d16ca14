//! Stores in a temporary directory, objects in them, and ways to damage them.

#![allow(dead_code, unreachable_pub)] // each test binary uses some of it

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::code::CodeKind;
use decode_kernel::share::{Header, Key};
use penstock_store::Store;
use penstock_store::get::{GetError, GetOptions, GetReport, get};
use penstock_store::ls::{Listing, LsOptions, ls};
use penstock_store::put::{Placement, PutOptions, PutReport, put};
use penstock_store::repair::{RepairOptions, RepairReport, repair};
use penstock_store::verify::{Health, VerifyOptions, VerifyReport, verify};
use penstock_store::{NewStore, Progress, Walk, init};

/// Directories `0`, `1`, … as stores.
pub struct Stores {
    pub root: tempfile::TempDir,
    pub paths: Vec<PathBuf>,
}

impl Stores {
    pub fn new(n: usize) -> Stores {
        // Each put syncs n files. In memory that is free; on a disk, hundreds of cases would take
        // minutes.
        let root = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let paths: Vec<_> = (0..n).map(|i| root.path().join(i.to_string())).collect();
        let stores = Stores { root, paths };
        stores.init();
        stores
    }

    /// Makes the directories stores, also those that a test has removed.
    pub fn init(&self) {
        let new = |path: &PathBuf| NewStore {
            store: path.as_path().into(),
            domain: None,
        };
        init(&self.paths.iter().map(new).collect::<Vec<_>>(), false).unwrap();
    }

    /// Options for a k+m put of "dir/key.bin" in blocks of 8 KiB.
    pub fn options(&self, data: u16, parity: u16) -> PutOptions {
        PutOptions {
            stores: Store::directories(&self.paths),
            data,
            parity,
            key: key(),
            block_size: 8192,
            code: None,
            content_type: None,
            expires: None,
            fields: Default::default(),
            size_hint: None,
            min_shares: None,
            no_clobber: false,
            placement: Placement::Listed,
        }
    }

    pub fn put(&self, bytes: &[u8], data: u16, parity: u16) -> PutReport {
        put(
            &mut &bytes[..],
            &self.options(data, parity),
            &Progress::hidden(),
        )
        .unwrap()
    }

    pub fn get(&self) -> Result<Vec<u8>, GetError> {
        self.get_report().map(|(bytes, _)| bytes)
    }

    pub fn get_report(&self) -> Result<(Vec<u8>, GetReport), GetError> {
        let options = GetOptions {
            stores: Store::directories(&self.paths),
            key: key(),
            stale: false,
        };
        let mut bytes = Vec::new();
        let report = get(&options, &mut bytes, &Progress::hidden())?;
        Ok((bytes, report))
    }

    /// Verifies all objects and their digests. Returns the findings as printed.
    pub fn verify(&self) -> (VerifyReport, Vec<String>) {
        let options = VerifyOptions {
            stores: Store::directories(&self.paths),
            key: None,
            digest: true,
            walk: Walk::default(),
        };
        let mut findings = Vec::new();
        let report = verify(&options, &Progress::hidden(), &mut |name, finding| {
            findings.push(format!("{name}: {finding}"));
        });
        (report.unwrap(), findings)
    }

    pub fn health(&self) -> Health {
        self.verify().0.health()
    }

    /// Repairs all objects. Returns the actions as printed.
    pub fn repair(&self) -> (RepairReport, Vec<String>) {
        let options = RepairOptions {
            stores: Store::directories(&self.paths),
            key: None,
            walk: Walk::default(),
        };
        let mut done = Vec::new();
        let report = repair(&options, &Progress::hidden(), &mut |name, event| {
            done.push(format!("{name}: {event}"));
        });
        (report.unwrap(), done)
    }

    /// All objects.
    pub fn ls(&self) -> Listing {
        let options = LsOptions {
            stores: Store::directories(&self.paths),
            ..LsOptions::default()
        };
        ls(&options).unwrap()
    }

    /// All files below all stores but their markers, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = self.paths.clone();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path)
                } else if !path.ends_with("penstock-store.toml") {
                    files.push(path)
                }
            }
        }
        files.sort();
        files
    }
}

pub fn key() -> Key {
    Key::new("dir/key.bin").unwrap()
}

/// Bytes without repetition, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn header(path: &Path) -> Header {
    Header::decode(&fs::read(path).unwrap()[..4096]).unwrap()
}

/// Flips one bit of the byte at `offset`.
pub fn flip(path: &Path, offset: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Both codes. The second is used only with parity; without parity both are the same.
pub const CODES: [CodeKind; 2] = [CodeKind::Rs8, CodeKind::Rs16];
