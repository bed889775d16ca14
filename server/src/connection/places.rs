//! The places for TLS handshakes of one core: who has one, who waits for one, and who gives way.
//!
//! Who came last is served first. A client that is there answers within a round trip; one that has waited for long is likely
//! to have gone, or never meant to answer. With a queue, a new client would wait until thousands of half-open
//! connections had had their time. So whoever came later takes the place of the one that has had it for longest, after a time
//! in which nearly all clients answer. Those that came earlier wait longer, and not for ever.
//!
//! Where half-open connections come back as fast as they are ended, somebody may come in the moment before a place becomes free,
//! and the one before would wait for long. So every other place goes to who has waited for longest of those that came
//! within the last two seconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;
use tokio::sync::oneshot;

use super::seats::Seat;
use super::state::{CloseReason, Connection};
use crate::memory::limits::{
    HANDSHAKE_PATIENCE, HANDSHAKE_PATIENCE_LEAST, HANDSHAKE_RECENT, HANDSHAKE_WAIT_MAX,
    HANDSHAKES_MAX, IDLE_GIVES_WAY,
};
use crate::stats::Phase;
use crate::tls::Acceptor;

/// What a core has for TLS.
pub struct Secured {
    pub(super) acceptor: Arc<Acceptor>,
    /// The port of its listener.
    port: u16,
    places: Places<Rc<Connection>>,
}

impl Secured {
    /// For handshakes that start from this, of connections to this port.
    pub fn new(acceptor: Arc<Acceptor>, port: u16) -> Secured {
        Secured {
            acceptor,
            port,
            places: Places::new(HANDSHAKES_MAX),
        }
    }

    /// The port of its listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// If it has waited for too long, or somebody else has its seat.
    pub(super) async fn place(
        &self,
        connection: &Rc<Connection>,
    ) -> io::Result<Place<Rc<Connection>>> {
        let now = Instant::now();
        let place = match self.places.ask(Rc::clone(connection), now) {
            Ok(place) => place,
            Err(waits) => {
                // It is we who take the time, so that no deadline of the client's runs.
                connection.enter(Phase::Opening, 0, now);
                self.places.give_way(now, end);
                waits.await.map_err(|_| io::ErrorKind::ResourceBusy)?
            }
        };
        let now = Instant::now();
        connection.enter(Phase::Handshake, 0, now);
        place.begin(now);
        Ok(place)
    }

    /// Takes the seat of the one that has waited for a place for longest; `None` if nobody has waited for long.
    pub fn make_room(&self, now: Instant) -> Option<Seat> {
        self.send_away(now.checked_sub(IDLE_GIVES_WAY)?)?
            .take_seat()
    }

    /// Ends the one that has waited for longest, if it is since this time or an earlier one. It is not to linger: somebody
    /// else may have its seat.
    fn send_away(&self, since: Instant) -> Option<Rc<Connection>> {
        let longest = self.places.turn_away(since)?;
        longest.close_reason.set(Some(CloseReason::Closed));
        longest.socket.shutdown_receive();
        Some(longest)
    }

    /// Makes room for handshakes that wait, and sends away one that has waited for too long; once a tick. Not all of them at
    /// once: thousands that came together would come back together.
    pub fn tick(&self, now: Instant) {
        self.places.give_way(now, end);
        if let Some(before) = now.checked_sub(HANDSHAKE_WAIT_MAX) {
            drop(self.send_away(before));
        }
    }
}

/// Ends a handshake. Its client may be one that takes nothing, so that only a reset wakes its task.
fn end(connection: &Rc<Connection>) {
    connection.close_reason.set(Some(CloseReason::Closed));
    connection.socket.reset();
}

/// One place in so many goes to who has waited for longest of those that came lately.
const TURNS: u32 = 2;

/// The places, and who waits for one. Of clients it knows when they came.
struct Places<C>(Rc<RefCell<State<C>>>);

struct State<C> {
    /// How many places there are.
    most: usize,
    held: Slab<Held<C>>,
    /// Who waits; the last came last.
    waiting: VecDeque<Waiting<C>>,
    /// How many of those that have a place are about to leave it.
    leaving: usize,
    /// How many came.
    came: u64,
    /// How many places were given to those that waited.
    given: u32,
    /// What time it is, as it was told last.
    now: Instant,
}

impl<C> State<C> {
    /// Who has the next place.
    fn next(&mut self) -> Option<Waiting<C>> {
        loop {
            let last = self.waiting.len().checked_sub(1)?;
            let is_longest = self.given % TURNS == TURNS - 1;
            let since = self.now.checked_sub(HANDSHAKE_RECENT);
            let at = match since.filter(|_| is_longest) {
                Some(since) => self.waiting.partition_point(|one| one.since <= since),
                None => last,
            };
            let next = self.waiting.remove(at.min(last))?;
            // Perhaps nobody waits for that any more.
            if !next.place.is_closed() {
                self.given = self.given.wrapping_add(1);
                return Some(next);
            }
        }
    }
}

struct Held<C> {
    client: C,
    /// How many came before it.
    number: u64,
    /// Since when it has its place; `None` until it knows of it.
    since: Option<Instant>,
    gives_way: bool,
}

struct Waiting<C> {
    client: C,
    number: u64,
    since: Instant,
    place: oneshot::Sender<Place<C>>,
}

impl<C> Places<C> {
    fn new(most: usize) -> Places<C> {
        Places(Rc::new(RefCell::new(State {
            most,
            held: Slab::new(),
            waiting: VecDeque::new(),
            leaving: 0,
            came: 0,
            given: 0,
            now: Instant::now(),
        })))
    }

    /// A place, or what tells of one. That ends without a place if the client is turned away.
    fn ask(&self, client: C, now: Instant) -> Result<Place<C>, oneshot::Receiver<Place<C>>> {
        let mut state = self.0.borrow_mut();
        state.now = now;
        let number = state.came;
        state.came += 1;
        if state.held.len() < state.most {
            return Ok(self.place_of(&mut state, client, number));
        }
        let (place, waits) = oneshot::channel();
        state.waiting.push_back(Waiting {
            client,
            number,
            since: now,
            place,
        });
        Err(waits)
    }

    fn place_of(&self, state: &mut State<C>, client: C, number: u64) -> Place<C> {
        let at = state.held.insert(Held {
            client,
            number,
            since: None,
            gives_way: false,
        });
        Place {
            places: Places(Rc::clone(&self.0)),
            at,
        }
    }

    /// Has handshakes end, the longest first, for those that wait, the last first: after a short time for somebody who came
    /// later than they did, after a longer one for anybody.
    fn give_way(&self, now: Instant, end: impl Fn(&C)) {
        let mut state = self.0.borrow_mut();
        state.now = now;
        let State {
            held,
            waiting,
            leaving,
            ..
        } = &mut *state;
        for waiting in waiting.iter().rev().skip(*leaving) {
            let stay = held.iter_mut().filter(|(_, held)| !held.gives_way);
            let longest = stay
                .filter_map(|(_, held)| Some((held.since?, held)))
                .min_by_key(|(since, held)| (*since, held.number));
            let Some((since, longest)) = longest else {
                return;
            };
            let patience = match waiting.number > longest.number {
                true => HANDSHAKE_PATIENCE_LEAST,
                false => HANDSHAKE_PATIENCE,
            };
            if now.saturating_duration_since(since) < patience {
                return;
            }
            longest.gives_way = true;
            *leaving += 1;
            end(&longest.client);
        }
    }

    /// Who has waited for longest, if it is since this time or an earlier one. It gets no place.
    fn turn_away(&self, since: Instant) -> Option<C> {
        let mut state = self.0.borrow_mut();
        let is_long = state.waiting.front()?.since <= since;
        let longest = is_long.then(|| state.waiting.pop_front()).flatten()?;
        Some(longest.client)
    }
}

/// One of the places for handshakes. Who came last of those that wait has it next.
pub(super) struct Place<C> {
    places: Places<C>,
    at: usize,
}

impl<C> Place<C> {
    /// Its time begins.
    fn begin(&self, now: Instant) {
        if let Some(held) = self.places.0.borrow_mut().held.get_mut(self.at) {
            held.since = Some(now);
        }
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        let mut state = self.places.0.borrow_mut();
        if let Some(left) = state.held.try_remove(self.at) {
            state.leaving -= usize::from(left.gives_way);
        }
        let Some(next) = state.next() else {
            return;
        };
        let place = self.places.place_of(&mut state, next.client, next.number);
        drop(state);
        let _ = next.place.send(place);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    /// Clients are called by the order in which they come.
    struct World {
        places: Places<u32>,
        begun: Instant,
        holders: Vec<(u32, Place<u32>)>,
        waiters: Vec<(u32, oneshot::Receiver<Place<u32>>)>,
        ended: RefCell<Vec<u32>>,
        came: Cell<u32>,
    }

    impl World {
        fn new(places: usize) -> World {
            World {
                places: Places::new(places),
                begun: Instant::now(),
                holders: Vec::new(),
                waiters: Vec::new(),
                ended: RefCell::default(),
                came: Cell::new(0),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.begun + Duration::from_millis(millis)
        }

        /// So many clients come at this time.
        fn come(&mut self, count: u32, millis: u64) {
            for _ in 0..count {
                let client = self.came.replace(self.came.get() + 1);
                match self.places.ask(client, self.at(millis)) {
                    Ok(place) => {
                        place.begin(self.at(millis));
                        self.holders.push((client, place));
                    }
                    Err(waits) => {
                        self.waiters.push((client, waits));
                        self.give_way(millis);
                    }
                }
            }
        }

        fn give_way(&self, millis: u64) {
            let end = |client: &u32| self.ended.borrow_mut().push(*client);
            self.places.give_way(self.at(millis), end);
        }

        /// Those that were ended leave, and those that have a place now begin. Returns who left and who began.
        fn settle(&mut self, millis: u64) -> (Vec<u32>, Vec<u32>) {
            let ended = self.ended.take();
            self.holders.retain(|(client, _)| !ended.contains(client));
            let at = self.at(millis);
            let (mut begun, mut waiters) = (Vec::new(), Vec::new());
            for (client, mut waits) in self.waiters.drain(..) {
                match waits.try_recv() {
                    Ok(place) => {
                        place.begin(at);
                        begun.push(client);
                        self.holders.push((client, place));
                    }
                    Err(oneshot::error::TryRecvError::Empty) => waiters.push((client, waits)),
                    Err(oneshot::error::TryRecvError::Closed) => {}
                }
            }
            self.waiters = waiters;
            (ended, begun)
        }

        fn tick(&mut self, millis: u64) -> (Vec<u32>, Vec<u32>) {
            self.give_way(millis);
            self.settle(millis)
        }
    }

    const LEAST: u64 = HANDSHAKE_PATIENCE_LEAST.as_millis() as u64;
    const PATIENCE: u64 = HANDSHAKE_PATIENCE.as_millis() as u64;

    #[test]
    fn places_are_given_to_who_comes_and_then_to_who_waits() {
        let mut world = World::new(2);
        world.come(5, 0);
        assert_eq!(world.holders.len(), 2);
        assert_eq!(world.tick(0), (vec![], vec![]));
        world.holders.remove(0);
        assert_eq!(world.settle(1), (vec![], vec![4]));
        world.holders.remove(0);
        assert_eq!(world.settle(2), (vec![], vec![2]));
        world.holders.clear();
        assert_eq!(world.settle(3), (vec![], vec![3]));
        world.holders.clear();
        assert_eq!(world.settle(4), (vec![], vec![]));
        assert!(world.places.0.borrow().held.is_empty());
    }

    #[test]
    fn a_new_client_does_not_wait_behind_very_many_half_open_ones() {
        const BEGIN: u64 = 3000;
        let mut world = World::new(64);
        world.come(10_000, 0);
        // They are served from the last, 64 every two seconds.
        let (ended, begun) = world.tick(BEGIN);
        assert_eq!((ended.len(), begun.len()), (64, 64));
        assert!(begun.iter().all(|&client| client >= 10_000 - 64));
        assert_eq!(world.tick(BEGIN + LEAST), (vec![], vec![]));

        // Somebody comes: at once, since the first have had time to answer.
        world.come(1, BEGIN + LEAST + 1);
        assert_eq!(world.settle(BEGIN + LEAST + 1).1, [10_000]);
        // And it is done.
        world.holders.retain(|(client, _)| *client != 10_000);
        assert_eq!(world.settle(BEGIN + LEAST + 2), (vec![], vec![9_935]));

        let now = BEGIN + PATIENCE;
        assert_eq!(world.tick(now - 1), (vec![], vec![]));
        let (ended, begun) = world.tick(now);
        assert_eq!((ended.len(), begun.len()), (63, 63));
        world.come(1, now);
        assert_eq!(world.settle(now).1, [10_001], "after the one of before");
        // Somebody comes while nobody has had time to answer: not before they had.
        world.come(1, now + 1);
        assert_eq!(world.tick(now + LEAST - 1), (vec![], vec![]));
        assert_eq!(world.tick(now + LEAST).1, [10_002]);
        assert_eq!(world.holders.len(), 64);
    }

    #[test]
    fn every_other_place_goes_to_who_came_before() {
        let mut world = World::new(1);
        world.come(1, 0);
        world.come(2, 1);
        world.come(8, 2100);
        // The first two have waited for more than two seconds.
        world.give_way(2102);
        let mut order = Vec::new();
        while !world.holders.is_empty() {
            world.holders.clear();
            order.extend(world.settle(2102).1);
        }
        assert_eq!(order, [10, 3, 9, 4, 8, 5, 7, 6, 2, 1]);
    }

    #[test]
    fn those_that_are_about_to_leave_are_counted_once() {
        let mut world = World::new(4);
        world.come(6, 0);
        world.give_way(LEAST);
        world.give_way(LEAST);
        world.give_way(LEAST + 1);
        let (mut ended, mut begun) = world.settle(LEAST + 1);
        ended.sort_unstable();
        begun.sort_unstable();
        assert_eq!((ended, begun), (vec![0, 1], vec![4, 5]));
        assert_eq!(world.places.0.borrow().leaving, 0);
    }

    #[test]
    fn who_has_waited_for_too_long_is_turned_away() {
        let mut world = World::new(1);
        world.come(2, 0);
        world.come(1, 10);
        assert_eq!(world.places.turn_away(world.at(0)), Some(1));
        assert_eq!(world.places.turn_away(world.at(9)), None);
        assert_eq!(world.settle(10), (vec![], vec![]));
        let left: Vec<_> = world.waiters.iter().map(|(client, _)| *client).collect();
        assert_eq!(left, [2]);
        // One that nobody waits for any more gets no place.
        world.come(1, 11);
        world.waiters.pop();
        world.holders.clear();
        assert_eq!(world.settle(12).1, [2]);
        world.holders.clear();
        world.come(1, 13);
        assert_eq!(world.holders.len(), 1);
    }
}
