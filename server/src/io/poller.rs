//! Readiness of sockets, on both backends: one epoll instance per core. The runtime watches it as one descriptor.
//!
//! A socket is registered once, edge-triggered, when it first has to wait. From then on a wait for bytes costs no
//! system call: events set a flag, and a receive that found nothing more clears it. A wait for room modifies the
//! registration, so that the kernel checks the socket again. An edge alone would come only after a send that failed,
//! and it can't express "until the unsent bytes fall below LOWAT".
#![allow(unsafe_code)] // registering descriptors with the runtime

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::io::Interest as TokioInterest;
use tokio::io::unix::AsyncFd;

use super::sys::{Epoll, Event};

/// Events taken from the kernel by one call.
const EVENTS_MAX: usize = 256;
/// Events that leave a socket readable for good: the end of its stream, or of the connection.
const HUNG_UP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
const READ: u32 = libc::EPOLLIN as u32 | HUNG_UP;
const WRITE: u32 = (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// Events that every registration asks for.
const BASE: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

/// One core's epoll instance and the sockets registered with it.
pub(super) struct Poller {
    epoll: AsyncFd<Epoll>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Slab<Slot>,
    /// Counts registrations. A slot is used again, and an event for its earlier use is stale.
    epoch: u32,
}

/// The known readiness of one socket. At most one task waits for it.
struct Slot {
    epoch: u32,
    readable: bool,
    /// The end of the stream, or of the connection, was reported, so the socket stays readable.
    hung_up: bool,
    writable: bool,
    waiter: Option<(Interest, Waker)>,
}

impl Slot {
    fn is_ready(&self, interest: Interest) -> bool {
        match interest {
            Interest::Read => self.readable,
            Interest::Write => self.writable,
        }
    }
}

impl Slots {
    fn deliver(&mut self, event: &Event) {
        let (slot, epoch) = (event.u64 as u32, (event.u64 >> 32) as u32);
        let Some(slot) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if slot.epoch != epoch {
            return;
        }
        slot.readable |= event.events & READ != 0;
        slot.hung_up |= event.events & HUNG_UP != 0;
        slot.writable |= event.events & WRITE != 0;
        if slot
            .waiter
            .as_ref()
            .is_some_and(|(what, _)| slot.is_ready(*what))
            && let Some((_, waker)) = slot.waiter.take()
        {
            waker.wake();
        }
    }
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to receive, a connection to accept, or the end of the stream.
    Read,
    /// Room to send: for TCP, unsent bytes under half of LOWAT and a third of the buffer free.
    Write,
}

/// Makes the current runtime watch a descriptor for becoming readable.
pub(super) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which stays open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, TokioInterest::READABLE) }?)
}

impl Poller {
    /// Makes an instance that the current runtime watches.
    pub(super) fn new() -> io::Result<Rc<Poller>> {
        let epoll = Epoll::new()?;
        // SAFETY: the AsyncFd owns the Epoll, whose descriptor stays open and the same until it is dropped.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, TokioInterest::READABLE) }?;
        let poller = Rc::new(Poller {
            epoll,
            slots: RefCell::default(),
        });
        tokio::task::spawn_local(Rc::clone(&poller).dispatch());
        Ok(poller)
    }

    async fn dispatch(self: Rc<Self>) {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        loop {
            let Ok(mut guard) = self.epoll.readable().await else {
                return;
            };
            match self.epoll.get_ref().wait(&mut events) {
                Ok(ready) => {
                    let mut slots = self.slots.borrow_mut();
                    for event in ready {
                        slots.deliver(event);
                    }
                    if ready.len() < EVENTS_MAX {
                        guard.clear_ready();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed; this core serves no more");
                    return;
                }
            }
        }
    }

    /// Registers a socket that no task has waited for yet.
    pub(super) fn register(self: &Rc<Self>, fd: BorrowedFd<'_>) -> io::Result<Registration> {
        let mut slots = self.slots.borrow_mut();
        slots.epoch = slots.epoch.wrapping_add(1);
        let epoch = slots.epoch;
        let slot = slots.slots.insert(Slot {
            epoch,
            readable: false,
            hung_up: false,
            writable: false,
            waiter: None,
        });
        drop(slots);
        // Made before the call that can fail, so that the slot is given back either way.
        let registration = Registration {
            poller: Rc::clone(self),
            slot,
            token: slot as u64 | u64::from(epoch) << 32,
        };
        self.epoll.get_ref().add(fd, BASE, registration.token)?;
        Ok(registration)
    }
}

/// A socket's place in the poller of its core. The kernel forgets the socket when its descriptor is closed.
pub(super) struct Registration {
    poller: Rc<Poller>,
    slot: usize,
    token: u64,
}

impl Registration {
    /// Waits until the socket is ready. Readable it stays until [`Registration::clear_readable`].
    pub(super) async fn ready(&self, fd: impl AsFd, interest: Interest) -> io::Result<()> {
        if interest == Interest::Write {
            self.poller.slots.borrow_mut().slots[self.slot].writable = false;
            let flags = BASE | libc::EPOLLOUT as u32;
            let epoll = self.poller.epoll.get_ref();
            epoll.modify(fd.as_fd(), flags, self.token)?;
        }
        poll_fn(|context| self.poll(context, interest)).await;
        Ok(())
    }

    fn poll(&self, context: &mut Context<'_>, interest: Interest) -> Poll<()> {
        let slot = &mut self.poller.slots.borrow_mut().slots[self.slot];
        if slot.is_ready(interest) {
            slot.waiter = None;
            return Poll::Ready(());
        }
        slot.waiter = Some((interest, context.waker().clone()));
        Poll::Pending
    }

    /// Notes that a receive (or accept) took all there was. The next bytes come with an event.
    pub(super) fn clear_readable(&self) {
        let slot = &mut self.poller.slots.borrow_mut().slots[self.slot];
        slot.readable = slot.hung_up;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.poller.slots.borrow_mut().slots.remove(self.slot);
    }
}
