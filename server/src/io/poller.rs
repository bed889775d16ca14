//! Readiness of sockets, on both backends: one epoll instance per core, which the runtime watches as one
//! descriptor.
//!
//! A socket is registered once, edge-triggered, when it must wait for the first time. From then on a wait
//! for bytes costs no system call: events set a flag, and a receive that found nothing more clears it. A
//! wait for room changes the registration, which asks the socket again: an edge alone would come only
//! after a send that failed, and can't express "until the unsent bytes fall below LOWAT".
#![allow(unsafe_code)] // registering descriptors with the runtime; see the SAFETY remarks

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

/// Events taken from the instance at once.
const EVENTS_MAX: usize = 256;
/// What makes a socket readable for good: the end of its stream, or of the connection.
const OVER: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
const READ: u32 = libc::EPOLLIN as u32 | OVER;
const WRITE: u32 = (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// What every registration asks for.
const BASE: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

/// One core's epoll instance and the sockets registered with it.
pub(super) struct Poller {
    epoll: AsyncFd<Epoll>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Slab<Slot>,
    /// Tells a slot's present use from its earlier ones: an event for an earlier one is stale.
    turn: u32,
}

/// What is known of one socket. At most one task waits for it.
struct Slot {
    turn: u32,
    readable: bool,
    /// The end of the stream, or of the connection, was reported: it stays readable.
    over: bool,
    writable: bool,
    waiter: Option<(Interest, Waker)>,
}

impl Slot {
    fn is(&self, interest: Interest) -> bool {
        match interest {
            Interest::Read => self.readable,
            Interest::Write => self.writable,
        }
    }
}

impl Slots {
    fn fire(&mut self, event: &Event) {
        let (slot, turn) = (event.u64 as u32, (event.u64 >> 32) as u32);
        let Some(slot) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if slot.turn != turn {
            return;
        }
        slot.readable |= event.events & READ != 0;
        slot.over |= event.events & OVER != 0;
        slot.writable |= event.events & WRITE != 0;
        if slot.waiter.as_ref().is_some_and(|(what, _)| slot.is(*what))
            && let Some((_, waker)) = slot.waiter.take()
        {
            waker.wake();
        }
    }
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to receive, a connection to accept, or the end of the stream.
    Read,
    /// Room to send: for TCP, unsent bytes under half of LOWAT and a third of the buffer free.
    Write,
}

/// Has the current runtime watch a descriptor for becoming readable.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which stays open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, TokioInterest::READABLE) }?)
}

impl Poller {
    /// An instance watched by the current runtime.
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
                Ok(fired) => {
                    let mut slots = self.slots.borrow_mut();
                    for event in fired {
                        slots.fire(event);
                    }
                    if fired.len() < EVENTS_MAX {
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

    /// Registers a socket that nobody has waited for yet.
    pub(super) fn register(self: &Rc<Self>, fd: BorrowedFd<'_>) -> io::Result<Registration> {
        let mut slots = self.slots.borrow_mut();
        slots.turn = slots.turn.wrapping_add(1);
        let turn = slots.turn;
        let slot = slots.slots.insert(Slot {
            turn,
            readable: false,
            over: false,
            writable: false,
            waiter: None,
        });
        drop(slots);
        // Made before the call that can fail, so that the slot is given back in any case.
        let registration = Registration {
            poller: Rc::clone(self),
            slot,
            token: slot as u64 | u64::from(turn) << 32,
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
    /// Waits until the socket is ready, as far as is known: for reading, until [`Registration::drained`]
    /// it stays so.
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
        if slot.is(interest) {
            slot.waiter = None;
            return Poll::Ready(());
        }
        slot.waiter = Some((interest, context.waker().clone()));
        Poll::Pending
    }

    /// A receive (or accept) took all there was: the next bytes come with an event.
    pub(super) fn drained(&self) {
        let slot = &mut self.poller.slots.borrow_mut().slots[self.slot];
        slot.readable = slot.over;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.poller.slots.borrow_mut().slots.remove(self.slot);
    }
}
