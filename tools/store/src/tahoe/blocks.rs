//! Hashes blocks of several shares side by side, and checks them with the hash trees in the shares.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{BLOCK_TAG, Hash, NODE_BYTES, ProvenNodes};

use super::open::OpenShare;

/// Damage to a block of a share or to its hash trees.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It could not be read. For a file that was truncated after it was opened, the error is an
    /// unexpected end of file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its hash and the nodes beside it do not lead to the root.
    #[error("a block or the hashes that prove it are damaged")]
    Hash,
    /// It was good when it was first read, and a second read gave other bytes.
    #[error("it changed while it was read")]
    Changed,
    /// The share ends before its ciphertext hash tree does.
    #[error("the ciphertext hash tree lies outside the share")]
    Outside,
}

/// One block to hash: its share, its offset in the share's file, and a buffer for one window of it.
pub(super) struct Job<'a> {
    pub(super) share: &'a OpenShare,
    pub(super) segment: u64,
    pub(super) area: &'a mut [u8],
}

/// Hashes one block of `block_len` bytes for each job, as leaves of block hash trees. It reads
/// windows of `window` bytes (less at the end) and passes each to `see` with the job's index. A
/// block that cannot be read has no hash, and `see` is not called for the rest of it.
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
                    // The lane of this job continues with any bytes; its hash is ignored.
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

/// Checks the hash of `segment`'s block against the share's block hash tree.
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

/// Checks the hash of `segment`'s ciphertext against the share's copy of the ciphertext hash tree.
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
