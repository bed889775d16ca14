//! What a client holds of an object, or of a file of a grid: a handle. Its share files are closed while the client waits,
//! if others need the room, and opened again when it goes on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::budget::{Allowance, Budget, Claim};

/// A handle on a `T` with open files, and on the name by which it is opened again.
pub struct Handle<N, T> {
    name: N,
    /// The share files that it takes.
    files: Cell<usize>,
    open: RefCell<Option<Rc<T>>>,
    /// When somebody asked for it last.
    asked: Cell<Instant>,
    /// When somebody worked with it last.
    used: Cell<Instant>,
    /// What stays while it is closed, in bytes.
    closed_bytes: u64,
    /// The claim on that.
    claim: RefCell<Claim>,
}

impl<N, T> Handle<N, T> {
    /// A handle on what was just opened. While it is closed it takes `closed_bytes`, which are claimed then.
    pub fn new(
        name: N,
        files: usize,
        open: Rc<T>,
        closed_bytes: usize,
        budget: &Arc<Budget>,
    ) -> Rc<Handle<N, T>> {
        let now = Instant::now();
        Rc::new(Handle {
            name,
            files: Cell::new(files),
            open: RefCell::new(Some(open)),
            asked: Cell::new(now),
            used: Cell::new(now),
            closed_bytes: closed_bytes as u64,
            claim: RefCell::new(Claim::empty(budget)),
        })
    }

    /// Its name.
    pub fn name(&self) -> &N {
        &self.name
    }

    /// The share files that it had open last.
    pub fn files(&self) -> usize {
        self.files.get()
    }

    /// What it stands for, if its files are open. They stay open as long as somebody keeps that.
    pub fn open(&self, now: Instant) -> Option<Rc<T>> {
        let open = self.open.borrow().clone();
        if open.is_some() {
            self.used.set(now);
        }
        open
    }

    /// The same for who only counts it.
    pub fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.open.borrow().as_deref().map(look)
    }

    /// Notes that somebody asked for it.
    pub fn ask(&self, now: Instant) {
        self.asked.set(now);
    }

    /// How long ago somebody asked for it.
    pub fn asked(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked.get())
    }

    /// Its files were opened again.
    pub fn set_open(&self, open: Rc<T>, files: usize) {
        *self.open.borrow_mut() = Some(open);
        self.files.set(files);
        self.used.set(Instant::now());
        // Giving back always succeeds.
        let _ = self.claim.borrow_mut().resize(0, Allowance::Eighth);
    }

    /// Whether nobody works with it now, and nobody but the caller's table holds it.
    pub fn is_unused(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1 && self.open.borrow().as_ref().is_none_or(is_alone)
    }

    /// How long ago somebody worked with it whose files are open; `None` if somebody does now, or they are closed.
    pub fn idle(&self, now: Instant) -> Option<Duration> {
        let open = self.open.borrow();
        let since = || now.saturating_duration_since(self.used.get());
        open.as_ref().is_some_and(is_alone).then(since)
    }

    /// Closes its files. Returns whether it could: the memory for what is left must be had.
    pub fn close(&self) -> bool {
        let claimed = self
            .claim
            .borrow_mut()
            .resize(self.closed_bytes, Allowance::Eighth);
        if claimed {
            // Dropped once the cell is free again.
            let closed = self.open.borrow_mut().take();
            drop(closed);
        }
        claimed
    }
}

fn is_alone<T>(open: &Rc<T>) -> bool {
    Rc::strong_count(open) == 1
}
