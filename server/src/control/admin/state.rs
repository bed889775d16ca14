//! What the admin thread sees of the server.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::config::Live;
use crate::config::address::AdminAddress;
use crate::connection::rates::Rates;
use crate::connection::seats::Seats;
use crate::control::backend::Backends;
use crate::control::reload::Reloads;
use crate::control::worker::Order;
use crate::memory::budget::Budget;
use crate::memory::plan::MemoryPlan;
use crate::objects::Survey;
use crate::s3::keys::KeyRing;
use crate::s3::lister::Lister;
use crate::stats::CoreStats;
use crate::stores::Stores;
use crate::tls::Acceptor;

/// What the admin thread sees of the server.
pub struct ServerState {
    /// How the cores talk to the kernel.
    pub backends: Backends,
    /// The counters of each core.
    pub cores: Vec<Arc<CoreStats>>,
    /// Where each core takes orders.
    pub orders: Vec<Sender<Order>>,
    /// How the declared memory is divided.
    pub plan: MemoryPlan,
    /// Memory to lend.
    pub budget: Arc<Budget>,
    /// Seats for connections.
    pub seats: Arc<Seats>,
    /// How fast clients are sent to.
    pub rates: Arc<Rates>,
    /// What a look at all objects found so far.
    pub survey: Arc<Survey>,
    /// Who may sign requests.
    pub keys: Arc<KeyRing>,
    /// What TLS handshakes start from, if there is TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// What makes listings.
    pub lister: Arc<Lister>,
    /// When the server started.
    pub started: Instant,
    /// Where the admin listener is, as the operator said it.
    pub admin: AdminAddress,
    live: Mutex<Arc<Live>>,
    /// Where objects are read from.
    stores: Mutex<Arc<Stores>>,
    reloads: Mutex<Reloads>,
    ready: AtomicBool,
}

impl ServerState {
    /// A server that is not ready yet, with all counters of the plan's cores at zero.
    ///
    /// # Errors
    /// If the thread for listings can't be started.
    pub fn new(
        backends: Backends,
        plan: MemoryPlan,
        budget: Arc<Budget>,
        seats: Arc<Seats>,
        stores: Arc<Stores>,
        admin: AdminAddress,
        live: Arc<Live>,
    ) -> io::Result<ServerState> {
        let lister = Lister::start(&stores, &budget)?;
        Ok(ServerState {
            backends,
            cores: (0..plan.declared.cores).map(|_| Arc::default()).collect(),
            orders: Vec::new(),
            plan,
            budget,
            seats,
            rates: Rates::new(live.rates, Instant::now()),
            survey: Arc::default(),
            keys: Arc::default(),
            tls: None,
            lister: Arc::new(lister),
            started: Instant::now(),
            admin,
            live: Mutex::new(live),
            stores: Mutex::new(stores),
            reloads: Mutex::default(),
            ready: AtomicBool::new(false),
        })
    }

    /// The settings that can change, as they are now.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&locked(&self.live))
    }

    /// Where objects are read from, as it is now.
    pub fn stores(&self) -> Arc<Stores> {
        Arc::clone(&locked(&self.stores))
    }

    /// Goes on with other settings and stores.
    pub(in crate::control) fn change(&self, live: Arc<Live>, stores: Arc<Stores>) {
        self.lister.follow(&stores);
        *locked(&self.live) = live;
        *locked(&self.stores) = stores;
    }

    /// How reloads went.
    pub(in crate::control) fn reloads(&self) -> MutexGuard<'_, Reloads> {
        locked(&self.reloads)
    }

    /// Whether every core serves and none is stopping.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Sets whether it is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
