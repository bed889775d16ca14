//! Hashing blocks of several shares side by side, and checking them with what shares say of
//! themselves.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{BLOCK_TAG, Hash, NODE_BYTES, ProvenNodes};

use super::open::OpenShare;

/// What is wrong with a block or a tree of a share.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It could not be read; a file that was cut since it was opened is an unexpected end.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its hash and the nodes beside it do not lead to the root.
    #[error("a block or the hashes that prove it are damaged")]
    Hash,
    /// It was good, and is not any more.
    #[error("it changed while it was read")]
    Changed,
    /// The share ends before its ciphertext hash tree does.
    #[error("the ciphertext hash tree lies outside the share")]
    Outside,
}

/// One block to be hashed: where it begins in which share's file, and a buffer for a window of it.
pub(super) struct Job<'a> {
    pub(super) share: &'a OpenShare,
    pub(super) segment: u64,
    pub(super) area: &'a mut [u8],
}

/// Hashes a block of `block_len` bytes of each job, as leaves of block hash trees; in windows of
/// `window` bytes (or less at the end), each of which `see` gets to see with its job's index. What
/// cannot be read has no hash; `see` is not called for the rest of it.
pub(super) fn hash_blocks(
    lanes: &mut Lanes,
    jobs: &mut [Job<'_>],
    block_len: u64,
    window: u64,
    see: &mut dyn FnMut(usize, &[u8]),
) -> Vec<Result<Hash, Fault>> {
    let mut failed: Vec<Option<io::Error>> = jobs.iter().map(|_| None).collect();
    lanes.restart(jobs.len(), BLOCK_TAG);
    let mut at = 0;
    while at < block_len {
        let len = window.min(block_len - at) as usize;
        for (index, job) in jobs.iter_mut().enumerate() {
            let area = &mut job.area[..len];
            if failed[index].is_none() {
                let start = job.share.regions.block_range(job.segment).start + at;
                match job.share.file.read_exact_at(area, start) {
                    Ok(()) => see(index, area),
                    // Its lane goes on with whatever is there, and is not looked at.
                    Err(error) => failed[index] = Some(error),
                }
            }
        }
        let inputs: Vec<&[u8]> = jobs.iter().map(|job| &job.area[..len]).collect();
        lanes.update(&inputs);
        at += len as u64;
    }
    let mut hashes = vec![Hash::default(); jobs.len()];
    lanes.finish(&mut hashes);
    let outcome = |(hash, failed): (Hash, Option<io::Error>)| match failed {
        Some(error) => Err(error.into()),
        None => Ok(hash),
    };
    hashes.into_iter().zip(failed).map(outcome).collect()
}

/// Checks the hash of `segment`'s block with the share's block hash tree.
pub(super) fn check_block(
    share: &OpenShare,
    proven: &mut ProvenNodes,
    segment: u64,
    hash: Hash,
) -> Result<(), Fault> {
    let regions = &share.regions;
    let siblings = read_nodes(share, proven.needed(segment), &|node| {
        Some(regions.block_node(node))
    })?;
    proven
        .check(segment, hash, &siblings)
        .map_err(|_| Fault::Hash)
}

/// Checks the hash of `segment`'s ciphertext with the share's copy of that tree.
pub(super) fn check_ciphertext(
    share: &OpenShare,
    proven: &mut ProvenNodes,
    segment: u64,
    hash: Hash,
) -> Result<(), Fault> {
    let regions = &share.regions;
    let siblings = read_nodes(share, proven.needed(segment), &|node| {
        regions.ciphertext_node(node)
    })?;
    proven
        .check(segment, hash, &siblings)
        .map_err(|_| Fault::Hash)
}

fn read_nodes(
    share: &OpenShare,
    nodes: impl Iterator<Item = u64>,
    place: &dyn Fn(u64) -> Option<Range<u64>>,
) -> Result<Vec<Hash>, Fault> {
    nodes
        .map(|node| {
            let mut hash = [0; NODE_BYTES as usize];
            let range = place(node).ok_or(Fault::Outside)?;
            share.file.read_exact_at(&mut hash, range.start)?;
            Ok(hash)
        })
        .collect()
}
