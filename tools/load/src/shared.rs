//! State that clients share: the run, the group, and on each thread the counts and the buffers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::check::Expected;
use crate::plan::{Group, Plan};
use crate::scratch::Scratch;
use crate::tally::{Counters, Tally};
use crate::target::Target;
use crate::tls::TlsClient;

/// State that all threads share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) target: Target,
    /// Of an `https` target.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) sources: usize,
    pub(crate) groups: Vec<Prepared>,
    pub(crate) counters: Arc<Counters>,
    /// Set when the run should end before its duration is over.
    pub(crate) stop: AtomicBool,
}

/// A group, with the facts found out about it before the start.
pub(crate) struct Prepared {
    pub(crate) group: Group,
    pub(crate) expected: Expected,
    /// The object's size, known when ranges are asked for.
    pub(crate) size: u64,
}

/// State that the clients of one thread share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tallies: RefCell<Vec<Tally>>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Clients that panicked. That is a bug in this tool, which the event loop would hide.
    pub(crate) panics: Cell<u64>,
}

/// One client's view of the shared state.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) local: &'a Local,
    pub(crate) prepared: &'a Prepared,
    /// Index of its group in the plan.
    pub(crate) group: usize,
}

impl<'a> Member<'a> {
    pub(crate) fn tally<R>(&self, change: impl FnOnce(&mut Tally) -> R) -> R {
        change(&mut self.local.tallies.borrow_mut()[self.group])
    }

    pub(crate) fn plan(&self) -> &'a Plan {
        &self.local.shared.plan
    }
}
