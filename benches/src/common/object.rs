//! The objects to serve: a plain file, and the same bytes in shares.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use decode_kernel::share::Key;
use penstock_store::put::{self, Placement, PutOptions};
use penstock_store::{NewStore, Progress, Store};

use super::seed;

/// Bytes written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes `bytes` bytes made from `seed` to `path` and syncs them: a later write-back would disturb
/// a measurement.
///
/// # Errors
///
/// If the file cannot be written; the message names it.
pub fn write_plain(path: &Path, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let (mut left, mut number) = (bytes, seed << 32);
        while left > 0 {
            let length = left.min(CHUNK_BYTES as u64) as usize;
            seed::fill(&mut chunk[..length], number);
            file.write_all(&chunk[..length])?;
            left -= length as u64;
            number += 1;
        }
        file.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

/// Parses a code, `K,M`, from an option.
///
/// # Errors
///
/// If it is not a code.
pub fn shape(text: &str) -> Result<[u16; 2], String> {
    let numbers: Result<Vec<u16>, _> = text.split(',').map(str::parse).collect();
    match numbers.ok().as_deref() {
        Some(&[k, m]) if 1 <= k && 1 <= m && k.saturating_add(m) <= 256 => Ok([k, m]),
        _ => Err("K,M with 1 <= K, 1 <= M and K + M <= 256, like 10,4".to_owned()),
    }
}

/// An erasure-coded object.
pub struct Coded {
    /// n directories, one for each share.
    pub stores: Vec<PathBuf>,
    /// Data shares.
    pub k: usize,
    /// SHA-256 of the whole, in hexadecimal digits.
    pub sha256: String,
}

impl Coded {
    /// The stores that remain when as many are lost as the parity allows, data shares first.
    pub fn degraded(&self) -> &[PathBuf] {
        &self.stores[self.stores.len() - self.k..]
    }
}

/// Makes k + m stores under `directory`.
///
/// # Errors
///
/// If one can't be made.
pub fn stores(directory: &Path, [k, m]: [u16; 2]) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("can't make {}", directory.display()))?;
    let stores: Vec<PathBuf> = (0..k + m)
        .map(|number| directory.join(format!("store{number}")))
        .collect();
    let new = |path: &PathBuf| NewStore {
        store: path.as_path().into(),
        domain: None,
    };
    penstock_store::init(&stores.iter().map(new).collect::<Vec<_>>(), false)?;
    Ok(stores)
}

/// Puts the file `plain` as object `key` into k + m stores under `directory`.
///
/// # Errors
///
/// If it cannot be read or stored.
pub fn put(
    plain: &Path,
    key: &str,
    [k, m]: [u16; 2],
    block_bytes: u32,
    directory: &Path,
) -> anyhow::Result<Coded> {
    let stores = stores(directory, [k, m])?;
    let mut file = File::open(plain).with_context(|| format!("can't open {}", plain.display()))?;
    let options = PutOptions {
        stores: Store::directories(&stores),
        data: k,
        parity: m,
        key: Key::new(key)?,
        block_size: block_bytes,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: None,
        min_shares: None,
        no_clobber: false,
        placement: Placement::Listed,
    };
    let report = put::put(&mut file, &options, &Progress::hidden())?;
    for path in &report.paths {
        read_through(path)?;
    }
    read_through(plain)?;
    Ok(Coded {
        stores,
        k: usize::from(k),
        sha256: report.header.digest.to_string(),
    })
}

/// Reads a file to its end, so that it is in the page cache.
fn read_through(path: &Path) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    while file
        .read(&mut chunk)
        .with_context(|| format!("can't read {}", path.display()))?
        > 0
    {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_the_same_each_time_and_seeds_differ() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let written = |bytes, seed| {
            write_plain(&path, bytes, seed).unwrap();
            std::fs::read(&path).unwrap()
        };
        let first = written(2 * CHUNK_BYTES as u64 + 1, 1);
        assert_eq!(first.len(), 2 * CHUNK_BYTES + 1);
        assert_eq!(first, written(2 * CHUNK_BYTES as u64 + 1, 1));
        assert_ne!(first[..100], written(100, 2)[..]);
        assert_ne!(first[..100], first[CHUNK_BYTES..][..100]);
    }

    #[test]
    fn degraded_stores_return_the_object() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        write_plain(&plain, 300_000, 3).unwrap();
        let coded = put(&plain, "a", [4, 2], 16 << 10, directory.path()).unwrap();
        assert_eq!((coded.stores.len(), coded.degraded().len()), (6, 4));
        assert_eq!(coded.degraded()[0], coded.stores[2]);
        let options = penstock_store::get::GetOptions {
            stores: Store::directories(coded.degraded()),
            key: Key::new("a").unwrap(),
            stale: false,
        };
        let mut back = Vec::new();
        penstock_store::get::get(&options, &mut back, &Progress::hidden()).unwrap();
        assert_eq!(back, std::fs::read(&plain).unwrap());
    }
}
