//! Nodes in a temporary directory, with the shares of a file.

use std::fs;
use std::path::{Path, PathBuf};

use decode_kernel::tahoe::{Cap, ChkCap, StorageIndex};
use penstock_store::Progress;
use penstock_store::tahoe::get::{GetError, GetOptions, get};
use penstock_store::tahoe::write::{Upload, content, on_nodes};
use penstock_store::tahoe::{Limits, Reader, open};

/// Nodes, and the file on them.
pub(crate) struct Grid {
    _root: tempfile::TempDir,
    pub(crate) nodes: Vec<PathBuf>,
    pub(crate) cap: ChkCap,
}

impl Grid {
    /// Nodes with the shares of `bytes`, as `upload` makes them.
    pub(crate) fn new(nodes: usize, upload: &Upload<'_>, bytes: &[u8]) -> Grid {
        let (root, nodes) = empty_nodes(nodes);
        let place = on_nodes(&nodes);
        let cap = upload
            .write(bytes.len() as u64, &content(bytes), &place)
            .unwrap();
        drop(place);
        Grid {
            _root: root,
            nodes,
            cap,
        }
    }

    /// The path of share `number`.
    pub(crate) fn share(&self, number: u16) -> PathBuf {
        on_nodes(&self.nodes)(self.cap.storage_index(), number).unwrap()
    }

    /// The whole file, read in every way; all ways must agree.
    pub(crate) fn get(&self) -> Result<Vec<u8>, String> {
        get_in_all_ways(&self.nodes, &self.cap)
    }
}

/// Creates the directories `0`, `1`, … as nodes.
pub(crate) fn empty_nodes(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let nodes: Vec<PathBuf> = (0..count)
        .map(|i| root.path().join(i.to_string()))
        .collect();
    nodes.iter().for_each(|node| fs::create_dir(node).unwrap());
    (root, nodes)
}

pub(crate) fn options(nodes: &[PathBuf], cap: &Cap) -> GetOptions {
    GetOptions {
        nodes: nodes.into(),
        cap: cap.clone(),
        range: None,
        limits: Limits::default(),
    }
}

pub(crate) fn get_bytes(options: &GetOptions) -> Result<Vec<u8>, GetError> {
    let mut bytes = Vec::new();
    get(options, &mut bytes, &Progress::hidden())?;
    Ok(bytes)
}

/// The whole file, with segments read once and with segments read window by window. Either both return the file, or
/// both fail.
pub(crate) fn get_in_all_ways(nodes: &[PathBuf], cap: &ChkCap) -> Result<Vec<u8>, String> {
    let whole = read(nodes, cap, 8 << 20, 1 << 20);
    for row_bytes in [1, 20_000] {
        let streamed = read(nodes, cap, 0, row_bytes);
        assert_eq!(whole.is_ok(), streamed.is_ok(), "{whole:?} {streamed:?}");
        assert!(whole.is_err() || whole == streamed, "streamed bytes differ");
    }
    whole
}

/// The whole file, read with buffers of the given sizes. [`read_prefix`] also returns the bytes delivered before an
/// error.
pub(crate) fn read(
    nodes: &[PathBuf],
    cap: &ChkCap,
    whole_max: u64,
    row_bytes: u64,
) -> Result<Vec<u8>, String> {
    let (bytes, outcome) = read_prefix(nodes, cap, whole_max, row_bytes);
    outcome.map(|()| bytes)
}

/// As [`read`], with the bytes delivered before an error.
pub(crate) fn read_prefix(
    nodes: &[PathBuf],
    cap: &ChkCap,
    whole_max: u64,
    row_bytes: u64,
) -> (Vec<u8>, Result<(), String>) {
    let mut bytes = Vec::new();
    let file = match open(nodes, cap, &Limits::default()) {
        Ok(file) => file,
        Err(error) => return (bytes, Err(error.to_string())),
    };
    let mut reader = Reader::with_buffers(file, whole_max, row_bytes);
    let outcome = reader.read(0..cap.size(), &mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    });
    (bytes, outcome.map_err(|error| error.to_string()))
}

/// A node in `root` named `name` that has links to these share files, under the numbers given.
pub(crate) fn link_node(
    root: &Path,
    name: &str,
    storage_index: StorageIndex,
    shares: &[(u16, &Path)],
) -> PathBuf {
    let node = root.join(name);
    let dir = node.join("storage/shares").join(storage_index.dir());
    fs::create_dir_all(&dir).unwrap();
    for (number, path) in shares {
        std::os::unix::fs::symlink(path, dir.join(number.to_string())).unwrap();
    }
    node
}

/// Bytes without repetition, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
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

/// All sets of `k` of the numbers below `n`, in order.
pub(crate) fn subsets(n: u16, k: u16) -> Vec<Vec<u16>> {
    assert!(n <= 16);
    let sets = (0..1u32 << n).filter(|set| set.count_ones() == u32::from(k));
    sets.map(|set| (0..n).filter(|number| set >> number & 1 == 1).collect())
        .collect()
}
