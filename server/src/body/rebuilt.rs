//! Rebuilt blocks, kept in memory for other clients of the same object.
//!
//! Clients that download the same degraded object at about the same time ask for the same blocks, and each of them
//! would have a lost block rebuilt: k blocks read and verified for it. So a block that is rebuilt for the first of them
//! is kept, and the others are sent it from there, between what [`splice`](super::splice) finds in share files. The
//! memory is of a planned size: a [`Ring`].
//!
//! Keeping a block costs a copy of it, in vain where no other client comes. So every rebuilt block gets a place, but its
//! bytes are put there only if its object is *shared*: a block of it was rebuilt twice while it still had its place, so
//! that keeping it would have spared the second time. Once a ring full of blocks was kept of an object and none was
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
use crate::memory::limits::{REBUILT_BLOCK_BYTES, REBUILT_OBJECTS_MAX, SPLICE_BLOCK_BYTES_MIN};
use crate::objects::Object;
use crate::units::{Length, ObjectId, ShareNumber, ShareOffset};

/// An object's id, a share's number, a segment's.
type BlockId = (ObjectId, ShareNumber, u64);

/// The place of a rebuilt block.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    bytes: usize,
    /// When its bytes were put there, if they were.
    kept: Option<Instant>,
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

    /// Keeps the whole blocks among what was just rebuilt for a piece, if other clients are likely to want them.
    pub fn keep(&self, object: &Object, piece: &Piece, now: Instant) {
        let chunks = piece.rebuilt_chunks();
        for (segment, part) in object.layout().whole_blocks(&piece.rebuilt_window) {
            for (&share, bytes) in iter::zip(&piece.rebuilt, chunks) {
                self.keep_block((object.id(), share, segment), &bytes[part.clone()], now);
            }
        }
    }

    fn keep_block(&self, id: BlockId, bytes: &[u8], now: Instant) {
        let Places { of, given } = &mut *self.places.borrow_mut();
        let mut shared = self.shared.borrow_mut();
        if (bytes.len() as u64) < SPLICE_BLOCK_BYTES_MIN {
            return;
        }
        if let Some(place) = of.get(&id) {
            if self.is_kept(place, now) {
                return;
            }
            // It would not have been rebuilt now, had it been kept.
            if !shared.contains(&id.0) {
                share(&mut shared, id.0);
            }
        }
        let mut ring = self.ring.borrow_mut();
        let Some(at) = ring.room(bytes.len()) else {
            return;
        };
        while let Some(&(gone, id)) = given.front().filter(|(at, _)| ring.find(*at, 0).is_none()) {
            given.pop_front();
            if of.get(&id).is_some_and(|place| place.at == gone) {
                of.remove(&id);
            }
        }
        let mut kept = None;
        if let (Some(unused), Some(place)) = (shared.get_mut(&id.0), ring.find(at, bytes.len())) {
            ring.write(place).copy_from_slice(bytes);
            kept = Some(now);
            *unused += bytes.len();
            if *unused >= ring.size() {
                shared.pop(&id.0);
            }
        }
        let bytes = bytes.len();
        of.insert(id, Place { at, bytes, kept });
        given.push_back((at, id));
    }

    /// Whether a block's bytes are at its place and count.
    fn is_kept(&self, place: &Place, now: Instant) -> bool {
        let age = |since| now.saturating_duration_since(since);
        let young = |since| self.age.is_some_and(|most| age(since) < most);
        place.kept.is_some_and(young)
    }

    /// A run of a share, inside one block, if that block is kept.
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
        let found = Ref::filter_map(self.ring.borrow(), |ring| {
            ring.read(ring.find(place.at, place.bytes)?).get(part)
        });
        let found = found.ok()?;
        share(&mut self.shared.borrow_mut(), id.0);
        Some(found)
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

    #[test]
    fn what_is_rebuilt_again_while_it_could_have_been_kept_is_kept_from_then_on() {
        let (rebuilt, now) = (room_for(4), Instant::now());
        let keep = |segment| rebuilt.keep_block(id(segment), &[segment as u8; BLOCK], now);
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
        let keep = |now| rebuilt.keep_block(id(1), &[1; BLOCK], now);
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
                rebuilt.keep_block(id(1), &vec![1; bytes], now);
            }
        }
        assert_eq!(
            (rebuilt.is_shared(ObjectId(7)), rebuilt.bytes()),
            (false, 0)
        );
        let none = RebuiltBlocks::new(1 << 20, None);
        for _ in 0..3 {
            none.keep_block(id(1), &[1; BLOCK], now);
        }
        assert_eq!((rebuilt.is_shared(ObjectId(7)), none.bytes()), (false, 0));
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
                    rebuilt.keep_block(id(segment), &block, now);
                }
                let places = rebuilt.places.borrow();
                prop_assert!(places.of.len() <= places.given.len() && places.given.len() <= blocks);
            }
        }
    }
}
