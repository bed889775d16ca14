//! What is known of one connection. Its task keeps it up to date; the tick reads it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::lending::{Lender, SendBuffer};
use super::seats::Seat;
use crate::body::AckMeter;
use crate::body::readahead::Slot;
use crate::io::Socket;
use crate::memory::budget::{Allowance, Claim};
use crate::memory::limits::{PENDING_BYTES_FREE, REQUEST_HEAD_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX};
use crate::stats::Phase;

/// Why the tick ended a connection's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// A request head took too long: to be answered 408.
    HeadTimeout,
    /// Any other deadline, or the end of draining: the socket is gone.
    Closed,
}

/// One connection.
pub struct Connection {
    /// The socket.
    pub socket: Rc<Socket>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The state that it is in.
    pub phase: Cell<Phase>,
    /// When it entered that state.
    pub since: Cell<Instant>,
    /// User memory held beyond the task itself.
    pub held_bytes: Cell<usize>,
    /// What was sent, and how fast the peer acknowledges it.
    pub meter: AckMeter,
    /// `SO_SNDBUF`, and what is borrowed for it.
    pub send_buffer: SendBuffer,
    /// What is borrowed for an incomplete request head.
    head: RefCell<Claim>,
    /// What is read ahead for it.
    pub readahead: Slot,
    /// The kernel's memory for the socket, as of the last sample.
    pub socket_bytes: Cell<u64>,
    /// The part of that in the send queue.
    pub send_queue_bytes: Cell<u64>,
    /// Set by the tick before it wakes the task.
    pub close_reason: Cell<Option<CloseReason>>,
    /// Its seat; none for a connection that is refused.
    _seat: Option<Seat>,
}

impl Connection {
    /// A connection just accepted. Without a seat it is one that is refused.
    pub fn new(
        lender: &Rc<Lender>,
        socket: Rc<Socket>,
        peer: SocketAddr,
        seat: Option<Seat>,
    ) -> Connection {
        let now = Instant::now();
        Connection {
            socket,
            peer,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            held_bytes: Cell::new(0),
            meter: AckMeter::new(now),
            send_buffer: SendBuffer::new(lender),
            head: RefCell::new(Claim::empty(lender.budget())),
            readahead: Slot::default(),
            socket_bytes: Cell::new(0),
            send_queue_bytes: Cell::new(0),
            close_reason: Cell::new(None),
            _seat: seat,
        }
    }

    /// Claims room for the longest head once a connection holds more than its state pays for, and for the longest
    /// response beside it if it holds still more; `false` if it can't be had. All of it at once: if heads claimed as they grow, very many that begin together would
    /// take all there is and none could be finished.
    pub fn claim_head(&self, held_bytes: usize) -> bool {
        const LONG: usize = PENDING_BYTES_FREE + 1;
        const BOTH_LONG: usize = REQUEST_HEAD_BYTES_MAX + 1;
        let bytes = match held_bytes {
            0..LONG => 0,
            LONG..BOTH_LONG => REQUEST_HEAD_BYTES_MAX as u64,
            BOTH_LONG.. => (REQUEST_HEAD_BYTES_MAX + RESPONSE_HEAD_BYTES_MAX) as u64,
        };
        self.head.borrow_mut().resize(bytes, Allowance::Eighth)
    }

    /// Notes the state that the connection is in.
    pub fn enter(&self, phase: Phase, held_bytes: usize) {
        self.held_bytes.set(held_bytes);
        if self.phase.replace(phase) != phase {
            self.since.set(Instant::now());
        }
    }
}
