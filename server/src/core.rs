//! What one core owns: its way to the kernel, its pool, its decoder, its catalogue, its connections.
//!
//! Nothing here is shared with another core, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::code::Coder;
use slab::Slab;

use crate::conn::Phase;
use crate::gate::Gate;
use crate::io::buffer::Pool;
use crate::io::{Io, Socket};
use crate::limits::REQUEST_HEAD_BYTES_MAX;
use crate::object::{Catalogue, TableCache};
use crate::stats::CoreStats;

/// The state of one core, shared by its connections' tasks.
pub struct Core {
    /// The kernel.
    pub io: Io,
    /// Segment buffers.
    pub pool: Pool,
    /// The decoder, with its plans and workspace.
    pub coder: RefCell<Coder>,
    /// Open objects.
    pub catalogue: Catalogue,
    /// Leaf checksums.
    pub tables: TableCache,
    /// How much is admitted.
    pub gate: Gate,
    /// Counters.
    pub stats: Arc<CoreStats>,
    /// Connections, for deadlines and sampling.
    pub connections: RefCell<Slab<Rc<Connection>>>,
    /// How many of them are only being told that there is no room for them.
    pub refusing: Cell<usize>,
    /// Where received bytes land before they are parsed, one connection at a time.
    pub scratch: RefCell<Box<[u8; REQUEST_HEAD_BYTES_MAX]>>,
    /// Set when the server is stopping: responses end their connections.
    pub draining: Cell<bool>,
}

/// Why the tick ended a connection's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A request head took too long: to be answered 408.
    HeadTimeout,
    /// Any other deadline, or the end of draining: the socket is gone.
    Closed,
}

/// What the tick needs to know of a connection; its task keeps it up to date.
pub struct Connection {
    /// The socket.
    pub socket: Rc<Socket>,
    /// The state it is in.
    pub phase: Cell<Phase>,
    /// When it entered that state.
    pub since: Cell<Instant>,
    /// Bytes the kernel took, since the connection began.
    pub sent_bytes: Cell<u64>,
    /// User memory held beyond the task itself.
    pub held_bytes: Cell<usize>,
    /// Bytes the peer had acknowledged when that number last grew, and when that was.
    pub acknowledged: Cell<(u64, Instant)>,
    /// The kernel's memory for the socket, as of the last sample.
    pub socket_bytes: Cell<u64>,
    /// The part of that in the send queue.
    pub send_queue_bytes: Cell<u64>,
    /// Set by the tick before it wakes the task.
    pub ending: Cell<Option<Ending>>,
}

impl Connection {
    /// A connection just accepted.
    pub fn new(socket: Rc<Socket>) -> Connection {
        let now = Instant::now();
        Connection {
            socket,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            sent_bytes: Cell::new(0),
            held_bytes: Cell::new(0),
            acknowledged: Cell::new((0, now)),
            socket_bytes: Cell::new(0),
            send_queue_bytes: Cell::new(0),
            ending: Cell::new(None),
        }
    }

    /// Notes the state that the connection is in.
    pub fn enter(&self, phase: Phase, held_bytes: usize) {
        self.held_bytes.set(held_bytes);
        if self.phase.replace(phase) != phase {
            self.since.set(Instant::now());
        }
    }
}
