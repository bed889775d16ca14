//! Reads ranges of share space, verifies each leaf, and rebuilds missing and bad leaves.
//!
//! A *row* is one leaf of every share. Any share may be bad at any place; a row can be read as long as k of its leaves
//! are good. So no share is given up as a whole: each range is rebuilt from the shares that are good in that range. Get
//! and repair use this.

use std::ops::Range;

use decode_kernel::CodeError;
use decode_kernel::code::{Code, Coder};
use decode_kernel::share::{BLOCKS_OFFSET, Header, Key, PAGE_BYTES, TablePage};

use crate::pace::Pace;
use crate::parallel;
use crate::store::{Group, OpenShare};

/// Rebuild plans kept for reuse. Damage that differs from row to row needs more than one.
const PLANS_MAX: usize = 16;

/// Why a range cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// Fewer than k good leaves in a row.
    #[error(
        "object {key:?} cannot be read: only {have} shares are good at bytes {}..{} of their blocks, \
         {need} are needed",
        range.start, range.end
    )]
    TooFew {
        /// Which object.
        key: Key,
        /// Bytes in share space; add 4096 for offsets in the files.
        range: Range<u64>,
        /// Good shares found.
        have: usize,
        /// k.
        need: usize,
    },
    /// The code in the header cannot be made, or refused its input.
    #[error(transparent)]
    Code(#[from] CodeError),
}

/// Damage found while reading, and the work done to rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Leaves that were read but did not match their checksums, or could not be read.
    pub bad_leaves: u64,
    /// Bytes of blocks that were rebuilt.
    pub rebuilt_bytes: u64,
}

/// The shares of one put, read together.
pub(crate) struct Rows {
    pub(crate) header: Header,
    pub(crate) readers: Vec<ShareReader>,
    pub(crate) stats: ReadStats,
    code: Code,
    coder: Coder,
    scratch: Vec<Vec<u8>>,
}

impl Rows {
    /// The rows of the group's shares. Both copies of a share are used: one may be good where the other is bad.
    pub(crate) fn new(group: Group) -> Result<Rows, RowError> {
        let Group { header, shares, .. } = group;
        let geometry = &header.geometry;
        let code = Code::new(header.code, geometry.k().into(), geometry.n().into())?;
        let readers = shares
            .into_iter()
            .map(|share| ShareReader::new(share, &header))
            .collect();
        let (coder, scratch) = (Coder::new(PLANS_MAX), Vec::new());
        Ok(Rows {
            header,
            readers,
            stats: ReadStats::default(),
            code,
            coder,
            scratch,
        })
    }

    /// Keeps all reads to this pace.
    pub(crate) fn paced(mut self, pace: &Pace) -> Rows {
        let readers = self.readers.into_iter();
        self.readers = readers.map(|reader| reader.paced(pace)).collect();
        self
    }

    /// Fills `outputs[i]` with `range` of share `wanted[i]` (the numbers differ). Each leaf is verified, or rebuilt
    /// from verified leaves. The range begins at the start of a leaf and ends at the end of one; the outputs are as
    /// long as the range. Takes at most as much memory again as k shares of the range.
    pub(crate) fn read(
        &mut self,
        range: Range<u64>,
        wanted: &[u16],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), RowError> {
        let leaf_bytes = u64::from(self.header.geometry.leaf_bytes());
        let leaves = (range.end - range.start).div_ceil(leaf_bytes) as usize;
        prefetch(&self.readers, &range, |number| wanted.contains(&number));
        let mut good = vec![vec![false; leaves]; wanted.len()];
        for ((number, output), good) in wanted.iter().zip(&mut *outputs).zip(&mut good) {
            self.read_one(*number, &range, output, good);
        }
        // Runs of rows in which the same wanted leaves are bad are rebuilt together.
        let mut start = 0;
        while start < leaves {
            let bad: Vec<usize> = (0..wanted.len()).filter(|&i| !good[i][start]).collect();
            let same = |row: &usize| (0..wanted.len()).all(|i| good[i][*row] == good[i][start]);
            let end = start + (start..leaves).take_while(same).count();
            if !bad.is_empty() {
                self.rebuild(&range, start..end, wanted, &bad, outputs)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Reads `range` of share `number` from any of its copies, and marks the good leaves.
    fn read_one(&mut self, number: u16, range: &Range<u64>, output: &mut [u8], good: &mut [bool]) {
        let leaf_bytes = self.header.geometry.leaf_bytes() as usize;
        let mut first = true;
        for reader in self
            .readers
            .iter_mut()
            .filter(|reader| reader.share.number == number)
        {
            if first {
                self.stats.bad_leaves += reader.read(&self.header, range.start, output, good);
            } else if good.contains(&false) {
                // A second copy of the share supplies the leaves that the first lacks.
                let mut copy = vec![0; output.len()];
                let mut copy_good = vec![false; good.len()];
                reader.read(&self.header, range.start, &mut copy, &mut copy_good);
                let leaves = output.chunks_mut(leaf_bytes).zip(copy.chunks(leaf_bytes));
                for (i, (leaf, copy)) in leaves.enumerate() {
                    if !good[i] && copy_good[i] {
                        leaf.copy_from_slice(copy);
                        good[i] = true;
                    }
                }
            }
            first = false;
        }
    }

    /// Rebuilds the `rows` (counted from the start of the range) of the outputs named by `bad`. The other outputs are
    /// good in these rows.
    fn rebuild(
        &mut self,
        range: &Range<u64>,
        rows: Range<usize>,
        wanted: &[u16],
        bad: &[usize],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), RowError> {
        let leaf_bytes = self.header.geometry.leaf_bytes() as usize;
        let (from, to) = (
            rows.start * leaf_bytes,
            (rows.end * leaf_bytes).min(outputs[0].len()),
        );
        let k = self.code.k();
        let mut sources: Vec<usize> = Vec::with_capacity(k);
        let here: Vec<usize> = (0..wanted.len())
            .filter(|i| !bad.contains(i))
            .take(k)
            .collect();
        sources.extend(here.iter().map(|&i| usize::from(wanted[i])));

        // The rest of the k sources are shares that the caller did not ask for.
        let mut extra = 0;
        let mut good = vec![false; rows.len()];
        for reader in &mut self.readers {
            let number = usize::from(reader.share.number);
            if sources.len() == k {
                break;
            }
            if sources.contains(&number) || wanted.contains(&reader.share.number) {
                continue;
            }
            if self.scratch.len() == extra {
                self.scratch.push(Vec::new());
            }
            let buffer = &mut self.scratch[extra];
            buffer.resize(to - from, 0);
            good.fill(false);
            self.stats.bad_leaves +=
                reader.read(&self.header, range.start + from as u64, buffer, &mut good);
            if !good.contains(&false) {
                sources.push(number);
                extra += 1;
            }
        }
        if sources.len() < k {
            if rows.len() == 1 {
                let range = range.start + from as u64..range.start + to as u64;
                let key = self.header.key.clone();
                return Err(RowError::TooFew {
                    key,
                    range,
                    have: sources.len(),
                    need: k,
                });
            }
            // Too few shares are good over the whole run, but each row may have enough.
            let middle = rows.start + rows.len() / 2;
            self.rebuild(range, rows.start..middle, wanted, bad, outputs)?;
            return self.rebuild(range, middle..rows.end, wanted, bad, outputs);
        }

        let mut inputs: Vec<&[u8]> = Vec::with_capacity(k);
        let mut targets: Vec<&mut [u8]> = Vec::with_capacity(bad.len());
        for (i, output) in outputs.iter_mut().enumerate() {
            if bad.contains(&i) {
                targets.push(&mut output[from..to]);
            } else if inputs.len() < here.len() {
                inputs.push(&output[from..to]);
            }
        }
        inputs.extend(
            self.scratch[..extra]
                .iter()
                .map(|buffer| &buffer[..to - from]),
        );
        let numbers: Vec<usize> = bad.iter().map(|&i| wanted[i].into()).collect();
        self.coder
            .rebuild(&self.code, &sources, &inputs, &numbers, &mut targets)?;
        self.stats.rebuilt_bytes += (bad.len() * (to - from)) as u64;
        Ok(())
    }
}

/// Has the first copies of shares in buckets fetched side by side, as each takes its time to answer. Takes as much memory as
/// they are long.
pub(crate) fn prefetch(readers: &[ShareReader], range: &Range<u64>, wanted: impl Fn(u16) -> bool) {
    let mut last = None;
    let firsts = readers.iter().filter(|reader| {
        let number = reader.share.number;
        last.replace(number) != Some(number) && wanted(number) && reader.share.file.is_remote()
    });
    let firsts: Vec<&ShareReader> = firsts.collect();
    parallel::each(firsts, |reader| {
        let file = &reader.share.file;
        file.prefetch(BLOCKS_OFFSET + range.start, range.end - range.start);
    });
}

/// One share file, read leaf by leaf with verification.
pub(crate) struct ShareReader {
    pub(crate) share: OpenShare,
    /// The page of the leaf table that was used last, and its index.
    page: Box<[u8; PAGE_BYTES]>,
    page_index: Option<u64>,
    page_good: bool,
    pace: Pace,
}

impl ShareReader {
    /// A reader of a share of the put that `header` describes; the number in `header` is ignored.
    pub(crate) fn new(share: OpenShare, header: &Header) -> ShareReader {
        debug_assert!(share.number < header.geometry.n());
        ShareReader {
            share,
            page: Box::new([0; PAGE_BYTES]),
            page_index: None,
            page_good: false,
            pace: Pace::default(),
        }
    }

    /// Keeps its reads to this pace.
    pub(crate) fn paced(mut self, pace: &Pace) -> ShareReader {
        self.pace = pace.clone();
        self
    }

    /// Fills `buffer` from `start` in share space. Both ends of the range are ends of leaves. Sets `good[i]` for each
    /// leaf that matches its checksum. A leaf that cannot be read is bad. Returns the number of bad leaves.
    pub(crate) fn read(
        &mut self,
        header: &Header,
        start: u64,
        buffer: &mut [u8],
        good: &mut [bool],
    ) -> u64 {
        let geometry = &header.geometry;
        let leaf_bytes = geometry.leaf_bytes() as usize;
        let offset = BLOCKS_OFFSET + start;
        self.pace.wait(buffer.len() as u64);
        let all_read = self.share.file.read_exact_at(buffer, offset).is_ok();
        let mut bad = 0;
        for (i, (leaf, good)) in buffer.chunks_mut(leaf_bytes).zip(good).enumerate() {
            let at = (i * leaf_bytes) as u64;
            // One bad sector must not cost the neighbouring leaves.
            let read = all_read || self.share.file.read_exact_at(leaf, offset + at).is_ok();
            let (page, entry) = geometry.table_page_of((start + at) / leaf_bytes as u64);
            let sum = self
                .table_page(header, page)
                .map(|table| table.entry(entry));
            *good = read && sum == Some(header.leaf_checksum.compute(leaf));
            bad += u64::from(!*good);
        }
        bad
    }

    /// Page `index` of the leaf table, or `None` if it is damaged.
    pub(crate) fn table_page(&mut self, header: &Header, index: u64) -> Option<TablePage<'_>> {
        let fresh = self.page_index != Some(index);
        if fresh {
            let offset = header.geometry.table_offset() + index * PAGE_BYTES as u64;
            self.pace.wait(PAGE_BYTES as u64);
            self.page_good = self
                .share
                .file
                .read_exact_at(&mut self.page[..], offset)
                .is_ok();
            self.page_index = Some(index);
        }
        if !self.page_good {
            return None;
        }
        let page = TablePage::decode(&header.generation, self.share.number, index, &self.page[..]);
        self.page_good = page.is_ok();
        page.ok()
    }
}
