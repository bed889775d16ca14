//! What one core owns: its way to the kernel, its pool, its decoder, its catalogue, its connections.
//!
//! Nothing here is shared with another core, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decode_kernel::code::Coder;
use slab::Slab;
use tokio::sync::Semaphore;

use crate::body::hot::HotObjects;
use crate::body::readahead::{Proof, ReadAhead, Stream};
use crate::body::rebuilt::RebuiltBlocks;
use crate::body::zero_copy::ZeroCopy;
use crate::connection::gate::Gate;
use crate::connection::seats::Seat;
use crate::connection::send_window::{self, Pace};
use crate::io::pool::Pool;
use crate::io::{Cut, Io, Socket};
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::limits::{
    NEAR_ROUND_TRIP, PENDING_BYTES_FREE, REQUEST_HEAD_BYTES_MAX, SEGMENT_BYTES_MAX,
    SEND_BUFFER_START_BYTES, socket_bytes,
};
use crate::objects::checksums::TableCache;
use crate::objects::object::Catalogue;
use crate::objects::verified::VerifiedLeaves;
use crate::stats::{CoreStats, Phase};
use crate::tahoe::gateway::Gateway;

/// The state of one core, shared by its connections' tasks.
pub struct Core {
    /// The kernel.
    pub io: Io,
    /// Segment buffers.
    pub pool: Pool,
    /// Turns to produce a piece: as many as there are buffers.
    pub producing: Semaphore,
    /// The decoder, with its plans and workspace.
    pub coder: RefCell<Coder>,
    /// Open objects.
    pub catalogue: Catalogue,
    /// Files of a Tahoe-LAFS grid, if they are served.
    pub gateway: Option<Gateway>,
    /// Leaf checksums.
    pub tables: TableCache,
    /// Leaves that need not be verified again.
    pub verified: VerifiedLeaves,
    /// Small objects that are asked for often.
    pub hot: HotObjects,
    /// Rebuilt blocks that others want soon.
    pub rebuilt: RebuiltBlocks,
    /// What is read ahead with; `None` if nothing is.
    pub ahead: Option<Rc<ReadAhead>>,
    /// Sends that pin their buffers.
    pub zero_copy: Rc<ZeroCopy>,
    /// How much is admitted.
    pub gate: Gate,
    /// Memory that connections may borrow.
    pub budget: Arc<Budget>,
    /// `SO_SNDBUF` that every connection has, and returns to.
    pub send_buffer_floor: u32,
    /// The most that it may become: what the kernel lets this process set.
    pub send_buffer_max: u32,
    /// How long the kernel may keep what a closed connection leaves in its queue.
    pub send_timeout: Duration,
    /// Counters.
    pub stats: Arc<CoreStats>,
    /// Connections, for deadlines and sampling.
    pub connections: RefCell<Slab<Rc<Connection>>>,
    /// How many of them are only being told that there is no room for them.
    pub refusing: Cell<usize>,
    /// Where received bytes land before they are parsed, one connection at a time.
    pub scratch: RefCell<Box<[u8; REQUEST_HEAD_BYTES_MAX]>>,
    /// How many connections are fast.
    pub fast: Rc<Cell<usize>>,
    /// Set when the server is stopping: responses end their connections.
    pub draining: Cell<bool>,
}

impl Core {
    /// How fast a connection must be to borrow, with the credit that is left.
    fn earn_within(&self) -> Duration {
        send_window::within(self.budget.free(), self.budget.total())
    }
}

/// Why the tick ended a connection's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A request head took too long: to be answered 408.
    HeadTimeout,
    /// Any other deadline, or the end of draining: the socket is gone.
    Closed,
}

/// What a connection has borrowed.
#[derive(Debug)]
pub struct Claims {
    /// For its send buffer, beyond the floor.
    pub send: Claim,
    /// For an incomplete request head.
    pub head: Claim,
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
    /// `SO_SNDBUF` now; set by `has` alone.
    pub send_buffer: Cell<u32>,
    /// The core's fast connections; this one is counted while its buffer is large.
    fast: Rc<Cell<usize>>,
    /// Whether it has all that a near connection is lent; asked again at the next sample.
    pub near: Cell<bool>,
    /// How it earns a larger one.
    pub pace: Cell<Pace>,
    /// How it earns being read ahead for.
    pub proof: Cell<Proof>,
    /// Whether nothing of the response was produced yet.
    pub begins: Cell<bool>,
    /// The position in the object from which on it may be read ahead for again.
    pub ahead_from: Cell<u64>,
    /// What is read ahead for it.
    pub ahead: Cell<Option<Box<Stream>>>,
    /// Bytes acknowledged at the last sample and when that was, for the rate.
    pub sampled: Cell<(u64, Instant)>,
    /// Bytes per second between the last two samples.
    pub rate: Cell<u64>,
    /// The start of the window in which the least rate is judged: bytes acknowledged then, and when.
    pub window: Cell<(u64, Instant)>,
    /// What is borrowed beyond the floor: for the send buffer, and for a long head.
    pub claims: RefCell<Claims>,
    /// Who it is, for the status.
    pub peer: SocketAddr,
    /// Its place among the connections; none for one that is refused.
    _seat: Option<Seat>,
    /// Set by the tick before it wakes the task.
    pub ending: Cell<Option<Ending>>,
}

impl Connection {
    /// A connection just accepted. Without a seat it is one that is refused.
    pub fn new(
        core: &Core,
        socket: Rc<Socket>,
        peer: SocketAddr,
        seat: Option<Seat>,
    ) -> Connection {
        let now = Instant::now();
        Connection {
            socket,
            send_buffer: Cell::new(core.send_buffer_floor),
            fast: Rc::clone(&core.fast),
            near: Cell::new(false),
            pace: Cell::new(Pace::new(0, now)),
            proof: Cell::new(Proof::new(0, now)),
            begins: Cell::new(false),
            ahead_from: Cell::new(0),
            ahead: Cell::new(None),
            sampled: Cell::new((0, now)),
            rate: Cell::new(0),
            window: Cell::new((0, now)),
            claims: RefCell::new(Claims {
                send: Claim::empty(&core.budget),
                head: Claim::empty(&core.budget),
            }),
            peer,
            _seat: seat,
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

    /// Before the first byte of a response: while credit is plentiful a connection may start with more
    /// than the floor, so that a small object leaves at once.
    pub fn start_ahead(&self, core: &Core, remaining: u64) -> io::Result<()> {
        let wanted = SEND_BUFFER_START_BYTES.min(core.send_buffer_max);
        if remaining > 2 * u64::from(self.send_buffer.get()) && self.send_buffer.get() < wanted {
            self.borrow(core, wanted, Allowance::UpperQuarter)?;
        }
        Ok(())
    }

    /// Room is what this connection waits for: lends it more, if the kernel has sent all it was given, it earned
    /// more, and there is something to lend. Returns whether its buffer grew.
    pub fn grows(&self, core: &Core, now: Instant) -> io::Result<bool> {
        let present = self.send_buffer.get();
        let has_all = present >= core.send_buffer_max || self.near.get();
        if has_all || self.socket.unsent_bytes()? > 0 {
            return Ok(false);
        }
        let unacknowledged = u64::from(self.socket.unacknowledged_bytes()?);
        let acknowledged = self.sent_bytes.get().saturating_sub(unacknowledged);
        let mut pace = self.pace.get();
        let earned = pace
            .earned(present, acknowledged, now, core.earn_within())
            .min(core.send_buffer_max);
        self.pace.set(pace);
        if earned <= present {
            return Ok(false);
        }
        if earned > send_window::near_most(self.fast.get())
            && self.socket.round_trip()? < NEAR_ROUND_TRIP
        {
            self.near.set(true);
            return Ok(false);
        }
        self.borrow(core, earned, Allowance::Eighth)
    }

    fn borrow(&self, core: &Core, send_buffer: u32, allowance: Allowance) -> io::Result<bool> {
        let extra = socket_bytes(send_buffer) - socket_bytes(core.send_buffer_floor);
        // A claim that still covers bytes queued by a larger buffer is not shrunk here.
        let extra = extra.max(self.claims.borrow().send.bytes());
        if !self.claims.borrow_mut().send.resize(extra, allowance) {
            return Ok(false);
        }
        self.socket.set_send_buffer(send_buffer)?;
        self.has(send_buffer);
        Ok(true)
    }

    /// Notes the buffer that it has now.
    fn has(&self, send_buffer: u32) {
        let before = self.send_buffer.replace(send_buffer);
        let others = self.fast.get() - usize::from(send_window::is_fast(before));
        self.fast
            .set(others + usize::from(send_window::is_fast(send_buffer)));
    }

    /// How what is sent now is cut, with more to `follow` or not: the end of a response need not be acknowledged
    /// for anything to go on.
    pub fn cut(&self, follow: bool) -> io::Result<Cut> {
        let buffer = self.send_buffer.get();
        let few = follow && buffer < SEGMENT_BYTES_MAX && buffer < self.socket.segment_bytes()?;
        Ok(if few { Cut::Shrinking } else { Cut::Whole })
    }

    /// At a sample: gives back what the connection's rate does not need, or a near one may not have beside so many.
    /// What a larger buffer queued stays claimed until the kernel is rid of it.
    pub fn give_back(&self, core: &Core, delivered: u64, took: Duration) {
        let near = self.near.replace(false);
        let present = self.send_buffer.get();
        let floor = core.send_buffer_floor;
        let mut kept = send_window::kept(present, floor, delivered, took, core.earn_within());
        if near {
            // More have come since it had its own.
            kept = kept.min(send_window::near_most(self.fast.get()));
        }
        if kept < present && self.socket.set_send_buffer(kept).is_ok() {
            self.has(kept);
        }
        let needed = socket_bytes(self.send_buffer.get()).max(self.socket_bytes.get());
        let extra = needed.saturating_sub(socket_bytes(floor));
        let mut claims = self.claims.borrow_mut();
        if extra < claims.send.bytes() {
            let shrunk = claims.send.resize(extra, Allowance::Eighth);
            debug_assert!(shrunk, "shrinking a claim works always");
        }
    }

    /// Takes back what was read ahead and is not being sent fast enough.
    pub fn take_back(&self, now: Instant) {
        let stream = self.ahead.take();
        self.ahead
            .set(stream.filter(|stream| !stream.is_stale(now)));
    }

    /// Claims room for the longest head once a connection holds more than its state pays for; `false` if it
    /// can't be had. All of it at once: if heads claimed as they grow, very many that begin together would
    /// take all there is and none could be finished.
    pub fn claim_head(&self, held_bytes: usize) -> bool {
        let bytes = match held_bytes {
            0..=PENDING_BYTES_FREE => 0,
            _ => REQUEST_HEAD_BYTES_MAX as u64,
        };
        let mut claims = self.claims.borrow_mut();
        claims.head.resize(bytes, Allowance::Eighth)
    }

    /// Notes the state that the connection is in.
    pub fn enter(&self, phase: Phase, held_bytes: usize) {
        self.held_bytes.set(held_bytes);
        if self.phase.replace(phase) != phase {
            self.since.set(Instant::now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.has(0);
    }
}
