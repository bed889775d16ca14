//! Reads segments. Each segment is verified whole before any of its bytes are delivered, in bounded memory whatever its
//! length.
//!
//! A segment that fits the buffer is read once. A longer one is read in three passes, as
//! [`SegmentRecord`](decode_kernel::tahoe::SegmentRecord) describes: blocks, ciphertext, delivery. In either case a bad
//! block is replaced by a block of another share or of another copy, for this segment only. Shares that failed before
//! are used last.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use decode_kernel::aes::Aes128Ctr;
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{
    Hash, ProvenNodes, Run, Runs, SEGMENT_TAG, SegmentRecord, StorageIndex,
};

use super::blocks::{Fault, Job, check_block, check_ciphertext, hash_blocks};
use super::open::{OpenFile, OpenShare};

/// Segments whose blocks take at most this many bytes are read once. Rebuilding takes as much again.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of one row of windows of a longer segment.
const ROW_BYTES: u64 = 1 << 20;
/// Bytes that a segment record should take; see [`SegmentRecord::leaf_bytes_for`].
const RECORD_BYTES: usize = 64 << 10;

/// Damage found while reading, and the work done to rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Blocks that were tried and found bad.
    pub bad_blocks: u64,
    /// Bytes of data blocks that were rebuilt.
    pub rebuilt_bytes: u64,
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Too few blocks of the segment are good.
    #[error(
        "{storage_index}: segment {segment} has {have} good blocks, {need} are needed{}",
        notes.iter().map(|note| format!("; {note}")).collect::<String>()
    )]
    TooFew {
        /// Which file.
        storage_index: StorageIndex,
        /// Which segment.
        segment: u64,
        /// Good blocks of different shares.
        have: usize,
        /// k.
        need: usize,
        /// The problems of the other blocks.
        notes: Vec<String>,
    },
    /// The blocks are those that the uploader made, but the segment made of them does not match the cap; or the
    /// ciphertext hash tree is damaged in every share.
    #[error(
        "{storage_index}: segment {segment} is not what the cap says, although its blocks are good"
    )]
    Ciphertext {
        /// Which file.
        storage_index: StorageIndex,
        /// Which segment.
        segment: u64,
    },
    /// Writing the bytes to their destination failed.
    #[error("cannot write the file's bytes: {0}")]
    Write(io::Error),
}

/// Reads an open file, segment by segment.
pub struct Reader {
    file: OpenFile,
    code: Code,
    coder: Coder,
    lanes: Lanes,
    cipher: Aes128Ctr,
    /// One for each share.
    block_trees: Vec<ProvenNodes>,
    ciphertext_tree: ProvenNodes,
    /// The share whose copy of the ciphertext hash tree was last found good.
    tree_share: usize,
    /// How often each share failed.
    faults: Vec<u64>,
    /// Whether the first fault of each share is logged.
    log: bool,
    whole_max: u64,
    row_bytes: u64,
    /// Windows of k blocks, one after another.
    windows: Vec<u8>,
    /// Windows of rebuilt data blocks: all missing ones for a whole segment, else one.
    rebuilt: Vec<u8>,
    stats: ReadStats,
}

/// The segment being read.
struct Segment {
    index: u64,
    block_len: u64,
    /// Bytes of a window: a whole block if there is no record.
    window: u64,
    record: Option<SegmentRecord>,
    /// The share in each of k slots.
    sources: Vec<Option<usize>>,
    /// Whether the block in each slot is good.
    good: Vec<bool>,
    /// The fault of each share that is bad in this segment.
    bad: Vec<Option<Fault>>,
}

impl Segment {
    /// Bytes of the buffer for each slot.
    fn area(&self) -> usize {
        self.window.min(self.block_len) as usize
    }
}

/// The block in this slot is bad, or changed after it was verified.
struct Lost {
    slot: usize,
    fault: Fault,
}

/// The place of a run's ciphertext: a buffer, and a range in it.
struct Place {
    rebuilt: bool,
    bytes: Range<usize>,
}

impl Reader {
    /// A reader of `file`. It takes some 16 MiB; for longer segments some 2 MiB, and one checksum for each leaf of each
    /// block.
    pub fn new(file: OpenFile) -> Reader {
        Reader::with_buffers(file, WHOLE_BYTES_MAX, ROW_BYTES)
    }

    /// As [`Reader::new`], with buffer sizes chosen by the caller: segments whose blocks take at most `whole_max` bytes
    /// are read once, others in rows of about `row_bytes`.
    pub fn with_buffers(file: OpenFile, whole_max: u64, row_bytes: u64) -> Reader {
        let geometry = file.geometry;
        let (k, n) = (geometry.k().into(), geometry.n().into());
        let code = Code::new(CodeKind::Rs8, k, n).expect("a cap's k and n are rs8's");
        let root = |share: &OpenShare| ProvenNodes::new(geometry.tree(), share.block_root);
        Reader {
            code,
            coder: Coder::new(16),
            lanes: Lanes::new(k),
            cipher: Aes128Ctr::new(file.cap.key()),
            block_trees: file.shares.iter().map(root).collect(),
            ciphertext_tree: ProvenNodes::new(geometry.tree(), file.ciphertext_root),
            tree_share: 0,
            faults: vec![0; file.shares.len()],
            log: true,
            whole_max,
            row_bytes,
            windows: Vec::new(),
            rebuilt: Vec::new(),
            stats: ReadStats::default(),
            file,
        }
    }

    /// The same reader, without logging.
    pub(super) fn quiet(self) -> Reader {
        Reader { log: false, ..self }
    }

    /// The file.
    pub fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Damage found so far, and the work done to rebuild.
    pub fn stats(&self) -> ReadStats {
        self.stats
    }

    /// Passes the plaintext of the file's bytes `range` to `take`, in order, in parts. Every byte passed is verified.
    /// After an error the rest of the range is missing.
    ///
    /// # Panics
    /// If the range ends after the file.
    pub fn read(
        &mut self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let geometry = self.file.geometry;
        assert!(
            range.end <= geometry.size(),
            "bytes {range:?} of {}",
            geometry.size()
        );
        let mut at = range.start;
        while at < range.end {
            let index = geometry.segment_of(at);
            let bytes = geometry.segment_range(index);
            let end = range.end.min(bytes.end);
            self.read_segment(index, at - bytes.start..end - bytes.start, take)?;
            at = end;
        }
        Ok(())
    }

    /// As [`Reader::read`], for a range within one segment, counted from the segment's start. Returns the verified hash
    /// of the segment's ciphertext.
    pub(super) fn read_segment(
        &mut self,
        index: u64,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Hash, ReadError> {
        let geometry = self.file.geometry;
        let start = geometry.segment_range(index).start;
        let mut segment = self.begin(index);
        let mut at = range.start;
        'again: loop {
            let hash = self.verify(&mut segment)?;
            for run in Runs::new(&geometry, index, at..range.end, segment.window) {
                let place = match self.fetch(&segment, &run) {
                    Ok(place) => place,
                    Err(lost) => {
                        // Another share takes the slot, and the segment is verified again. Its bytes are the same, so
                        // delivery continues.
                        self.lose(&mut segment, lost);
                        continue 'again;
                    }
                };
                let buffer = if place.rebuilt {
                    &mut self.rebuilt
                } else {
                    &mut self.windows
                };
                let bytes = &mut buffer[place.bytes];
                self.cipher.apply(start + at, bytes);
                take(bytes).map_err(ReadError::Write)?;
                at += bytes.len() as u64;
            }
            return Ok(hash);
        }
    }

    fn begin(&mut self, index: u64) -> Segment {
        let geometry = self.file.geometry;
        let (k, block_len) = (u64::from(geometry.k()), geometry.block_len(index));
        let none = vec![None; k as usize];
        let (mut window, mut record) = (block_len, None);
        if block_len.saturating_mul(k) > self.whole_max {
            let leaf = SegmentRecord::leaf_bytes_for(&geometry, RECORD_BYTES, self.row_bytes);
            let nobody = vec![usize::MAX; k as usize];
            record = Some(SegmentRecord::new(&geometry, index, leaf, &nobody));
            window = (self.row_bytes / (k + 1) / leaf).max(1) * leaf;
        }
        let segment = Segment {
            index,
            block_len,
            window,
            record,
            sources: none,
            good: vec![false; k as usize],
            bad: self.file.shares.iter().map(|_| None).collect(),
        };
        self.windows.resize(segment.area() * k as usize, 0);
        segment
    }

    /// Verifies a segment, with as many shares as it takes, and returns the hash of its ciphertext. Afterwards
    /// [`Reader::fetch`] reads its ciphertext.
    fn verify(&mut self, segment: &mut Segment) -> Result<Hash, ReadError> {
        loop {
            self.choose(segment)?;
            self.verify_blocks(segment);
            if !segment.good.iter().all(|&good| good) {
                continue;
            }
            match self.hash_ciphertext(segment) {
                Ok(hash) => return self.verify_ciphertext(segment, hash).map(|()| hash),
                Err(lost) => self.lose(segment, lost),
            }
        }
    }

    /// Puts a share in every empty slot: data shares first, and shares that failed before last.
    fn choose(&self, segment: &mut Segment) -> Result<(), ReadError> {
        let (shares, k) = (&self.file.shares, self.file.geometry.k());
        for slot in 0..segment.sources.len() {
            if segment.sources[slot].is_some() {
                continue;
            }
            let taken = |number| {
                segment
                    .sources
                    .iter()
                    .flatten()
                    .any(|&share| shares[share].number == number)
            };
            let usable =
                |&share: &usize| segment.bad[share].is_none() && !taken(shares[share].number);
            let rank = |&share: &usize| {
                let number = shares[share].number;
                (self.faults[share] > 0, number >= k, number)
            };
            let Some(share) = (0..shares.len()).filter(usable).min_by_key(rank) else {
                return Err(self.too_few(segment));
            };
            segment.sources[slot] = Some(share);
            if let Some(record) = &mut segment.record {
                record.restart(slot, share);
            }
        }
        Ok(())
    }

    fn too_few(&self, segment: &Segment) -> ReadError {
        let shares = self.file.shares.iter().zip(&segment.bad);
        let mut left: Vec<u16> = Vec::new();
        let mut notes = Vec::new();
        for (share, bad) in shares {
            match bad {
                Some(fault) => notes.push(format!("{}: {fault}", share.path.display())),
                None if left.last() == Some(&share.number) => {}
                None => left.push(share.number),
            }
        }
        ReadError::TooFew {
            storage_index: self.file.cap.storage_index(),
            segment: segment.index,
            have: left.len(),
            need: segment.sources.len(),
            notes,
        }
    }

    /// Reads and hashes the blocks in all slots that are not known to be good, and records their leaves.
    fn verify_blocks(&mut self, segment: &mut Segment) {
        let area = segment.area();
        let mut slots = Vec::new();
        let mut jobs = Vec::new();
        for (slot, area) in self.windows.chunks_mut(area).enumerate() {
            if let (Some(share), false) = (segment.sources[slot], segment.good[slot]) {
                slots.push((slot, share));
                jobs.push(Job {
                    share: &self.file.shares[share],
                    segment: segment.index,
                    area,
                });
            }
        }
        if jobs.is_empty() {
            return;
        }
        let record = &mut segment.record;
        let mut see = |job: usize, bytes: &[u8]| {
            if let Some(record) = record {
                record.record(slots[job].0, bytes);
            }
        };
        let (block_len, window) = (segment.block_len, segment.window);
        let hashes = hash_blocks(&mut self.lanes, &mut jobs, block_len, window, &mut see);
        for ((slot, share), hash) in slots.into_iter().zip(hashes) {
            let checked = hash.and_then(|hash| {
                let proven = &mut self.block_trees[share];
                check_block(&self.file.shares[share], proven, segment.index, hash)
            });
            match checked {
                Ok(()) => segment.good[slot] = true,
                Err(fault) => self.lose(segment, Lost { slot, fault }),
            }
        }
    }

    /// Hashes the segment's ciphertext. For a whole segment, rebuilds all missing data blocks.
    fn hash_ciphertext(&mut self, segment: &Segment) -> Result<Hash, Lost> {
        if segment.record.is_none() {
            let missing = self.missing(segment);
            self.rebuild(segment, segment.area(), &missing);
        }
        self.lanes.restart(1, SEGMENT_TAG);
        let geometry = self.file.geometry;
        for run in Runs::new(&geometry, segment.index, 0..u64::MAX, segment.window) {
            let place = self.fetch(segment, &run)?;
            let buffer = if place.rebuilt {
                &self.rebuilt
            } else {
                &self.windows
            };
            self.lanes.update(&[&buffer[place.bytes]]);
        }
        let mut hash = [Hash::default()];
        self.lanes.finish(&mut hash);
        Ok(hash[0])
    }

    /// Checks the hash of the ciphertext against the shares' ciphertext hash trees, until one of them confirms it.
    fn verify_ciphertext(&mut self, segment: &Segment, hash: Hash) -> Result<(), ReadError> {
        let shares = self.file.shares.len();
        for share in (self.tree_share..shares).chain(0..self.tree_share) {
            let tree = &mut self.ciphertext_tree;
            match check_ciphertext(&self.file.shares[share], tree, segment.index, hash) {
                Ok(()) => {
                    self.tree_share = share;
                    return Ok(());
                }
                Err(fault) => {
                    let path = self.file.shares[share].path.display();
                    tracing::debug!(segment = segment.index, %path, "ciphertext hash: {fault}");
                }
            }
        }
        let storage_index = self.file.cap.storage_index();
        Err(ReadError::Ciphertext {
            storage_index,
            segment: segment.index,
        })
    }

    /// Brings a run's window into a buffer. With a record it is read again and checked against the record.
    fn fetch(&mut self, segment: &Segment, run: &Run) -> Result<Place, Lost> {
        let area = segment.area();
        let number = usize::from(run.number);
        let within = |index: usize| index * area + run.bytes.start..index * area + run.bytes.end;
        let sources = segment.sources.iter().flatten();
        let numbers: Vec<usize> = sources
            .map(|&share| self.file.shares[share].number.into())
            .collect();
        if let Some(slot) = numbers.iter().position(|&source| source == number) {
            self.load(segment, slot, &run.window)?;
            return Ok(Place {
                rebuilt: false,
                bytes: within(slot),
            });
        }
        if segment.record.is_none() {
            let missing = self.missing(segment);
            let index = missing.iter().position(|&missing| missing == number);
            return Ok(Place {
                rebuilt: true,
                bytes: within(index.expect("missing, so rebuilt")),
            });
        }
        for slot in 0..numbers.len() {
            self.load(segment, slot, &run.window)?;
        }
        self.rebuild(
            segment,
            (run.window.end - run.window.start) as usize,
            &[number],
        );
        Ok(Place {
            rebuilt: true,
            bytes: run.bytes.clone(),
        })
    }

    /// Reads a window of the block in `slot` again, unless the buffer has the whole block.
    fn load(&mut self, segment: &Segment, slot: usize, window: &Range<u64>) -> Result<(), Lost> {
        let Some(record) = &segment.record else {
            return Ok(());
        };
        let share = &self.file.shares[segment.sources[slot].expect("verified")];
        let start = slot * segment.area();
        let bytes = &mut self.windows[start..start + (window.end - window.start) as usize];
        let at = share.regions.block_range(segment.index).start + window.start;
        let read = share.file.read_exact_at(bytes, at).map_err(Fault::Io);
        let checked = read.and_then(|()| {
            record
                .check(slot, window.start, bytes)
                .map_err(|_| Fault::Changed)
        });
        checked.map_err(|fault| Lost { slot, fault })
    }

    /// The data shares that are in no slot.
    fn missing(&self, segment: &Segment) -> Vec<usize> {
        let shares = &self.file.shares;
        let has = |number: usize| {
            let mut sources = segment.sources.iter().flatten();
            sources.any(|&share| usize::from(shares[share].number) == number)
        };
        (0..segment.sources.len())
            .filter(|&number| !has(number))
            .collect()
    }

    /// Rebuilds the first `len` bytes of the windows of the data shares `wanted`.
    fn rebuild(&mut self, segment: &Segment, len: usize, wanted: &[usize]) {
        if wanted.is_empty() {
            return;
        }
        let area = segment.area();
        self.rebuilt.resize(area * wanted.len(), 0);
        let number = |share: &usize| usize::from(self.file.shares[*share].number);
        let numbers: Vec<usize> = segment.sources.iter().flatten().map(number).collect();
        let inputs: Vec<&[u8]> = self
            .windows
            .chunks(area)
            .map(|window| &window[..len])
            .collect();
        let mut outputs: Vec<&mut [u8]> = self
            .rebuilt
            .chunks_mut(area)
            .map(|window| &mut window[..len])
            .collect();
        self.coder
            .rebuild(&self.code, &numbers, &inputs, wanted, &mut outputs)
            .expect("k different sources, none of them wanted");
        self.stats.rebuilt_bytes += (len * wanted.len()) as u64;
    }

    /// Removes a failed share from its slot, for this segment.
    fn lose(&mut self, segment: &mut Segment, lost: Lost) {
        let Lost { slot, fault } = lost;
        let share = segment.sources[slot].take().expect("a share that failed");
        segment.good[slot] = false;
        self.stats.bad_blocks += 1;
        if self.log && self.faults[share] == 0 {
            let storage_index = self.file.cap.storage_index();
            let OpenShare { number, path, .. } = &self.file.shares[share];
            let (segment, path) = (segment.index, path.display());
            tracing::warn!(%storage_index, number, segment, %path, "block not used: {fault}");
        }
        self.faults[share] += 1;
        segment.bad[share] = Some(fault);
    }
}
