//! What the admin thread sees of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::connection::seats::Seats;
use crate::control::backend::Backends;
use crate::control::worker::Order;
use crate::memory::budget::Budget;
use crate::memory::plan::MemoryPlan;
use crate::objects::Survey;
use crate::stats::CoreStats;
use crate::stores::Stores;

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
    /// Where objects are read from.
    pub stores: Arc<Stores>,
    /// What a look at all objects found so far.
    pub survey: Arc<Survey>,
    /// When the server started.
    pub started: Instant,
    ready: AtomicBool,
}

impl ServerState {
    /// A server that is not ready yet, with all counters of the plan's cores at zero.
    pub fn new(
        backends: Backends,
        plan: MemoryPlan,
        budget: Arc<Budget>,
        seats: Arc<Seats>,
        stores: Arc<Stores>,
    ) -> ServerState {
        ServerState {
            backends,
            cores: (0..plan.declared.cores).map(|_| Arc::default()).collect(),
            orders: Vec::new(),
            plan,
            budget,
            seats,
            stores,
            survey: Arc::default(),
            started: Instant::now(),
            ready: AtomicBool::new(false),
        }
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
