//! Rebuilt blocks, kept in memory for other clients of the same object.
//!
//! Clients that download the same degraded object at about the same time ask for the same blocks, and each of them
//! would have a lost block rebuilt: k blocks read and verified for it. So a block that is rebuilt for the first of them
//! is kept, and the others are sent it from there, between what [`splice`](super::splice) finds in share files. The
//! memory is of a planned size: a [`Ring`].
//!
//! A client with a small send buffer has a block rebuilt part by part. The parts of a block are put together at its
//! place, as long as each continues what is there.
//!
//! Keeping a block costs a copy of it, in vain where no other client comes. So every rebuilt block gets a place, but its
//! bytes are put there only if its object is *shared*: the beginning of what was rebuilt of a block was rebuilt again
//! while it still had its place, so that keeping it would have spared the second time. Once a ring full of blocks was kept of an object and none was
//! used, it is shared no more. A single client that downloads a large object, and many clients of many objects, pay for
//! a look-up and nothing else.
//!
//! Every block was rebuilt from verified leaves, of an object that never changes, so a copy can't be outdated. It
//! counts for the verify age all the same, as verified leaves do; with `--verify always` nothing is kept.

use std::cell::{Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::iter;
use std::ops::Range;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::ring::Ring;
use crate::engine::Piece;
use crate::memory::limits::{
    REBUILT_BLOCK_BYTES, REBUILT_OBJECTS_MAX, REBUILT_SHARED_BYTES, SPLICE_BLOCK_BYTES_MIN,
};
use crate::objects::Object;
use crate::units::{Length, ObjectId, ShareNumber, ShareOffset};

/// An object's id, a share's number, a segment's.
type BlockId = (ObjectId, ShareNumber, u64);

/// The place of a rebuilt block.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    /// Bytes of the block.
    bytes: u32,
    /// The part of it whose bytes are there; if none are kept, the part that was rebuilt because somebody wanted it.
    part: (u32, u32),
    /// When the first of its bytes were put there, if they were.
    kept: Option<Instant>,
}

impl Place {
    fn part(&self) -> Range<usize> {
        self.part.0 as usize..self.part.1 as usize
    }

    fn set_part(&mut self, part: Range<usize>) {
        // A part of a block, whose length fits.
        self.part = (part.start as u32, part.end as u32);
    }
}

/// A part of a block that was just rebuilt.
struct Rebuilt<'a> {
    /// Bytes of the whole block.
    block_bytes: usize,
    /// Where in the block the part begins.
    start: usize,
    /// Its bytes.
    bytes: &'a [u8],
    /// The bytes of the block that a client wanted: of the part, or none.
    wanted: Range<usize>,
}

impl Rebuilt<'_> {
    fn part(&self) -> Range<usize> {
        self.start..self.start + self.bytes.len()
    }
}

/// One core's memory of rebuilt blocks.
pub struct RebuiltBlocks {
    /// How long one is kept; `None` if none is.
    age: Option<Duration>,
    ring: RefCell<Ring>,
    places: RefCell<Places>,
    /// Shared objects, each with the bytes kept of it since one of its blocks was used.
    shared: RefCell<LruCache<ObjectId, usize>>,
}

#[derive(Default)]
struct Places {
    of: HashMap<BlockId, Place>,
    /// In the order in which they were given.
    given: VecDeque<(u64, BlockId)>,
}

// An entry of the map, which has 16/7 as many slots at most, and its tag; one of the queue, which grows by doubling.
const _: () = assert!(
    (size_of::<(BlockId, Place)>() + 1) * 16 / 7 + 2 * size_of::<(u64, BlockId)>()
        <= REBUILT_BLOCK_BYTES
);

/// The list of shared objects. Of each an entry with its links and what the allocator adds, and a slot of the map, which
/// has 16/7 as many slots at most, with its tag.
const REBUILT_OBJECTS_BYTES: usize = REBUILT_OBJECTS_MAX
    * (size_of::<(ObjectId, usize)>()
        + 2 * size_of::<usize>()
        + 16
        + (2 * size_of::<usize>() + 1) * 16 / 7);

impl RebuiltBlocks {
    /// None yet, in a memory of `bytes`, what is noted of them included; each counts for `age`, `None` keeps nothing.
    pub fn new(bytes: usize, age: Option<Duration>) -> RebuiltBlocks {
        let least = SPLICE_BLOCK_BYTES_MIN as usize;
        let blocks = bytes.saturating_sub(REBUILT_OBJECTS_BYTES) / (least + REBUILT_BLOCK_BYTES);
        RebuiltBlocks {
            age,
            ring: RefCell::new(Ring::new(if age.is_some() { blocks * least } else { 0 })),
            places: RefCell::default(),
            shared: RefCell::new(LruCache::unbounded()),
        }
    }

    /// Bytes of memory in use, without what is noted of the blocks.
    pub fn bytes(&self) -> usize {
        self.ring.borrow().used()
    }

    /// Whether the rebuilt blocks of an object are kept, because several clients want them.
    pub fn is_shared(&self, object: ObjectId) -> bool {
        self.shared.borrow().contains(&object)
    }

    /// Keeps what was just rebuilt for a piece, if other clients are likely to want it.
    pub fn keep(&self, object: &Object, piece: &Piece, now: Instant) {
        let (layout, window) = (object.layout(), &piece.rebuilt_window);
        let first = piece.chunks.len() - piece.rebuilt.len();
        for (at, (&share, bytes)) in iter::zip(&piece.rebuilt, piece.rebuilt_chunks()).enumerate() {
            let slices = || {
                piece
                    .slices
                    .iter()
                    .filter(|slice| slice.window == first + at)
            };
            for (segment, part) in layout.blocks(window) {
                let block = layout.block_start(segment);
                let from = (part.start - window.start) as usize;
                let part_bytes = &bytes[from..from + part.length() as usize];
                let start = (part.start - block) as usize;
                // A slice is of one block.
                let wanted = slices().find(|slice| {
                    slice.bytes.start >= from && slice.bytes.end <= from + part_bytes.len()
                });
                let wanted = wanted.map_or(0..0, |slice| {
                    slice.bytes.start - from + start..slice.bytes.end - from + start
                });
                let rebuilt = Rebuilt {
                    block_bytes: layout.block_len(segment) as usize,
                    start,
                    bytes: part_bytes,
                    wanted,
                };
                self.keep_part((object.id(), share, segment), &rebuilt, now);
            }
        }
    }

    fn keep_part(&self, id: BlockId, rebuilt: &Rebuilt<'_>, now: Instant) {
        let Ok(bytes) = u32::try_from(rebuilt.block_bytes) else {
            return;
        };
        if u64::from(bytes) < SPLICE_BLOCK_BYTES_MIN {
            return;
        }
        let mut shared = self.shared.borrow_mut();
        if let Some(place) = self.places.borrow_mut().of.get_mut(&id) {
            if self.is_kept(place, now) {
                return self.keep_more(id, place, rebuilt, &mut shared);
            }
            // It would not have been rebuilt now, had it been kept.
            if is_wanted_again(&place.part(), &rebuilt.wanted) {
                if !shared.contains(&id.0) {
                    share(&mut shared, id.0);
                }
            } else if place.kept.is_none() && !shared.contains(&id.0) {
                // The same client goes on in the block.
                if let Some(both) = union(&place.part(), &rebuilt.wanted) {
                    return place.set_part(both);
                }
            }
        } else if rebuilt.wanted.is_empty() && !shared.contains(&id.0) {
            return;
        }
        self.give_place(id, bytes, rebuilt, &mut shared, now);
    }

    /// Gives a block a new place, with the part that was rebuilt if its object is shared.
    fn give_place(
        &self,
        id: BlockId,
        bytes: u32,
        rebuilt: &Rebuilt<'_>,
        shared: &mut LruCache<ObjectId, usize>,
        now: Instant,
    ) {
        let Places { of, given } = &mut *self.places.borrow_mut();
        let mut ring = self.ring.borrow_mut();
        let Some(at) = ring.room(bytes as usize) else {
            return;
        };
        while let Some(&(gone, id)) = given.front().filter(|(at, _)| ring.find(*at, 0).is_none()) {
            given.pop_front();
            if of.get(&id).is_some_and(|place| place.at == gone) {
                of.remove(&id);
            }
        }
        let mut place = Place {
            at,
            bytes,
            part: (0, 0),
            kept: None,
        };
        place.set_part(rebuilt.wanted.clone());
        if let (true, Some(found)) = (shared.contains(&id.0), ring.find(at, bytes as usize)) {
            ring.write(found.start + rebuilt.start..found.start + rebuilt.part().end)
                .copy_from_slice(rebuilt.bytes);
            place.set_part(rebuilt.part());
            place.kept = Some(now);
            note_unused(shared, id.0, rebuilt.bytes.len(), ring.size());
        }
        of.insert(id, place);
        given.push_back((at, id));
    }

    /// Puts a part to what is kept of its block.
    fn keep_more(
        &self,
        id: BlockId,
        place: &mut Place,
        rebuilt: &Rebuilt<'_>,
        shared: &mut LruCache<ObjectId, usize>,
    ) {
        let (kept, part) = (place.part(), rebuilt.part());
        if !shared.contains(&id.0) || (kept.start <= part.start && part.end <= kept.end) {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        let Some(found) = ring.find(place.at, place.bytes as usize) else {
            return;
        };
        // What doesn't touch it takes its place: clients of the same object are where the last one was.
        place.set_part(union(&kept, &part).unwrap_or(part.clone()));
        ring.write(found.start + part.start..found.start + part.end)
            .copy_from_slice(rebuilt.bytes);
        note_unused(shared, id.0, part.len(), ring.size());
    }

    /// Whether a block's bytes are at its place and count.
    fn is_kept(&self, place: &Place, now: Instant) -> bool {
        let age = |since| now.saturating_duration_since(since);
        let young = |since| self.age.is_some_and(|most| age(since) < most);
        place.kept.is_some_and(young)
    }

    /// A run of a share, inside one block, as much of it as is kept from its start on.
    pub fn find(
        &self,
        object: &Object,
        share: ShareNumber,
        run: &Range<ShareOffset>,
        now: Instant,
    ) -> Option<Ref<'_, [u8]>> {
        let layout = object.layout();
        let segment = layout.block_of(run.start);
        let start = (run.start - layout.block_start(segment)) as usize;
        let part = start..start + run.length() as usize;
        self.find_part((object.id(), share, segment), part, now)
    }

    fn find_part(&self, id: BlockId, part: Range<usize>, now: Instant) -> Option<Ref<'_, [u8]>> {
        let places = self.places.borrow();
        let place = places
            .of
            .get(&id)
            .filter(|place| self.is_kept(place, now))?;
        let kept = place.part();
        let part = part.start..part.end.min(kept.end);
        if part.start < kept.start || part.is_empty() {
            return None;
        }
        let found = Ref::filter_map(self.ring.borrow(), |ring| {
            ring.read(ring.find(place.at, place.bytes as usize)?)
                .get(part)
        });
        let found = found.ok()?;
        share(&mut self.shared.borrow_mut(), id.0);
        Some(found)
    }
}

/// Whether what is wanted of a block was wanted before. A client that goes on in the block begins behind that.
fn is_wanted_again(before: &Range<usize>, wanted: &Range<usize>) -> bool {
    let same = wanted.end.min(before.end).saturating_sub(before.start);
    wanted.start <= before.start && same >= REBUILT_SHARED_BYTES
}

/// The one range that both make, if they touch.
fn union(one: &Range<usize>, other: &Range<usize>) -> Option<Range<usize>> {
    let touch = one.start <= other.end && other.start <= one.end;
    touch.then(|| one.start.min(other.start)..one.end.max(other.end))
}

/// Notes that bytes of a shared object were kept. It is shared no more if that is a ring full and none was used.
fn note_unused(
    shared: &mut LruCache<ObjectId, usize>,
    object: ObjectId,
    bytes: usize,
    most: usize,
) {
    if let Some(unused) = shared.get_mut(&object) {
        *unused += bytes;
        if *unused >= most {
            shared.pop(&object);
        }
    }
}

/// Makes an object shared, with no block kept in vain.
fn share(shared: &mut LruCache<ObjectId, usize>, object: ObjectId) {
    shared.put(object, 0);
    if shared.len() > REBUILT_OBJECTS_MAX {
        shared.pop_lru();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(60);
    const BLOCK: usize = SPLICE_BLOCK_BYTES_MIN as usize;

    /// With room for so many blocks.
    fn room_for(blocks: usize) -> RebuiltBlocks {
        let bytes = REBUILT_OBJECTS_BYTES + blocks * (BLOCK + REBUILT_BLOCK_BYTES);
        RebuiltBlocks::new(bytes, Some(AGE))
    }

    fn id(segment: u64) -> BlockId {
        (ObjectId(7), ShareNumber(0), segment)
    }

    /// Keeps a whole block that was wanted.
    fn keep_block(rebuilt: &RebuiltBlocks, segment: u64, bytes: &[u8], now: Instant) {
        keep_part(rebuilt, segment, bytes, 0..bytes.len(), now);
    }

    /// Keeps a part of a block that was wanted.
    fn keep_part(
        rebuilt: &RebuiltBlocks,
        segment: u64,
        block: &[u8],
        part: Range<usize>,
        now: Instant,
    ) {
        let part = Rebuilt {
            block_bytes: block.len(),
            start: part.start,
            bytes: &block[part.clone()],
            wanted: part,
        };
        rebuilt.keep_part(id(segment), &part, now);
    }

    #[test]
    fn what_is_rebuilt_again_while_it_could_have_been_kept_is_kept_from_then_on() {
        let (rebuilt, now) = (room_for(4), Instant::now());
        let keep = |segment| keep_block(&rebuilt, segment, &[segment as u8; BLOCK], now);
        let found = |segment| {
            let block = rebuilt.find_part(id(segment), 0..BLOCK, now)?;
            assert!(block.iter().all(|&byte| byte == segment as u8));
            Some(())
        };
        // Round and round, but never what is still remembered.
        for _ in 0..3 {
            (0..5).for_each(keep);
        }
        assert!(!rebuilt.is_shared(ObjectId(7)) && (0..5).all(|segment| found(segment).is_none()));
        keep(3);
        assert!(rebuilt.is_shared(ObjectId(7)) && found(3).is_some() && found(4).is_none());
        keep(9);
        keep(10);
        assert!(
            [3, 9, 10]
                .into_iter()
                .all(|segment| found(segment).is_some())
        );
        // Four more, and none is used: 3, 9 and 10 have gone, and the next is not kept.
        (20..24).for_each(keep);
        assert!(!rebuilt.is_shared(ObjectId(7)));
        keep(24);
        assert!(found(3).is_none() && found(24).is_none() && found(23).is_some());
    }

    #[test]
    fn what_is_kept_counts_for_a_time() {
        let (rebuilt, now) = (room_for(4), Instant::now());
        let keep = |now| keep_block(&rebuilt, 1, &[1; BLOCK], now);
        let found = |now| rebuilt.find_part(id(1), 5..BLOCK, now).is_some();
        keep(now);
        keep(now);
        assert!(found(now) && found(now + AGE / 2) && !found(now + AGE));
        keep(now + AGE);
        assert!(found(now + AGE));
    }

    #[test]
    fn short_blocks_and_long_ones_are_not_kept() {
        let (rebuilt, now) = (room_for(4), Instant::now());
        for bytes in [0, 1, BLOCK - 1, 4 * BLOCK + 1] {
            for _ in 0..3 {
                keep_block(&rebuilt, 1, &vec![1; bytes], now);
            }
        }
        assert_eq!(
            (rebuilt.is_shared(ObjectId(7)), rebuilt.bytes()),
            (false, 0)
        );
        let none = RebuiltBlocks::new(1 << 20, None);
        for _ in 0..3 {
            keep_block(&none, 1, &[1; BLOCK], now);
        }
        assert_eq!((rebuilt.is_shared(ObjectId(7)), none.bytes()), (false, 0));
    }

    /// A block as long as those of large objects.
    const LONG: usize = 64 << 10;

    /// Once everybody's send buffer was small, nothing was shared: only whole blocks were kept, and no piece had one.
    #[test]
    fn parts_of_a_block_are_put_together() {
        let (rebuilt, now) = (room_for(32), Instant::now());
        let block: Vec<u8> = (0..LONG).map(|at| (at / 97) as u8).collect();
        let keep = |segment, part| keep_part(&rebuilt, segment, &block, part, now);
        let found = |segment, part: Range<usize>| {
            let found = rebuilt.find_part(id(segment), part.clone(), now)?;
            assert_eq!(found[..], block[part.start..part.start + found.len()]);
            Some(found.len())
        };
        const STEP: usize = 10_000;
        let steps = || (0..LONG).step_by(STEP).map(|at| at..LONG.min(at + STEP));
        // One client, to the end of the block, and back a little because a socket took less.
        steps().for_each(|part| keep(1, part));
        keep(1, LONG - 1000..LONG);
        assert!(!rebuilt.is_shared(ObjectId(7)));
        // The second one's first part tells, and is kept.
        keep(1, 0..STEP);
        assert!(rebuilt.is_shared(ObjectId(7)));
        assert_eq!(found(1, 0..LONG), Some(STEP));
        assert_eq!(found(1, 5..20), Some(15));
        assert_eq!(found(1, STEP..LONG), None);
        steps().skip(1).for_each(|part| keep(1, part));
        assert_eq!(found(1, 0..LONG), Some(LONG));
        // In the next block at once. What doesn't touch takes the place of what was there, what does is added.
        keep(2, 30_000..40_000);
        keep(2, 0..10_000);
        assert_eq!(
            (found(2, 0..LONG), found(2, 30_000..LONG)),
            (Some(10_000), None)
        );
        keep(2, 20_000..30_000);
        keep(2, 5_000..20_000);
        assert_eq!(
            (found(2, 0..1), found(2, 5_000..LONG)),
            (None, Some(25_000))
        );
    }

    #[test]
    fn what_is_rebuilt_and_not_wanted_is_no_sign_of_a_second_client() {
        let (rebuilt, now) = (room_for(32), Instant::now());
        let block = vec![1; LONG];
        keep_part(&rebuilt, 1, &block, 0..30_000, now);
        // Two lost blocks of a piece are rebuilt over the same range: of this one more than is wanted.
        let part = Rebuilt {
            block_bytes: LONG,
            start: 0,
            bytes: &block,
            wanted: 30_000..LONG,
        };
        rebuilt.keep_part(id(1), &part, now);
        assert!(!rebuilt.is_shared(ObjectId(7)));
        keep_part(&rebuilt, 1, &block, 0..30_000, now);
        assert!(rebuilt.is_shared(ObjectId(7)));
    }

    proptest! {
        /// Whatever was kept when: what is found is that block, and no more is remembered than there is room for.
        #[test]
        fn what_is_found_is_what_was_kept(
            blocks in 1usize..9,
            steps in prop::collection::vec((0u64..12, 0usize..3 * BLOCK, any::<bool>()), 1..200),
        ) {
            let (rebuilt, now) = (room_for(blocks), Instant::now());
            let byte = |segment: u64, at: usize| (segment as usize * 31 + at / 97) as u8;
            let length = |segment: u64| BLOCK + segment as usize * 1000;
            for (segment, start, take) in steps {
                if take {
                    let part = start..start + 100;
                    if let Some(found) = rebuilt.find_part(id(segment), part, now) {
                        for (at, &got) in found.iter().enumerate() {
                            prop_assert_eq!(got, byte(segment, start + at));
                        }
                    }
                } else {
                    let block: Vec<u8> =
                        (0..length(segment)).map(|at| byte(segment, at)).collect();
                    let start = start % block.len();
                    let end = block.len().min(start + 1 + start * 7 % 20_000);
                    let whole = segment % 2 == 0;
                    let part = if whole { 0..block.len() } else { start..end };
                    keep_part(&rebuilt, segment, &block, part, now);
                }
                let places = rebuilt.places.borrow();
                prop_assert!(places.of.len() <= places.given.len() && places.given.len() <= blocks);
            }
        }
    }
}
