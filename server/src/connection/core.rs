//! One core's connections, and what serves them. Nothing here is shared with another core but the account of credit.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use slab::Slab;

use super::access_log::AccessLog;
use super::gate::Gate;
use super::idle::Idle;
use super::lending::Lender;
use super::networks::Networks;
use super::places::Secured;
use super::rates::Rates;
use super::seats::{Seat, Seats};
use super::state::Connection;
use super::totals::Totals;
use crate::body::Sources;
use crate::config::Live;
use crate::http::cors::Cors;
use crate::http::response::Context;
use crate::http::site::Site;
use crate::io::Io;
use crate::memory::limits::REQUEST_HEAD_BYTES_MAX;
use crate::s3::buckets::Buckets;
use crate::s3::keys::KeyRing;
use crate::s3::lister::Lister;
use crate::stats::CoreStats;

/// What signed requests and listings take, shared by the cores.
pub struct Signing {
    /// Who may sign requests.
    pub keys: Arc<KeyRing>,
    /// What makes listings.
    pub lister: Arc<Lister>,
}

/// What is known of all cores' clients, shared by the cores.
pub struct Fairness {
    /// How fast they are sent to.
    pub rates: Arc<Rates>,
    /// What was sent and lent to their networks.
    pub totals: Arc<Totals>,
}

/// The state of one core, shared by its connections' tasks.
pub struct Core {
    /// Where bodies come from.
    pub sources: Sources,
    /// How much is admitted.
    pub gate: Gate,
    /// What connections borrow from.
    pub lender: Rc<Lender>,
    /// The settings that can change, as they are now.
    pub live: RefCell<Arc<Live>>,
    /// Who gives way when seats are short.
    pub idle: Idle,
    /// How fast clients are sent to.
    pub rates: Arc<Rates>,
    /// The networks that clients are in.
    pub networks: Rc<Networks>,
    /// Connections, for deadlines and sampling.
    pub connections: RefCell<Slab<Rc<Connection>>>,
    /// How many of them are only being told that there is no place for them.
    pub refusing: Cell<usize>,
    /// Where received bytes land before they are parsed, one connection at a time.
    pub scratch: RefCell<Box<[u8; REQUEST_HEAD_BYTES_MAX]>>,
    /// What the operator says of all objects.
    pub site: RefCell<Rc<Site>>,
    /// Who may sign requests, and what makes listings.
    pub signing: Signing,
    /// What TLS takes, if there is any.
    pub secured: Option<Secured>,
    /// Set when the server is stopping: responses end their connections.
    pub draining: Cell<bool>,
    /// Where requests are logged, if they are.
    pub access: Option<AccessLog>,
    /// The id that the next request gets is made of this.
    next_id: Cell<u64>,
}

impl Core {
    /// A core without connections.
    pub fn new(
        sources: Sources,
        gate: Gate,
        lender: Rc<Lender>,
        fairness: Fairness,
        live: Arc<Live>,
        signing: Signing,
        access: Option<AccessLog>,
    ) -> Core {
        Core {
            sources,
            gate,
            lender,
            idle: Idle::default(),
            rates: fairness.rates,
            networks: Networks::new(&fairness.totals),
            connections: RefCell::new(Slab::new()),
            refusing: Cell::new(0),
            scratch: RefCell::new(Box::new([0; REQUEST_HEAD_BYTES_MAX])),
            site: RefCell::new(site(&live, None)),
            live: RefCell::new(live),
            signing,
            secured: None,
            draining: Cell::new(false),
            access,
            // A hasher of the standard library has random keys: ids of other cores and starts differ.
            next_id: Cell::new(RandomState::new().hash_one(0)),
        }
    }

    /// From now on it has TLS too.
    pub fn secure(&mut self, secured: Secured) {
        self.secured = Some(secured);
        let live = Arc::clone(&self.live.borrow());
        self.change(live);
    }

    /// Goes on with other settings.
    pub fn change(&self, live: Arc<Live>) {
        let secured = self.secured.as_ref();
        self.site.replace(site(&live, secured.map(Secured::port)));
        self.live.replace(live);
    }

    /// What responses depend on now, besides requests and objects.
    pub fn context(&self) -> Context {
        Context {
            now: SystemTime::now(),
            draining: self.draining.get(),
            site: Rc::clone(&self.site.borrow()),
            request_id: self.access.as_ref().map(|_| self.request_id()),
        }
    }

    /// 64 bits that no other request has, as far as chance allows (SplitMix64).
    fn request_id(&self) -> u64 {
        let next = self.next_id.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.next_id.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Closes a connection and takes its seat; `None` if none can be closed. First goes the one that has waited longest for
    /// a TLS handshake, which served nobody yet, then the one that has been idle for longest.
    pub fn make_room(&self, now: Instant) -> Option<Seat> {
        let secured = self.secured.as_ref();
        let seat = secured.and_then(|secured| secured.make_room(now));
        let seat = seat.or_else(|| self.idle.close_longest(&self.connections.borrow(), now));
        self.stats()
            .gave_way_connections
            .add(u64::from(seat.is_some()));
        seat
    }

    /// At a tick: makes room for somebody whom another core found none for. Who was refused comes again.
    pub fn make_room_for_others(&self, seats: &Seats, now: Instant) {
        if seats.taken() >= seats.seats() && seats.wants_room() {
            drop(self.make_room(now));
        }
    }

    /// Its way to the kernel.
    pub fn io(&self) -> &Io {
        &self.sources.engine.io
    }

    /// Its counters.
    pub fn stats(&self) -> &CoreStats {
        &self.sources.engine.stats
    }
}

/// What the operator says of all objects.
fn site(live: &Live, tls_port: Option<u16>) -> Rc<Site> {
    Rc::new(Site {
        cors: Cors::new(live.cors_origins.clone()),
        index: live.index.clone(),
        proxies: live.proxies.clone(),
        buckets: Buckets::new(live.s3_buckets.clone(), live.s3_region.clone()),
        require_signature: live.require_signature,
        redirect: live.redirect_http.map(|port| match port {
            0 => tls_port.unwrap_or(443),
            port => port,
        }),
    })
}
