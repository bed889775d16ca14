//! The places for TLS handshakes of one core: who has one, and who gives way.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::state::{CloseReason, Connection};
use crate::memory::limits::{HANDSHAKE_PATIENCE, HANDSHAKES_MAX};
use crate::stats::Phase;
use crate::tls::Acceptor;

/// What a core has for TLS.
pub struct Secured {
    pub(super) acceptor: Arc<Acceptor>,
    /// The port of its listener.
    port: u16,
    /// Places for handshakes.
    places: Semaphore,
    /// How many wait for one.
    waiting: Cell<usize>,
    /// Those that have one, and since when.
    handshakes: RefCell<Slab<(Instant, Rc<Connection>)>>,
}

impl Secured {
    /// For handshakes that start from this, of connections to this port.
    pub fn new(acceptor: Arc<Acceptor>, port: u16) -> Secured {
        Secured {
            acceptor,
            port,
            places: Semaphore::new(HANDSHAKES_MAX),
            waiting: Cell::new(0),
            handshakes: RefCell::default(),
        }
    }

    /// The port of its listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for a place.
    pub(super) async fn place(&self, connection: &Rc<Connection>) -> io::Result<Place<'_>> {
        let permit = match self.places.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                // It is we who take the time, so that no deadline of the client's runs.
                connection.enter(Phase::Opening, 0);
                self.waiting.set(self.waiting.get() + 1);
                self.make_room(Instant::now());
                let permit = self.places.acquire().await;
                self.waiting.set(self.waiting.get() - 1);
                connection.enter(Phase::Head, 0);
                permit.map_err(io::Error::other)?
            }
        };
        let entry = (Instant::now(), Rc::clone(connection));
        Ok(Place {
            secured: self,
            at: self.handshakes.borrow_mut().insert(entry),
            _permit: permit,
        })
    }

    /// Ends the handshake that began first, if it has had its time. Returns whether it did.
    fn make_room(&self, now: Instant) -> bool {
        let handshakes = self.handshakes.borrow();
        let others = handshakes.iter().map(|(_, entry)| entry);
        let waiting = others.filter(|(_, connection)| connection.close_reason.get().is_none());
        let oldest = waiting.min_by_key(|(since, _)| *since);
        let oldest =
            oldest.filter(|(since, _)| now.saturating_duration_since(*since) >= HANDSHAKE_PATIENCE);
        if let Some((_, connection)) = oldest {
            connection.close_reason.set(Some(CloseReason::Closed));
            connection.socket.shutdown_receive();
        }
        oldest.is_some()
    }

    /// Makes room for handshakes that wait; once a tick.
    pub fn tick(&self, now: Instant) {
        for _ in 0..self.waiting.get() {
            if !self.make_room(now) {
                break;
            }
        }
    }
}

/// One of the places for handshakes.
pub(super) struct Place<'a> {
    secured: &'a Secured,
    at: usize,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.secured.handshakes.borrow_mut().remove(self.at);
    }
}
