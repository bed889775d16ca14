//! The server as its threads share it: the control thread changes it, the admin thread shows it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::Sender;
use serde::Serialize;

use super::backend::Backends;
use super::worker::Order;
use crate::config::Live;
use crate::config::address::AdminAddress;
use crate::connection::rates::Rates;
use crate::connection::seats::Seats;
use crate::memory::budget::Budget;
use crate::memory::plan::MemoryPlan;
use crate::objects::Survey;
use crate::s3::keys::KeyRing;
use crate::s3::lister::Lister;
use crate::stats::CoreStats;
use crate::stores::Stores;
use crate::tls::Acceptor;

/// All of a server but its listeners and its threads.
pub(super) struct ServerState {
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

/// How reloads went since the start.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// Those that took effect.
    pub loaded: u64,
    /// Those of which nothing took effect.
    pub refused: u64,
    /// The last one.
    pub last: Option<LastReload>,
}

/// What came of the last reload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LastReload {
    /// When.
    pub at: String,
    /// Why nothing of it took effect, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Options that have another value than the running server, and need a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<&'static str>,
}

impl ServerState {
    /// A server that is not ready yet, with all counters of the plan's cores at zero.
    ///
    /// # Errors
    /// If the thread for listings can't be started.
    pub(super) fn new(
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
    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&locked(&self.live))
    }

    /// Where objects are read from, as it is now.
    pub(super) fn stores(&self) -> Arc<Stores> {
        Arc::clone(&locked(&self.stores))
    }

    /// Goes on with other settings and stores.
    pub(super) fn change(&self, live: Arc<Live>, stores: Arc<Stores>) {
        self.lister.follow(&stores);
        *locked(&self.live) = live;
        *locked(&self.stores) = stores;
    }

    /// How reloads went.
    pub(super) fn reloads(&self) -> MutexGuard<'_, Reloads> {
        locked(&self.reloads)
    }

    /// Whether every core serves and none is stopping.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Sets whether it is ready.
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
