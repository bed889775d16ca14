//! The plan of one piece: which ranges of which shares to read, what to rebuild from them, and in
//! which order the bytes are sent.
//!
//! Pure: a request's range, the object's layout, which shares are usable, and how large the piece
//! may be. A healthy piece touches only the data shares that hold its bytes. Where one of those is
//! missing, the same range of k others is read and only that range is rebuilt.

use std::ops::Range;

use super::PieceError;
use crate::io::Room;
use crate::memory::limits::SLICES_MAX;
use crate::objects::Layout;
use crate::units::{CopyNumber, Length, ObjectOffset, ShareNumber, ShareOffset};

/// One contiguous read of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The share's number.
    pub share: ShareNumber,
    /// Which copy of it: chosen once the window is known.
    pub copy: CopyNumber,
    /// What to read: whole leaves.
    pub window: Range<ShareOffset>,
}

impl Read {
    /// A read of the copy of a share that is read as a rule.
    pub fn new(share: ShareNumber, window: Range<ShareOffset>) -> Read {
        Read {
            share,
            copy: CopyNumber::default(),
            window,
        }
    }

    /// How many bytes it brings.
    pub fn bytes(&self) -> usize {
        self.window.length() as usize
    }
}

/// A run of the object's bytes inside one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Index of the window: first the reads in order, then the rebuilt ones.
    pub window: usize,
    /// Bytes of that window.
    pub bytes: Range<usize>,
}

/// What one turn does for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PiecePlan {
    /// The object's bytes that this piece delivers; starts where asked, may end earlier.
    pub range: Range<ObjectOffset>,
    /// Reads, one per share that takes part.
    pub reads: Vec<Read>,
    /// Data shares to rebuild, all over `rebuilt_window`.
    pub rebuilt: Vec<ShareNumber>,
    /// Empty when nothing is rebuilt.
    pub rebuilt_window: Range<ShareOffset>,
    /// The k reads (as indices) to rebuild from; each covers `rebuilt_window`.
    pub sources: Vec<usize>,
    /// The piece in the order of its bytes.
    pub slices: Vec<Slice>,
}

impl PiecePlan {
    /// The window lengths in bytes: the reads' in order, then the rebuilt ones'.
    pub fn window_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let rebuilt = self.rebuilt_window.length() as usize;
        self.reads
            .iter()
            .map(Read::bytes)
            .chain(self.rebuilt.iter().map(move |_| rebuilt))
    }

    /// Bytes that all windows take in a pool buffer which aligns them so.
    pub fn bytes(&self, align: usize) -> usize {
        self.window_lengths()
            .map(|length| length.next_multiple_of(align))
            .sum()
    }
}

/// Plans a piece of `wanted`: it starts where that starts, and is as long as its windows fit the `room`.
/// `usable` says whether a share can serve a range of its space.
///
/// `wanted` must not be empty and must lie inside the object.
///
/// # Errors
/// [`PieceError::TooFewShares`] or [`PieceError::BufferTooSmall`], of the shortest piece that was tried.
pub fn plan(
    layout: &Layout,
    wanted: Range<ObjectOffset>,
    room: Room,
    usable: impl Fn(ShareNumber, &Range<ShareOffset>) -> bool,
) -> Result<PiecePlan, PieceError> {
    debug_assert!(wanted.start < wanted.end && wanted.end <= layout.end());
    let mut range = wanted.start..preferred_end(layout, &wanted);
    loop {
        let attempt = plan_exactly(layout, range.clone(), &usable);
        let failure = match attempt {
            Ok(plan) if plan.bytes(room.align) <= room.bytes => {
                // Where two blocks are rebuilt, the one over a part and the other over another, both are over
                // the hull of them. A piece of whole blocks wastes nothing, and the next one can be whole too.
                match block_end(layout, &plan.range).filter(|_| !plan.rebuilt.is_empty()) {
                    Some(end) => range.end = end,
                    None => return Ok(plan),
                }
                continue;
            }
            Ok(plan) => PieceError::BufferTooSmall {
                have: room.bytes,
                need: plan.bytes(room.align),
            },
            Err(error) => error,
        };
        // A smaller piece needs less memory, and damage elsewhere in its window does not count.
        match shorter(layout, &range) {
            Some(end) => range.end = end,
            None => return Err(failure),
        }
    }
}

/// Where a piece that may end at `wanted.end` best ends: at a segment's end, so that the next one
/// starts whole, or at least at a leaf's, so that no leaf is verified twice.
fn preferred_end(layout: &Layout, wanted: &Range<ObjectOffset>) -> ObjectOffset {
    let Range { start, end } = *wanted;
    let segment_end = end - end.0 % layout.segment_bytes();
    if segment_end > start && segment_end - start >= (end - start) / 2 {
        return segment_end;
    }
    let leaf_end = last_leaf_end(layout, end);
    if end < layout.end() && leaf_end > start {
        leaf_end
    } else {
        end
    }
}

/// The last block boundary before the end of a piece that ends inside a block, unless most of it lies behind, or
/// the object ends there.
fn block_end(layout: &Layout, piece: &Range<ObjectOffset>) -> Option<ObjectOffset> {
    if piece.end == layout.end() {
        return None;
    }
    let last = layout.locate(piece.end - 1);
    let after = last.in_block + 1;
    let before = piece.length().checked_sub(after)?;
    (after < last.block_len && before >= after).then(|| piece.end - after)
}

/// The last leaf boundary at or before `position`, inside the block that holds it.
fn last_leaf_end(layout: &Layout, position: ObjectOffset) -> ObjectOffset {
    let at = layout.locate(ObjectOffset(position.0.saturating_sub(1)));
    let in_block = at.in_block + 1;
    if in_block == at.block_len {
        return position;
    }
    position - in_block % layout.leaf_bytes
}

/// A shorter end for a piece that did not fit or could not be read; `None` at a single leaf.
fn shorter(layout: &Layout, range: &Range<ObjectOffset>) -> Option<ObjectOffset> {
    let (first, last) = (layout.locate(range.start), layout.locate(range.end - 1));
    let segments = last.segment - first.segment;
    if segments > 0 {
        let end = (first.segment + segments.div_ceil(2)) * layout.segment_bytes();
        return Some(ObjectOffset(end));
    }
    if last.share != first.share {
        return Some(range.start + (first.block_len - first.in_block));
    }
    let leaf = layout.leaf_bytes;
    let (from, to) = (first.in_block, last.in_block + 1);
    let middle = (from + (to - from) / 2) / leaf * leaf;
    let next_leaf = (from / leaf + 1) * leaf;
    let end = if middle > from { middle } else { next_leaf };
    (end < to).then(|| range.start + (end - from))
}

/// Where a range of the object lies when no share is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthy {
    /// What is described: starts where asked, and ends earlier where the limit on slices wants it.
    pub range: Range<ObjectOffset>,
    /// The data shares that hold it, each with the whole leaves around all that is wanted from it.
    pub reads: Vec<Read>,
    /// The object's bytes in order: the index of a read, and a range of its share's space.
    pub runs: Vec<(usize, Range<ShareOffset>)>,
}

/// Says where `range` lies. It must not be empty and must lie inside the object.
pub fn healthy(layout: &Layout, mut range: Range<ObjectOffset>) -> Healthy {
    let mut needed: Vec<Read> = Vec::with_capacity(usize::from(layout.k));
    let mut runs: Vec<(usize, Range<ShareOffset>)> = Vec::with_capacity(16);
    let mut position = range.start;
    while position < range.end && runs.len() < SLICES_MAX {
        let place = layout.locate(position);
        let take = (place.block_len - place.in_block).min(range.end - position);
        let start = layout.block_start(place.segment) + place.in_block;
        let share = place.share;
        let at = match needed.iter().position(|read| read.share == share) {
            Some(at) => at,
            None => {
                needed.push(Read::new(share, start..start));
                needed.len() - 1
            }
        };
        needed[at].window.end = start + take;
        runs.push((at, start..start + take));
        position += take;
    }
    range.end = position;
    for read in &mut needed {
        read.window = layout.whole_leaves(&read.window);
    }
    Healthy {
        range,
        reads: needed,
        runs,
    }
}

/// Plans all of `range`, or as much of it as the limit on slices allows.
fn plan_exactly(
    layout: &Layout,
    range: Range<ObjectOffset>,
    usable: &impl Fn(ShareNumber, &Range<ShareOffset>) -> bool,
) -> Result<PiecePlan, PieceError> {
    let Healthy {
        range,
        reads: needed,
        runs,
    } = healthy(layout, range);
    let missing: Vec<usize> = (0..needed.len())
        .filter(|&i| !usable(needed[i].share, &needed[i].window))
        .collect();
    if missing.is_empty() {
        let slices = slices(&runs, |at| (at, needed[at].window.start));
        return Ok(PiecePlan {
            range,
            reads: needed,
            rebuilt: Vec::new(),
            rebuilt_window: Range::default(),
            sources: Vec::new(),
            slices,
        });
    }

    type Window = Range<ShareOffset>;
    let hull = |a: &Window, b: &Window| a.start.min(b.start)..a.end.max(b.end);
    let rebuilt_window = missing
        .iter()
        .map(|&i| needed[i].window.clone())
        .reduce(|a, b| hull(&a, &b))
        .unwrap_or_default();
    let k = usize::from(layout.k);
    let mut reads: Vec<Read> = Vec::with_capacity(k);
    let mut sources = Vec::with_capacity(k);
    // Where each needed share's window ended up: a read, or (after all reads) a rebuilt one.
    let mut windows = vec![usize::MAX; needed.len()];
    for (i, read) in needed
        .iter()
        .enumerate()
        .filter(|(i, _)| !missing.contains(i))
    {
        windows[i] = reads.len();
        let widened = hull(&read.window, &rebuilt_window);
        if sources.len() < k && usable(read.share, &widened) {
            sources.push(reads.len());
            reads.push(Read::new(read.share, widened));
        } else {
            reads.push(read.clone());
        }
    }
    for share in (0..layout.n).map(ShareNumber) {
        if sources.len() == k {
            break;
        }
        if !needed.iter().any(|read| read.share == share) && usable(share, &rebuilt_window) {
            sources.push(reads.len());
            reads.push(Read::new(share, rebuilt_window.clone()));
        }
    }
    if sources.len() < k {
        return Err(PieceError::TooFewShares {
            have: sources.len(),
            need: k,
            range,
        });
    }
    for (output, &i) in missing.iter().enumerate() {
        windows[i] = reads.len() + output;
    }
    let slices = slices(&runs, |at| {
        let window = windows[at];
        (
            window,
            reads
                .get(window)
                .map_or(rebuilt_window.start, |read| read.window.start),
        )
    });
    let rebuilt = missing.iter().map(|&i| needed[i].share).collect();
    Ok(PiecePlan {
        range,
        reads,
        rebuilt,
        rebuilt_window,
        sources,
        slices,
    })
}

fn slices(
    runs: &[(usize, Range<ShareOffset>)],
    window_of: impl Fn(usize) -> (usize, ShareOffset),
) -> Vec<Slice> {
    runs.iter()
        .map(|(at, run)| {
            let (window, start) = window_of(*at);
            Slice {
                window,
                bytes: (run.start - start) as usize..(run.end - start) as usize,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{DIRECT_ALIGN, WINDOW_ALIGN};
    use decode_kernel::share::Geometry;
    use proptest::prelude::*;

    fn room(bytes: usize) -> Room {
        let align = WINDOW_ALIGN;
        Room { bytes, align }
    }

    fn layout(size: u64, k: u16, n: u16, block_bytes: u32, leaf_bytes: u32) -> Layout {
        Layout::from(&Geometry::new(size, k, n, block_bytes, leaf_bytes).unwrap())
    }

    /// Plans with plain numbers.
    fn plan(
        layout: &Layout,
        wanted: Range<u64>,
        room: Room,
        usable: impl Fn(u16, &Range<u64>) -> bool,
    ) -> Result<PiecePlan, PieceError> {
        let wanted = ObjectOffset(wanted.start)..ObjectOffset(wanted.end);
        super::plan(layout, wanted, room, |share, window| {
            usable(share.0, &(window.start.0..window.end.0))
        })
    }

    /// The bytes of data share `share` in share space, where byte i of the object is `i * 31 + i / 256`.
    fn share_bytes(layout: &Layout, share: ShareNumber, window: &Range<ShareOffset>) -> Vec<u8> {
        (window.start.0..window.end.0)
            .map(|at| {
                let segment = at / layout.block_bytes;
                let in_block = at % layout.block_bytes;
                let block_len = layout.block_len(segment);
                let position =
                    segment * layout.segment_bytes() + u64::from(share.0) * block_len + in_block;
                if position < layout.size {
                    object_byte(position)
                } else {
                    0
                }
            })
            .collect()
    }

    #[test]
    fn a_piece_with_something_to_rebuild_ends_at_a_block() {
        const KIB: u64 = 1024;
        let layout = layout(1 << 20, 4, 6, 64 << 10, 4096);
        let end = |range: Range<u64>, lost: &[u16]| {
            let usable = |share: u16, _: &Range<u64>| !lost.contains(&share);
            let plan = plan(&layout, range.clone(), room(1 << 20), usable).unwrap();
            check(&layout, &range, &plan, lost);
            plan.range.end.0 / KIB
        };
        assert_eq!(end(0..150 * KIB, &[]), 148, "a leaf's end");
        assert_eq!(end(0..150 * KIB, &[0, 1]), 128);
        assert_eq!(end(0..150 * KIB, &[3]), 148, "nothing is rebuilt");
        assert_eq!(end(0..100 * KIB, &[0]), 64);
        assert_eq!(end(0..130 * KIB, &[0]), 128);
        assert_eq!(end(0..60 * KIB, &[0]), 60, "within a block");
        let late = end(60 * KIB..128 * KIB, &[0, 1]);
        assert_eq!(late, 128, "most of it lies behind the boundary");
    }

    fn object_byte(position: u64) -> u8 {
        (position.wrapping_mul(31) ^ (position >> 8)) as u8
    }

    /// Checks that a plan is what it must be, and that it delivers the object's bytes.
    fn check(layout: &Layout, wanted: &Range<u64>, plan: &PiecePlan, lost: &[u16]) {
        let range = plan.range.start.0..plan.range.end.0;
        assert_eq!(range.start, wanted.start);
        assert!(range.end > wanted.start && range.end <= wanted.end);
        for read in &plan.reads {
            assert!(!lost.contains(&read.share.0), "a lost share is read");
            assert!(read.window.start < read.window.end);
            let start = read.window.start.0 % layout.block_bytes;
            assert_eq!(start % layout.leaf_bytes, 0);
            let last = layout.block_of(read.window.end - 1);
            let end = read.window.end - layout.block_start(last);
            assert!(
                end.is_multiple_of(layout.leaf_bytes) || end == layout.block_len(last),
                "{read:?}"
            );
        }
        if plan.rebuilt.is_empty() {
            assert!(plan.sources.is_empty());
        } else {
            assert_eq!(plan.sources.len(), usize::from(layout.k));
            for &source in &plan.sources {
                let window = &plan.reads[source].window;
                assert!(window.start <= plan.rebuilt_window.start);
                assert!(window.end >= plan.rebuilt_window.end);
            }
        }
        let mut windows: Vec<Vec<u8>> = plan
            .reads
            .iter()
            .map(|read| share_bytes(layout, read.share, &read.window))
            .collect();
        windows.extend(
            plan.rebuilt
                .iter()
                .map(|&share| share_bytes(layout, share, &plan.rebuilt_window)),
        );
        let sent: Vec<u8> = plan
            .slices
            .iter()
            .flat_map(|slice| windows[slice.window][slice.bytes.clone()].to_vec())
            .collect();
        let expected: Vec<u8> = range.map(object_byte).collect();
        assert!(
            sent == expected,
            "the slices do not give the object's bytes {:?}",
            plan.range
        );
    }

    proptest! {
        #[test]
        fn plans_deliver_the_range_from_the_shares_that_are_left(
            k in 1u16..8,
            m in 0u16..4,
            blocks in 1u32..4,
            leaf_power in 9u32..13,
            size in 1u64..300_000,
            at in any::<prop::sample::Index>(),
            length in 1u64..200_000,
            lost in prop::collection::vec(0u16..12, 0..4),
            leaves in 1usize..40,
            align in prop_oneof![Just(WINDOW_ALIGN), Just(DIRECT_ALIGN)],
            odd in prop_oneof![Just(0), 1u64..20_000],
        ) {
            let mut layout = layout(size, k, k + m, blocks * 4096, 1 << leaf_power);
            if odd > 0 {
                // Blocks that leaves don't divide, and a tail cut exactly.
                layout.block_bytes = odd;
                let tail = (size - 1) % layout.segment_bytes() + 1;
                layout.tail_block_bytes = tail.div_ceil(u64::from(k));
            }
            let start = at.index(size as usize) as u64;
            let wanted = start..(start + length).min(size);
            let mut lost: Vec<u16> = lost.into_iter().filter(|&share| share < k + m).collect();
            lost.sort_unstable();
            lost.dedup();
            let capacity = (usize::from(k) + 1) * (1usize << leaf_power).next_multiple_of(align) * leaves;
            let usable = |share: u16, _: &Range<u64>| !lost.contains(&share);
            match plan(&layout, wanted.clone(), Room { bytes: capacity, align }, usable) {
                Ok(plan) => {
                    prop_assert!(plan.bytes(align) <= capacity);
                    check(&layout, &wanted, &plan, &lost);
                }
                Err(PieceError::TooFewShares { have, need, .. }) => {
                    prop_assert!(have < need && lost.len() > usize::from(m));
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }

        #[test]
        fn pieces_make_a_whole_body(
            size in 1u64..400_000,
            credit in 1u64..100_000,
            bad in prop::collection::vec((0u16..5, 0u64..25), 0..20),
        ) {
            // 3+2; every leaf row keeps at least three good shares, else the body can't be whole.
            let layout = layout(size, 3, 5, 8192, 4096);
            let rows = size.div_ceil(layout.segment_bytes()) * 2;
            let readable = (0..rows)
                .all(|row| (0..5).filter(|&share| bad.contains(&(share, row))).count() <= 2);
            let usable = |share: u16, window: &Range<u64>| {
                !(window.start / 4096..window.end.div_ceil(4096)).any(|row| bad.contains(&(share, row)))
            };
            let mut position = 0;
            while position < size {
                let wanted = position..(position + credit).min(size);
                match plan(&layout, wanted.clone(), room(200_000), usable) {
                    Ok(plan) => {
                        check(&layout, &wanted, &plan, &[]);
                        position = plan.range.end.0;
                    }
                    Err(_) => {
                        prop_assert!(!readable);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_healthy_piece_reads_only_what_it_sends() {
        let layout = layout(1 << 20, 4, 6, 16 << 10, 4096);
        let planned = |wanted| plan(&layout, wanted, room(1 << 20), |_, _| true).unwrap();
        let plan = planned(0..128 << 10);
        assert_eq!(plan.range.end, ObjectOffset(128 << 10));
        assert_eq!(plan.bytes(WINDOW_ALIGN), 128 << 10);
        assert_eq!(plan.reads.len(), 4);
        let plan = planned(5000..5001);
        assert_eq!((plan.reads.len(), plan.bytes(WINDOW_ALIGN)), (1, 4096));
    }

    #[test]
    fn a_small_degraded_range_is_small_work() {
        let layout = layout(1 << 20, 4, 6, 16 << 10, 4096);
        let plan = plan(&layout, 0..100, room(1 << 20), |share, _| share != 0).unwrap();
        assert_eq!((plan.reads.len(), plan.bytes(WINDOW_ALIGN)), (4, 5 * 4096));
        assert_eq!(plan.rebuilt, [ShareNumber(0)]);
    }

    #[test]
    fn a_buffer_that_is_too_small_says_what_it_takes() {
        let layout = layout(1 << 20, 4, 6, 16 << 10, 4096);
        let error = plan(&layout, 0..1, room(4 * 4096), |share, _| share != 0).unwrap_err();
        let PieceError::BufferTooSmall { have, need } = error else {
            panic!("{error}");
        };
        assert_eq!((have, need), (4 * 4096, 5 * 4096));
    }
}
