//! Verifies one segment: k blocks by their hash trees, then the ciphertext that they decode to.
//!
//! Memory is one pool buffer at a time, whatever the segment's length, and others have their turn between
//! any two. Block hashes are computed in lockstep, a step of each of the k blocks at a time. The
//! ciphertext's hash wants the data blocks one after another: those that are there are read again, those
//! that are missing rebuilt step by step. Where all of it fits one buffer, everything is read once.

use std::ops::Range;
use std::rc::Rc;

use decode_kernel::sha256::Lanes;
use decode_kernel::tahoe::{BLOCK_TAG, Hash, NODE_BYTES, ProvenNodes, SEGMENT_TAG, SegmentRecord};

use super::file::File;
use super::trees::{Tree, Trees};
use crate::engine::read;
use crate::engine::{Engine, PieceError};
use crate::io::{Window, join};
use crate::memory::limits::{BAD_LEAVES_MAX, TABLE_PAGE_BYTES, WINDOW_ALIGN};
use crate::units::{FileOffset, ShareNumber};

/// Nodes of a hash tree in one page.
const PAGE_NODES: u64 = TABLE_PAGE_BYTES as u64 / NODE_BYTES;

/// Verifies a segment in the copies that are good as far as is known.
pub async fn verify(
    engine: &Engine,
    trees: &Trees,
    file: &File,
    segment: u64,
) -> Result<Rc<SegmentRecord>, PieceError> {
    if file.refused.borrow_mut().get(&segment).is_some() {
        return Err(PieceError::WrongCiphertext { segment });
    }
    // Every failed attempt marks a copy or a block, unless marks are forgotten.
    let attempts = 2 * file.copies.len() + 8;
    for _ in 0..attempts {
        let chosen = file.choose(segment);
        let need = usize::from(file.geometry.k());
        if chosen.len() < need {
            let have = chosen.len();
            let cause = PieceError::TooFewBlocks {
                segment,
                have,
                need,
            };
            return Err(match file.nodes_away() {
                0 => cause,
                away => PieceError::StoresAway {
                    away,
                    cause: Box::new(cause),
                },
            });
        }
        let pass = Pass {
            engine,
            trees,
            file,
            segment,
            length: file.geometry.block_len(segment),
        };
        if let Some(record) = pass.run(chosen).await? {
            engine.stats.verified_segments.add(1);
            engine
                .stats
                .verified_segment_bytes
                .add(file.geometry.segment_len(segment));
            return Ok(Rc::new(record));
        }
    }
    Err(PieceError::TooManyAttempts { attempts })
}

/// One attempt.
struct Pass<'a> {
    engine: &'a Engine,
    trees: &'a Trees,
    file: &'a File,
    segment: u64,
    /// Bytes of a block.
    length: u64,
}

/// What a step reads: the same range of some copies' blocks, and room for as much of rebuilt ones.
struct Step {
    windows: Vec<Window>,
    page: Window,
}

impl Pass<'_> {
    /// `None` if a copy or block was found bad: then others are to be tried.
    async fn run(&self, chosen: Vec<usize>) -> Result<Option<SegmentRecord>, PieceError> {
        let geometry = &self.file.geometry;
        let leaf_bytes = self.file.layout.leaf_bytes;
        let mut record = SegmentRecord::new(geometry, self.segment, leaf_bytes, &chosen);
        let Some(whole) = self.blocks(&mut record).await? else {
            return Ok(None);
        };
        let hash = match whole {
            Some(step) => Some(self.ciphertext_at_once(&record, step)?),
            None => self.ciphertext_in_steps(&record).await?,
        };
        let Some(hash) = hash else {
            return Ok(None);
        };
        match self.ciphertext_is_right(hash).await? {
            true => Ok(Some(record)),
            false => {
                let segment = self.segment;
                let mut refused = self.file.refused.borrow_mut();
                refused.put(segment, ());
                if refused.len() > BAD_LEAVES_MAX {
                    refused.pop_lru();
                }
                Err(PieceError::WrongCiphertext { segment })
            }
        }
    }

    /// The data shares that the record has no copy of.
    fn missing(&self, record: &SegmentRecord) -> Vec<ShareNumber> {
        (0..self.file.geometry.k())
            .map(ShareNumber)
            .filter(|&number| self.file.slot(record, number).is_none())
            .collect()
    }

    /// Bytes of a block in one step of `windows` windows: all of it, or whole leaves.
    fn step_bytes(&self, windows: usize) -> u64 {
        let room =
            (self.engine.pool.piece_capacity() / windows / WINDOW_ALIGN * WINDOW_ALIGN) as u64;
        match room >= self.length {
            true => self.length,
            false => room / self.file.layout.leaf_bytes * self.file.layout.leaf_bytes,
        }
    }

    /// Reads a range of the blocks of these copies, with room for `more` windows of the same length.
    async fn read(
        &self,
        copies: &[usize],
        range: &Range<u64>,
        more: usize,
    ) -> Result<Option<Step>, PieceError> {
        let length = (range.end - range.start) as usize;
        let buffer = self.engine.take_buffer().await?;
        let (windows, page) = buffer.carve(std::iter::repeat_n(length, copies.len() + more));
        let mut windows = windows.into_iter();
        let mut readings = Vec::with_capacity(copies.len());
        for (&at, window) in copies.iter().zip(windows.by_ref()) {
            let copy = &self.file.copies[at];
            let block = copy.regions.block_range(self.segment);
            readings.push(self.engine.io.start_read(
                &copy.file,
                window,
                FileOffset(block.start + range.start),
            ));
        }
        join(&mut readings, self.engine.timeout).await;
        let mut filled = Vec::with_capacity(copies.len() + more);
        let mut all_read = true;
        for (reading, &at) in readings.into_iter().zip(copies) {
            let store = &self.file.copies[at].store;
            let (result, window) = read::end(reading, store, self.file.number)?;
            match result {
                Ok(()) => self.engine.stats.tahoe_read_bytes.add(length as u64),
                Err(error) => {
                    all_read = false;
                    self.file.lose(at, &error);
                }
            }
            filled.extend(window);
        }
        filled.extend(windows);
        // Hashing takes long beside what else a turn does.
        self.engine.io.yield_now().await;
        Ok(all_read.then_some(Step {
            windows: filled,
            page,
        }))
    }

    /// Hashes the blocks, notes the checksums of their leaves, and proves the hashes. Gives the last step
    /// where it was all, with the missing data blocks' windows behind.
    async fn blocks(&self, record: &mut SegmentRecord) -> Result<Option<Option<Step>>, PieceError> {
        let copies = record.sources().to_vec();
        let missing = self.missing(record).len();
        let at_once = self.step_bytes(copies.len() + missing) == self.length;
        let (step, more) = match at_once {
            true => (self.length, missing),
            false => (self.step_bytes(copies.len()), 0),
        };
        let mut lanes = Lanes::new(copies.len());
        lanes.restart(copies.len(), BLOCK_TAG);
        let mut kept = None;
        let mut start = 0;
        while start < self.length {
            let range = start..(start + step).min(self.length);
            let Some(read) = self.read(&copies, &range, more).await? else {
                return Ok(None);
            };
            let blocks: Vec<&[u8]> = read.windows[..copies.len()]
                .iter()
                .map(|w| &w[..])
                .collect();
            lanes.update(&blocks);
            for (slot, block) in blocks.iter().enumerate() {
                record.record(slot, block);
            }
            start = range.end;
            kept = at_once.then_some(read);
        }
        let mut hashes = vec![Hash::default(); copies.len()];
        lanes.finish(&mut hashes);
        let (windows, mut page) = match kept {
            Some(step) => (Some(step.windows), step.page),
            None => (None, self.page().await?),
        };
        let mut all_right = true;
        for (&at, hash) in copies.iter().zip(hashes) {
            let right;
            (right, page) = self.block_is_right(at, hash, page).await?;
            if !right {
                self.file.mark_bad(at, self.segment);
            }
            all_right &= right;
        }
        Ok(all_right.then_some(windows.map(|windows| Step { windows, page })))
    }

    /// Room for a page of a hash tree, where no buffer is held.
    async fn page(&self) -> Result<Window, PieceError> {
        let buffer = self.engine.take_buffer().await?;
        Ok(buffer.carve(std::iter::empty()).1)
    }

    /// The hash of the segment's ciphertext, all blocks of which lie in one step.
    fn ciphertext_at_once(
        &self,
        record: &SegmentRecord,
        mut step: Step,
    ) -> Result<Hash, PieceError> {
        let missing = self.missing(record);
        self.rebuild(record, &missing, &mut step.windows)?;
        let mut lane = Lanes::new(1);
        lane.restart(1, SEGMENT_TAG);
        let mut left = self.file.geometry.segment_len(self.segment);
        for number in (0..self.file.geometry.k()).map(ShareNumber) {
            let window = self.file.slot(record, number).unwrap_or_else(|| {
                let before = missing.iter().take_while(|&&other| other < number);
                record.sources().len() + before.count()
            });
            let part = self.length.min(left);
            lane.update(&[&step.windows[window][..part as usize]]);
            left -= part;
        }
        Ok(finish(lane))
    }

    /// The same of blocks that are read again, one data block after another. `None` if a copy failed or
    /// changed.
    async fn ciphertext_in_steps(
        &self,
        record: &SegmentRecord,
    ) -> Result<Option<Hash>, PieceError> {
        let mut lane = Lanes::new(1);
        lane.restart(1, SEGMENT_TAG);
        let mut left = self.file.geometry.segment_len(self.segment);
        for number in (0..self.file.geometry.k()).map(ShareNumber) {
            let own = self.file.slot(record, number);
            let (slots, more) = match own {
                Some(slot) => (slot..slot + 1, 0),
                None => (0..record.sources().len(), 1),
            };
            let copies = &record.sources()[slots.clone()];
            let step = self.step_bytes(copies.len() + more);
            let mut start = 0;
            while start < self.length && left > 0 {
                let range = start..(start + step).min(self.length);
                let Some(mut read) = self.read(copies, &range, more).await? else {
                    return Ok(None);
                };
                if !self.still_matches(record, slots.clone(), start, &read.windows) {
                    return Ok(None);
                }
                if own.is_none() {
                    self.rebuild(record, &[number], &mut read.windows)?;
                }
                let block = &read.windows[read.windows.len() - 1];
                let part = left.min(block.len() as u64);
                lane.update(&[&block[..part as usize]]);
                left -= part;
                start = range.end;
            }
        }
        Ok(Some(finish(lane)))
    }

    /// Whether what was read again is what was hashed.
    fn still_matches(
        &self,
        record: &SegmentRecord,
        slots: Range<usize>,
        start: u64,
        windows: &[Window],
    ) -> bool {
        let mut all = true;
        for (slot, window) in slots.zip(windows) {
            if record.check(slot, start, window).is_err() {
                self.file.mark_bad(record.sources()[slot], self.segment);
                all = false;
            }
        }
        all
    }

    /// Rebuilds data blocks from the record's copies: the first windows are theirs, the last take the
    /// results.
    fn rebuild(
        &self,
        record: &SegmentRecord,
        wanted: &[ShareNumber],
        windows: &mut [Window],
    ) -> Result<(), PieceError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let copies = record.sources().iter();
        let sources: Vec<usize> = copies
            .map(|&at| self.file.copies[at].number.index())
            .collect();
        let wanted: Vec<usize> = wanted.iter().map(|number| number.index()).collect();
        let (read, rebuilt) = windows.split_at_mut(sources.len());
        let inputs: Vec<&[u8]> = read.iter().map(|window| &window[..]).collect();
        let mut outputs: Vec<&mut [u8]> =
            rebuilt.iter_mut().map(|window| &mut window[..]).collect();
        self.engine.coder.borrow_mut().rebuild(
            &self.file.code,
            &sources,
            &inputs,
            &wanted,
            &mut outputs,
        )?;
        Ok(())
    }

    /// Whether a block's hash is the one that its copy's block hash tree has.
    async fn block_is_right(
        &self,
        at: usize,
        hash: Hash,
        page: Window,
    ) -> Result<(bool, Window), PieceError> {
        let known = self.trees.take(self.file.id, Tree::Blocks(at));
        let mut proven = known.unwrap_or_else(|| self.file.block_tree(at));
        let regions = self.file.copies[at].regions;
        let first = |node| Some(regions.block_node(node).start);
        let (right, page) = self.check(at, &mut proven, hash, first, page).await?;
        if right {
            self.trees.keep(self.file.id, Tree::Blocks(at), proven);
        }
        Ok((right, page))
    }

    /// Whether the ciphertext's hash is the one that the ciphertext hash tree has, in any copy.
    async fn ciphertext_is_right(&self, hash: Hash) -> Result<bool, PieceError> {
        let known = self.trees.take(self.file.id, Tree::Ciphertext);
        let mut proven = known.unwrap_or_else(|| self.file.ciphertext_tree());
        let mut page = self.page().await?;
        for (at, copy) in self.file.copies.iter().enumerate() {
            if !copy.is_usable(true) {
                continue;
            }
            let first = |node| copy.regions.ciphertext_node(node).map(|range| range.start);
            let right;
            (right, page) = self.check(at, &mut proven, hash, first, page).await?;
            if right {
                self.trees.keep(self.file.id, Tree::Ciphertext, proven);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks the segment's leaf of a tree with the nodes that a copy has; `first` tells where one is.
    async fn check(
        &self,
        at: usize,
        proven: &mut ProvenNodes,
        hash: Hash,
        first: impl Fn(u64) -> Option<u64>,
        mut page: Window,
    ) -> Result<(bool, Window), PieceError> {
        let mut siblings = Vec::new();
        let mut loaded = None;
        for node in proven.needed(self.segment) {
            // Pages count from the tree's first node, so that no node lies in two.
            let first_node = node - node % PAGE_NODES;
            if loaded != Some(first_node) {
                let Some(offset) = first(first_node) else {
                    return Ok((false, page));
                };
                let copy = &self.file.copies[at];
                let offset = FileOffset(offset);
                let mut reading = [self.engine.io.start_read(&copy.file, page, offset)];
                join(&mut reading, self.engine.timeout).await;
                let [reading] = reading;
                let (result, back) = read::count(reading, &copy.store, self.file.number)?;
                page = match back {
                    Some(page) => page,
                    None => self.page().await?,
                };
                match result {
                    // The file may end in this page, behind the node.
                    Ok(count) => page[count..].fill(0),
                    Err(error) => {
                        self.file.lose(at, &error);
                        return Ok((false, page));
                    }
                }
                loaded = Some(first_node);
            }
            let start = ((node - first_node) * NODE_BYTES) as usize;
            let mut sibling = Hash::default();
            sibling.copy_from_slice(&page[start..start + NODE_BYTES as usize]);
            siblings.push(sibling);
        }
        Ok((proven.check(self.segment, hash, &siblings).is_ok(), page))
    }
}

fn finish(mut lane: Lanes) -> Hash {
    let mut hash = Hash::default();
    lane.finish(std::slice::from_mut(&mut hash));
    hash
}
