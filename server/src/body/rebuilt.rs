//! Rebuilt blocks that others want soon, kept in memory.
//!
//! Clients that take the same object at about the same time ask for the same blocks, and each of them would have
//! a lost one rebuilt: k blocks read and verified for it. So what is rebuilt for the first of them is kept, and the
//! others are sent it from there, between what [`pass`](mod@crate::body::splice) finds in share files. The memory is of a
//! planned size: a [`Ring`].
//!
//! Keeping a block costs a copy of it, which is in vain where nobody comes after. So every block that is rebuilt
//! gets a place, but its bytes are put there only if its object is *shared*: a block of it was rebuilt twice while its
//! place was not yet another one's, so that the second time could have been spared. Once as much as there is
//! room for was kept of an object and nothing of it was used, it is shared no more. A single client that walks through a
//! large object, and many of many objects, pay for looking and nothing else, unless sockets take parts of blocks.
//!
//! Every block was rebuilt from verified leaves, of an object that never changes, so what is kept can't be outdated. It
//! counts for the re-verification age all the same, as what was verified does; with `--verify always` nothing is
//! kept.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::iter;
use std::ops::{Deref, Range};
use std::time::{Duration, Instant};

use crate::body::ring::Ring;
use crate::engine::plan::PiecePlan;
use crate::memory::limits::{PASS_BLOCK_BYTES_MIN, REBUILT_BLOCK_BYTES};
use crate::objects::object::Object;

/// An object's id, a share's number, a segment's.
type BlockId = (u64, u16, u64);

/// What an object knows of its rebuilt blocks being kept.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Bytes kept of it since one was used; `None` if none are to be kept.
    unused: Cell<Option<usize>>,
}

impl Sharing {
    /// Whether what is rebuilt of the object is kept, because others want it too.
    pub fn is_shared(&self) -> bool {
        self.unused.get().is_some()
    }
}

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

impl RebuiltBlocks {
    /// None yet, in a memory of `bytes`, what is noted of them included; each counts for `age`, `None` keeps nothing.
    pub fn new(bytes: usize, age: Option<Duration>) -> RebuiltBlocks {
        let least = PASS_BLOCK_BYTES_MIN as usize;
        let blocks = bytes / (least + REBUILT_BLOCK_BYTES);
        RebuiltBlocks {
            age,
            ring: RefCell::new(Ring::new(if age.is_some() { blocks * least } else { 0 })),
            places: RefCell::default(),
        }
    }

    /// Bytes of memory in use, without what is noted of the blocks.
    pub fn bytes(&self) -> usize {
        self.ring.borrow().used()
    }

    /// Keeps the whole blocks among what was just `rebuilt` by a plan, if others are likely to want them.
    pub fn keep(
        &self,
        object: &Object,
        plan: &PiecePlan,
        rebuilt: &[impl Deref<Target = [u8]>],
        now: Instant,
    ) {
        let (layout, window) = (object.layout(), &plan.rebuilt_window);
        if window.is_empty() {
            return;
        }
        for segment in window.start / layout.block_bytes..window.end.div_ceil(layout.block_bytes) {
            let start = segment * layout.block_bytes;
            let end = start + layout.block_len(segment);
            if start < window.start || end > window.end {
                continue;
            }
            let part = (start - window.start) as usize..(end - window.start) as usize;
            for (&share, bytes) in iter::zip(&plan.rebuilt, rebuilt) {
                let id = (object.id(), share, segment);
                self.keep_block(object.sharing(), id, &bytes[part.clone()], now);
            }
        }
    }

    fn keep_block(&self, sharing: &Sharing, id: BlockId, bytes: &[u8], now: Instant) {
        let Places { of, given } = &mut *self.places.borrow_mut();
        if (bytes.len() as u64) < PASS_BLOCK_BYTES_MIN {
            return;
        }
        if let Some(place) = of.get(&id) {
            if self.counts(place, now) {
                return;
            }
            // It would not have been rebuilt now, had it been kept.
            sharing.unused.set(sharing.unused.get().or(Some(0)));
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
        if let (Some(unused), Some(place)) = (sharing.unused.get(), ring.find(at, bytes.len())) {
            ring.write(place).copy_from_slice(bytes);
            kept = Some(now);
            let unused = unused + bytes.len();
            sharing.unused.set((unused < ring.size()).then_some(unused));
        }
        let bytes = bytes.len();
        of.insert(id, Place { at, bytes, kept });
        given.push_back((at, id));
    }

    fn counts(&self, place: &Place, now: Instant) -> bool {
        let age = |since| now.saturating_duration_since(since);
        let young = |since| self.age.is_some_and(|most| age(since) < most);
        place.kept.is_some_and(young)
    }

    /// A run of a share, inside one block, if that is kept.
    pub fn find(
        &self,
        object: &Object,
        share: u16,
        run: &Range<u64>,
        now: Instant,
    ) -> Option<Ref<'_, [u8]>> {
        let block_bytes = object.layout().block_bytes;
        let id = (object.id(), share, run.start / block_bytes);
        let start = (run.start % block_bytes) as usize;
        let part = start..start + (run.end - run.start) as usize;
        self.find_part(object.sharing(), id, part, now)
    }

    fn find_part(
        &self,
        sharing: &Sharing,
        id: BlockId,
        part: Range<usize>,
        now: Instant,
    ) -> Option<Ref<'_, [u8]>> {
        let places = self.places.borrow();
        let place = places.of.get(&id).filter(|place| self.counts(place, now))?;
        let found = Ref::filter_map(self.ring.borrow(), |ring| {
            ring.read(ring.find(place.at, place.bytes)?).get(part)
        });
        let found = found.ok()?;
        sharing.unused.set(Some(0));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(60);
    const BLOCK: usize = PASS_BLOCK_BYTES_MIN as usize;

    /// With room for so many blocks.
    fn room_for(blocks: usize) -> RebuiltBlocks {
        RebuiltBlocks::new(blocks * (BLOCK + REBUILT_BLOCK_BYTES), Some(AGE))
    }

    fn id(segment: u64) -> BlockId {
        (7, 0, segment)
    }

    #[test]
    fn what_is_rebuilt_again_while_it_could_have_been_kept_is_kept_from_then_on() {
        let (rebuilt, sharing, now) = (room_for(4), Sharing::default(), Instant::now());
        let keep =
            |segment| rebuilt.keep_block(&sharing, id(segment), &[segment as u8; BLOCK], now);
        let found = |segment| {
            let block = rebuilt.find_part(&sharing, id(segment), 0..BLOCK, now)?;
            assert!(block.iter().all(|&byte| byte == segment as u8));
            Some(())
        };
        // Round and round, but never what is still remembered.
        for _ in 0..3 {
            (0..5).for_each(keep);
        }
        assert!(!sharing.is_shared() && (0..5).all(|segment| found(segment).is_none()));
        keep(3);
        assert!(sharing.is_shared() && found(3).is_some() && found(4).is_none());
        keep(9);
        keep(10);
        assert!(
            [3, 9, 10]
                .into_iter()
                .all(|segment| found(segment).is_some())
        );
        // Four more, of which nobody takes any: 3, 9 and 10 have gone, and the next is not kept.
        (20..24).for_each(keep);
        assert!(!sharing.is_shared());
        keep(24);
        assert!(found(3).is_none() && found(24).is_none() && found(23).is_some());
    }

    #[test]
    fn what_is_kept_counts_for_a_time() {
        let (rebuilt, sharing, now) = (room_for(4), Sharing::default(), Instant::now());
        let keep = |now| rebuilt.keep_block(&sharing, id(1), &[1; BLOCK], now);
        let found = |now| rebuilt.find_part(&sharing, id(1), 5..BLOCK, now).is_some();
        keep(now);
        keep(now);
        assert!(found(now) && found(now + AGE / 2) && !found(now + AGE));
        keep(now + AGE);
        assert!(found(now + AGE));
    }

    #[test]
    fn short_blocks_and_long_ones_are_not_kept() {
        let (rebuilt, sharing, now) = (room_for(4), Sharing::default(), Instant::now());
        for bytes in [0, 1, BLOCK - 1, 4 * BLOCK + 1] {
            for _ in 0..3 {
                rebuilt.keep_block(&sharing, id(1), &vec![1; bytes], now);
            }
        }
        assert_eq!((sharing.is_shared(), rebuilt.bytes()), (false, 0));
        let none = RebuiltBlocks::new(1 << 20, None);
        for _ in 0..3 {
            none.keep_block(&sharing, id(1), &[1; BLOCK], now);
        }
        assert_eq!((sharing.is_shared(), none.bytes()), (false, 0));
    }

    proptest! {
        /// Whatever was kept when: what is found is that block, and no more is remembered than there is room for.
        #[test]
        fn what_is_found_is_what_was_kept(
            blocks in 1usize..9,
            steps in prop::collection::vec((0u64..12, 0usize..3 * BLOCK, any::<bool>()), 1..200),
        ) {
            let (rebuilt, sharing, now) = (room_for(blocks), Sharing::default(), Instant::now());
            let byte = |segment: u64, at: usize| (segment as usize * 31 + at / 97) as u8;
            let length = |segment: u64| BLOCK + segment as usize * 1000;
            for (segment, start, take) in steps {
                if take {
                    let part = start..start + 100;
                    if let Some(found) = rebuilt.find_part(&sharing, id(segment), part, now) {
                        for (at, &got) in found.iter().enumerate() {
                            prop_assert_eq!(got, byte(segment, start + at));
                        }
                    }
                } else {
                    let block: Vec<u8> =
                        (0..length(segment)).map(|at| byte(segment, at)).collect();
                    rebuilt.keep_block(&sharing, id(segment), &block, now);
                }
                let places = rebuilt.places.borrow();
                prop_assert!(places.of.len() <= places.given.len() && places.given.len() <= blocks);
            }
        }
    }
}
