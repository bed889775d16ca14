//! What the admin thread sees of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::config::values::ZeroCopyMode;
use crate::connection::seats::Seats;
use crate::control::worker::Order;
use crate::io::Backend;
use crate::memory::budget::Budget;
use crate::memory::plan::MemoryPlan;
use crate::stats::CoreStats;

/// What the admin thread sees of the server.
pub struct Shared {
    /// How the cores talk to the kernel.
    pub backend: Backend,
    /// Why that isn't io_uring, if it was tried.
    pub why_not_uring: Option<String>,
    /// When pieces are sent zero-copy,
    pub zero_copy: ZeroCopyMode,
    /// and why not, if that can't be done.
    pub why_not_zero_copy: Option<String>,
    /// One per core.
    pub cores: Vec<Arc<CoreStats>>,
    /// Where to ask each core for its connections.
    pub orders: Vec<Sender<Order>>,
    /// How the declared memory is divided.
    pub plan: MemoryPlan,
    /// Memory to lend.
    pub budget: Arc<Budget>,
    /// Places for connections.
    pub seats: Arc<Seats>,
    /// When the server started.
    pub started: Instant,
    ready: AtomicBool,
}

impl Shared {
    /// Counters for the plan's cores, all zero.
    pub fn new(
        (backend, why_not_uring): (Backend, Option<String>),
        (zero_copy, why_not_zero_copy): (ZeroCopyMode, Option<String>),
        plan: MemoryPlan,
        budget: Arc<Budget>,
        seats: Arc<Seats>,
    ) -> Shared {
        Shared {
            backend,
            why_not_uring,
            zero_copy,
            why_not_zero_copy,
            cores: (0..plan.declared.cores).map(|_| Arc::default()).collect(),
            orders: Vec::new(),
            plan,
            budget,
            seats,
            started: Instant::now(),
            ready: AtomicBool::new(false),
        }
    }

    /// Whether every core serves and none is stopping.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}
