//! Stores in a temporary directory, objects in them, and ways to damage them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use decode_kernel::code::CodeKind;
use decode_kernel::share::{BLOCKS_OFFSET, Fields, Header, Key, object_dir};
use penstock_store::put::{Placement, PutOptions, put};
use penstock_store::{NewStore, Progress, Store, init};
use sha2::{Digest, Sha256};

/// The key that most tests use.
pub const KEY: &str = "dir/object.bin";
/// The block length that most tests use: several segments in a small object.
pub const BLOCK: u32 = 16 << 10;

/// Directories `0`, `1`, … as stores.
pub struct Stores {
    root: tempfile::TempDir,
    pub paths: Vec<PathBuf>,
}

/// A directory in memory, if the machine has enough of it: a put syncs every file, which takes long on a busy disk.
/// Containers often have too little memory for that.
fn in_memory() -> bool {
    static ENOUGH: OnceLock<bool> = OnceLock::new();
    *ENOUGH.get_or_init(|| {
        let df = Command::new("df")
            .args(["-k", "--output=avail", "/dev/shm"])
            .output();
        let text = df.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let free_kib = text
            .ok()
            .and_then(|text| text.lines().last()?.trim().parse::<u64>().ok());
        free_kib.is_some_and(|kib| kib > 2 << 20)
    })
}

impl Stores {
    pub fn new(count: usize) -> Stores {
        let root = if in_memory() {
            tempfile::tempdir_in("/dev/shm")
        } else {
            tempfile::tempdir()
        };
        Stores::below(root.unwrap(), count)
    }

    /// On a disk, for objects that are too large for memory.
    pub fn on_disk(count: usize) -> Stores {
        Stores::below(tempfile::tempdir().unwrap(), count)
    }

    fn below(root: tempfile::TempDir, count: usize) -> Stores {
        let paths: Vec<PathBuf> = (0..count)
            .map(|i| root.path().join(i.to_string()))
            .collect();
        let stores = Stores { root, paths };
        stores.init();
        stores
    }

    /// Makes the directories stores, also those that were removed: a new disk takes the place of a lost one.
    pub fn init(&self) {
        let new = |path: &PathBuf| NewStore {
            store: path.as_path().into(),
            domain: None,
        };
        init(&self.paths.iter().map(new).collect::<Vec<_>>(), false).unwrap();
    }

    /// A file beside the stores.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `--store DIR` for each store.
    pub fn flags(&self) -> Vec<String> {
        let flag = |path: &PathBuf| ["--store".to_owned(), path.display().to_string()];
        self.paths.iter().flat_map(flag).collect()
    }

    /// Removes all objects.
    pub fn clear(&self) {
        for path in &self.paths {
            fs::remove_dir_all(path.join("objects")).unwrap();
        }
    }

    /// Puts an object, with parity for the stores beyond `data`.
    pub fn put(&self, key: &str, content: &mut impl Read, data: u16, block: u32) -> Header {
        self.put_in(None, key, content, data, block)
    }

    fn options(&self, key: &str, data: u16, block: u32) -> PutOptions {
        PutOptions {
            stores: Store::directories(&self.paths),
            data,
            parity: self.paths.len() as u16 - data,
            key: Key::new(key).unwrap(),
            block_size: block,
            code: None,
            content_type: None,
            expires: None,
            fields: Fields::default(),
            size_hint: None,
            min_shares: None,
            no_clobber: false,
            placement: Placement::Listed,
        }
    }

    /// As [`Stores::put`], with this code.
    pub fn put_in(
        &self,
        code: Option<CodeKind>,
        key: &str,
        content: &mut impl Read,
        data: u16,
        block: u32,
    ) -> Header {
        let options = PutOptions {
            code,
            ..self.options(key, data, block)
        };
        put(content, &options, &Progress::hidden())
            .expect("put")
            .header
    }

    /// As [`Stores::put`], 4+m, with an expiry (0 is none) and header fields.
    pub fn put_said(
        &self,
        key: &str,
        content: &mut impl Read,
        expires: u64,
        fields: &[(&str, &str)],
    ) -> Header {
        let options = PutOptions {
            expires: NonZeroU64::new(expires),
            fields: Fields::new(fields.iter().copied()).unwrap(),
            ..self.options(key, 4, BLOCK)
        };
        put(content, &options, &Progress::hidden())
            .expect("put")
            .header
    }

    /// A 4+m put of bytes under [`KEY`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Header {
        self.put(KEY, &mut &bytes[..], 4, BLOCK)
    }

    /// The only share file of an object in a store.
    pub fn share(&self, key: &str, store: usize) -> PathBuf {
        let shares = self.shares(key, store);
        assert_eq!(shares.len(), 1, "{shares:?}");
        shares.into_iter().next().unwrap()
    }

    pub fn shares(&self, key: &str, store: usize) -> Vec<PathBuf> {
        let dir = self.paths[store]
            .join("objects")
            .join(object_dir(&Key::new(key).unwrap()));
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Removes a whole store, like a disk that is pulled.
    pub fn remove_store(&self, store: usize) {
        fs::remove_dir_all(&self.paths[store]).unwrap();
    }

    /// Flips a bit in every leaf of a share's blocks, in place.
    pub fn corrupt(&self, key: &str, store: usize) {
        let path = self.share(key, store);
        let header = header(&path);
        let leaf = u64::from(header.geometry.leaf_bytes());
        for start in (0..header.geometry.share_bytes()).step_by(leaf as usize) {
            // Not the same byte in every leaf.
            let last = (start + leaf).min(header.geometry.share_bytes()) - start - 1;
            flip(
                &path,
                BLOCKS_OFFSET + start + (start / leaf * 37) % (last + 1),
            );
        }
    }

    /// Truncates a share to its first `length` bytes.
    pub fn truncate(&self, key: &str, store: usize, length: u64) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.share(key, store))
            .unwrap();
        file.set_len(length).unwrap();
    }
}

pub fn header(path: &Path) -> Header {
    let mut page = [0; 4096];
    File::open(path).unwrap().read_exact(&mut page).unwrap();
    Header::decode(&page).unwrap()
}

/// Flips one bit of a byte, in place.
pub fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).unwrap();
}

/// Endless bytes that differ from their neighbours, the same for the same seed. They repeat after a prime number of
/// bytes, so that no two blocks or segments are equal.
pub struct Noise {
    pattern: Vec<u8>,
}

const PATTERN_BYTES: usize = 999_983;

impl Noise {
    pub fn new(seed: u64) -> Noise {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut pattern = Vec::with_capacity(PATTERN_BYTES + 8);
        while pattern.len() < PATTERN_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pattern.extend(state.to_le_bytes());
        }
        pattern.truncate(PATTERN_BYTES);
        Noise { pattern }
    }

    /// Copies from `position` on, up to the next repetition of the pattern. Returns the number of bytes.
    fn copy(&self, position: u64, bytes: &mut [u8]) -> usize {
        let from = &self.pattern[(position % PATTERN_BYTES as u64) as usize..];
        let count = from.len().min(bytes.len());
        bytes[..count].copy_from_slice(&from[..count]);
        count
    }

    /// The bytes in this range.
    pub fn range(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut done = 0;
        while done < bytes.len() {
            done += self.copy(range.start + done as u64, &mut bytes[done..]);
        }
        bytes
    }

    /// The first `length` bytes.
    pub fn bytes(&self, length: usize) -> Vec<u8> {
        self.range(0..length as u64)
    }

    /// The first `length` bytes as a stream.
    pub fn reader(&self, length: u64) -> impl Read + '_ {
        Reader {
            noise: self,
            position: 0,
        }
        .take(length)
    }
}

struct Reader<'a> {
    noise: &'a Noise,
    position: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.noise.copy(self.position, bytes);
        self.position += count as u64;
        Ok(count)
    }
}

/// The digest in lower hex, as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Fails with the first byte that differs, without printing megabytes.
#[track_caller]
pub fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    if got == wanted {
        return;
    }
    if let Some(at) = got.iter().zip(wanted).position(|(a, b)| a != b) {
        panic!("{what}: byte {at} differs of {}", wanted.len());
    }
    assert_eq!(got.len(), wanted.len(), "{what}: length");
}
