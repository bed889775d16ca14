//! The connections of the admin listener: a few, of which the least useful one gives way to a new one.
//!
//! So whatever others hold open, somebody who connects and asks at once is answered. What all of them can make the server
//! hold is in the plan.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::memory::limits::{
    ADMIN_CONNECTIONS_MAX, ADMIN_IDLE, ADMIN_LIFETIME, ADMIN_REPLIES_MAX, ADMIN_REPLY_GRACE,
    ADMIN_REPLY_WITHIN,
};

/// All connections.
pub(super) struct Guests {
    open: RefCell<Slab<Arc<Guest>>>,
    /// Told when one of them ended.
    freed: Notify,
    /// Places for long replies.
    places: Arc<Semaphore>,
    /// Who may ask the cores, which takes them up to a tick.
    pub(super) asking: Semaphore,
}

/// One connection.
pub(super) struct Guest {
    accepted: Instant,
    doing: Mutex<Doing>,
    /// Told when it has to end.
    end: Notify,
}

/// What a connection does.
#[derive(Clone, Copy)]
struct Doing {
    state: State,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request has arrived whole.
    Waits,
    /// A request is being answered.
    Asked,
    /// A long reply is being made or sent.
    Takes,
    /// It has been told to end.
    Ends,
}

/// A connection's place among all; dropped, the place is free.
pub(super) struct Seat {
    guests: Rc<Guests>,
    key: usize,
    /// The connection.
    pub(super) guest: Arc<Guest>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.guests.open.borrow_mut().remove(self.key);
        self.guests.freed.notify_waiters();
    }
}

impl Guests {
    /// None yet.
    pub(super) fn new() -> Rc<Guests> {
        Rc::new(Guests {
            open: RefCell::default(),
            freed: Notify::new(),
            places: Arc::new(Semaphore::new(ADMIN_REPLIES_MAX)),
            asking: Semaphore::new(ADMIN_REPLIES_MAX / 2),
        })
    }

    /// A place for a new connection. If all are taken the one that has waited longest for a request ends, or else the one
    /// that has been longest at taking a reply: who takes it at once has gone on by then, however many come. `None` if all
    /// have just asked for something that is not made yet.
    pub(super) async fn seat(self: &Rc<Self>) -> Option<Seat> {
        while self.open.borrow().len() >= ADMIN_CONNECTIONS_MAX {
            let freed = self.freed.notified();
            let now = Instant::now();
            if !self.is_ending()
                && !self.end_oldest(|doing| doing.state == State::Waits)
                && !self.end_oldest(|doing| doing.state == State::Takes)
                && !self.end_oldest(|doing| now - doing.since >= ADMIN_REPLY_GRACE)
            {
                return None;
            }
            freed.await;
        }
        let now = Instant::now();
        let guest = Arc::new(Guest {
            accepted: now,
            doing: Mutex::new(Doing {
                state: State::Waits,
                since: now,
            }),
            end: Notify::new(),
        });
        let key = self.open.borrow_mut().insert(Arc::clone(&guest));
        Some(Seat {
            guests: Rc::clone(self),
            key,
            guest,
        })
    }

    /// Whether one that was told to end is still there.
    fn is_ending(&self) -> bool {
        let open = self.open.borrow();
        open.iter()
            .any(|(_, guest)| guest.doing().state == State::Ends)
    }

    /// Ends the connection of those that `may` end which has done the same for the longest time.
    fn end_oldest(&self, may: impl Fn(&Doing) -> bool) -> bool {
        let open = self.open.borrow();
        let candidates = open.iter().map(|(_, guest)| (*guest.doing(), guest));
        let oldest = candidates
            .filter(|(doing, _)| doing.state != State::Ends && may(doing))
            .min_by_key(|(doing, _)| doing.since);
        oldest.inspect(|(_, guest)| guest.end()).is_some()
    }

    /// Ends those whose time is over.
    pub(super) fn sweep(&self, now: Instant) {
        for (_, guest) in self.open.borrow().iter() {
            let doing = *guest.doing();
            let may_take = match doing.state {
                State::Waits => ADMIN_IDLE,
                _ => ADMIN_REPLY_WITHIN,
            };
            if now.saturating_duration_since(doing.since) > may_take
                || now.saturating_duration_since(guest.accepted) > ADMIN_LIFETIME
            {
                guest.end();
            }
        }
    }

    /// A place for a long reply to this connection. Those that are slow to take theirs give way. `None` if there is none
    /// for so long that the client may ask again.
    pub(super) async fn place(&self, guest: &Guest) -> Option<OwnedSemaphorePermit> {
        /// How often it is looked who gives way,
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        /// and for how long.
        const LOOKS: usize = 50;
        for _ in 0..LOOKS {
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(place) = timeout(LOOK_EVERY, place).await {
                guest.enter(State::Takes);
                return place.ok();
            }
            let now = Instant::now();
            self.end_oldest(|doing| {
                doing.state == State::Takes && now - doing.since >= ADMIN_REPLY_GRACE
            });
        }
        None
    }

    /// How many there are.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.open.borrow().len()
    }
}

impl Guest {
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, state: State) {
        let mut doing = self.doing();
        if doing.state != State::Ends {
            *doing = Doing {
                state,
                since: Instant::now(),
            };
        }
    }

    /// A request arrived whole.
    pub(super) fn asked(&self) {
        self.enter(State::Asked);
    }

    /// Ends it.
    fn end(&self) {
        self.enter(State::Ends);
        self.end.notify_one();
    }

    /// Waits until it has to end.
    pub(super) async fn ended(&self) {
        self.end.notified().await;
    }

    /// The body of a reply. When the kernel has taken it all, its memory and its place are free again, and the connection
    /// waits for another request.
    pub(super) fn body(
        self: &Arc<Self>,
        text: impl AsRef<[u8]> + Send + 'static,
        place: Option<OwnedSemaphorePermit>,
    ) -> Bytes {
        Bytes::from_owner(Held {
            text,
            guest: Arc::clone(self),
            _place: place,
        })
    }
}

/// A reply until it is sent.
struct Held<T> {
    text: T,
    guest: Arc<Guest>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.guest.enter(State::Waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        tokio::task::LocalSet::new().block_on(&runtime.unwrap(), test);
    }

    /// A connection that ends when it is told to. Returns its guest.
    async fn arrive(guests: &Rc<Guests>) -> Option<Arc<Guest>> {
        let seat = guests.seat().await?;
        let guest = Arc::clone(&seat.guest);
        tokio::task::spawn_local(async move { seat.guest.ended().await });
        Some(guest)
    }

    #[test]
    fn who_waits_longest_gives_way() {
        run(async {
            let guests = Guests::new();
            let mut all = Vec::new();
            for _ in 0..ADMIN_CONNECTIONS_MAX {
                all.push(arrive(&guests).await.unwrap());
            }
            all[0].asked();
            let new = arrive(&guests).await.unwrap();
            assert_eq!(guests.count(), ADMIN_CONNECTIONS_MAX);
            assert!(
                all[1].doing().state == State::Ends,
                "the second waited longest"
            );
            assert!(
                all[0].doing().state == State::Asked,
                "the first is being answered"
            );
            // All are being answered, and have just asked.
            for guest in all[2..].iter().chain([&new]) {
                guest.asked();
            }
            assert!(arrive(&guests).await.is_none());
            assert_eq!(guests.count(), ADMIN_CONNECTIONS_MAX);
            // One of them begins to take a reply, and may have had time for it when another comes.
            let place = guests.place(&new).await;
            assert!(place.is_some());
            assert!(arrive(&guests).await.is_some());
            assert!(new.doing().state == State::Ends);
        });
    }

    #[test]
    fn a_reply_that_is_taken_frees_its_place() {
        run(async {
            let guests = Guests::new();
            let guest = arrive(&guests).await.unwrap();
            let mut replies = Vec::new();
            for _ in 0..ADMIN_REPLIES_MAX {
                let place = guests.place(&guest).await;
                assert!(place.is_some());
                replies.push(guest.body("text", place));
            }
            assert!(guest.doing().state == State::Takes);
            assert_eq!(guests.places.available_permits(), 0);
            replies.clear();
            assert!(guest.doing().state == State::Waits);
            assert_eq!(guests.places.available_permits(), ADMIN_REPLIES_MAX);
        });
    }

    #[test]
    fn time_ends_them() {
        run(async {
            let guests = Guests::new();
            let guest = arrive(&guests).await.unwrap();
            let began = Instant::now();
            guests.sweep(began + ADMIN_IDLE / 2);
            assert!(guest.doing().state == State::Waits);
            guest.asked();
            let reply = guest.body("text", None);
            guests.sweep(began + ADMIN_IDLE + Duration::from_secs(1));
            assert!(guest.doing().state == State::Asked);
            guests.sweep(began + ADMIN_REPLY_WITHIN + Duration::from_secs(1));
            assert!(guest.doing().state == State::Ends);
            drop(reply);
            assert!(guest.doing().state == State::Ends);
        });
    }
}
