//! The epoll twin: the same contract with readiness and plain system calls, for hosts where io_uring
//! is refused.
//!
//! Sockets are polled with one-shot registrations in an epoll instance of our own, which the runtime
//! watches as one descriptor. Edge-triggered readiness, as the runtime uses it, can't express "wait
//! until the unsent bytes fall below LOWAT": it reports only after a send that failed.
//!
//! Reads take what the page cache has without waiting; the rest is read on the runtime's helper
//! threads, so that a slow disk stalls one connection and not the core.
#![allow(unsafe_code)] // registering the instance with the runtime; see the SAFETY remark

use std::cell::RefCell;
use std::fs::File;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::Interest as TokioInterest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::buffer::{Message, Window};
use super::sys::{self, Epoll, Event};
use super::{Interest, Socket};

/// Helper threads for reads that must wait for a disk, per core.
const READ_THREADS_MAX: usize = 16;
/// Events taken from the instance at once.
const EVENTS_MAX: usize = 256;

/// One core's epoll instance and who waits for what.
pub(super) struct Poller {
    epoll: AsyncFd<Epoll>,
    waiters: RefCell<Waiters>,
}

#[derive(Default)]
struct Waiters {
    slots: Vec<Waiter>,
    free: Vec<u32>,
}

/// A slot is told apart from its earlier uses by its turn: an event for an earlier one is stale.
#[derive(Default)]
struct Waiter {
    turn: u32,
    fired: bool,
    waker: Option<Waker>,
}

impl Waiters {
    fn add(&mut self) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Waiter::default());
            (self.slots.len() - 1) as u32
        });
        let waiter = &mut self.slots[slot as usize];
        waiter.turn = waiter.turn.wrapping_add(1);
        (slot, waiter.turn)
    }

    fn remove(&mut self, slot: u32) {
        let waiter = &mut self.slots[slot as usize];
        // The next turn begins now, so that an event still to come finds nobody.
        *waiter = Waiter {
            turn: waiter.turn.wrapping_add(1),
            fired: false,
            waker: None,
        };
        self.free.push(slot);
    }

    fn fire(&mut self, token: u64) {
        let (slot, turn) = (token as u32, (token >> 32) as u32);
        if let Some(waiter) = self.slots.get_mut(slot as usize)
            && waiter.turn == turn
        {
            waiter.fired = true;
            if let Some(waker) = waiter.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Poller {
    /// An instance watched by the current runtime.
    pub(super) fn new() -> io::Result<Rc<Poller>> {
        let epoll = Epoll::new()?;
        // SAFETY: the AsyncFd owns the Epoll, whose descriptor stays open and the same until it is dropped.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, TokioInterest::READABLE) }?;
        let poller = Rc::new(Poller {
            epoll,
            waiters: RefCell::default(),
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
                    let mut waiters = self.waiters.borrow_mut();
                    for event in fired {
                        waiters.fire(event.u64);
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

    pub(super) fn ready<'a>(
        self: &'a Rc<Self>,
        socket: &'a Socket,
        interest: Interest,
    ) -> impl Future<Output = io::Result<()>> + 'a {
        Ready {
            poller: self,
            socket,
            interest,
            slot: None,
        }
    }
}

struct Ready<'a> {
    poller: &'a Poller,
    socket: &'a Socket,
    interest: Interest,
    slot: Option<u32>,
}

impl Future for Ready<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let slot = match self.slot {
            Some(slot) => slot,
            None => {
                let (slot, turn) = self.poller.waiters.borrow_mut().add();
                self.slot = Some(slot);
                let token = u64::from(slot) | u64::from(turn) << 32;
                let flags = self.interest.flags() as u32;
                self.poller
                    .epoll
                    .get_ref()
                    .arm(self.socket.as_fd(), flags, token)?;
                slot
            }
        };
        let mut waiters = self.poller.waiters.borrow_mut();
        let waiter = &mut waiters.slots[slot as usize];
        if waiter.fired {
            return Poll::Ready(Ok(()));
        }
        waiter.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.poller.waiters.borrow_mut().remove(slot);
        }
    }
}

/// A read: done at once from the page cache, or under way on a helper thread.
pub(super) enum Read {
    Done(io::Result<usize>, Window),
    Waiting(JoinHandle<(io::Result<usize>, Window)>),
}

impl Read {
    /// Starts filling `window` from `offset` of `file`.
    pub(super) fn start(file: Arc<File>, mut window: Window, offset: u64) -> Read {
        match sys::read_cached_at(file.as_fd(), &mut window, offset) {
            Ok(count) if count == window.len() => Read::Done(Ok(count), window),
            // A part, or nothing: the rest may be on disk, or past the end.
            _ => Read::Waiting(tokio::task::spawn_blocking(move || {
                let result = read_whole(&file, &mut window, offset);
                (result, window)
            })),
        }
    }

    pub(super) async fn finish(self) -> Result<(io::Result<usize>, Window), io::Error> {
        match self {
            Read::Done(result, window) => Ok((result, window)),
            Read::Waiting(handle) => handle.await.map_err(io::Error::other),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Offers a message to the socket without waiting.
pub(super) fn send(socket: &Socket, message: &Message) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    SockRef::from(socket).send_vectored_with_flags(message.parts(), flags)
}

/// Runs a core's work on a runtime of its own, until it is done.
pub(super) fn run<F: Future>(work: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READ_THREADS_MAX)
        .build()?;
    let output = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A read that hangs on a dead disk must not keep the process.
    runtime.shutdown_background();
    Ok(output)
}
