//! One core: a pinned thread with its runtime, listener, pool, decoder and connections.
//!
//! It talks to the control thread through two channels only: orders in, reports out. A request never
//! leaves the core that accepted it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use decode_kernel::code::Coder;
use slab::Slab;

use crate::core::{Connection, Core};
use crate::drive::drive;
use crate::gate::Gate;
use crate::http::respond::{self, Status};
use crate::io::buffer::Pool;
use crate::io::{self as kernel, Backend, Interest, Io, Socket};
use crate::limits::{self, ACCEPTS_PER_TURN, REQUEST_HEAD_BYTES_MAX, TICK};
use crate::object::{Catalogue, TableCache};
use crate::stats::CoreStats;
use crate::watch::{Timeouts, Watch};

/// Refusals being sent at once per core; beyond that a connection over the limit is just closed.
const REFUSALS_MAX: usize = 64;
/// How long accepting pauses when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the control thread tells a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop accepting; let bodies finish until the deadline, then close.
    Drain {
        /// When to stop waiting.
        deadline: Instant,
    },
}

/// What a core tells the control thread.
#[derive(Debug)]
pub enum Report {
    /// It serves. The text says why its pool is not registered with the ring, if it isn't.
    Ready(Option<String>),
    /// It has stopped, with this many connections cut off.
    Stopped {
        /// Connections that did not finish in time.
        cut: usize,
    },
    /// It can't go on.
    Failed(io::Error),
}

/// What a core is made of.
pub struct Plan {
    /// Its number, from 0.
    pub number: usize,
    /// How it talks to the kernel.
    pub backend: Backend,
    /// Its listener.
    pub listener: Socket,
    /// Store directories.
    pub stores: Arc<[PathBuf]>,
    /// Segment buffers.
    pub pool_buffers: usize,
    /// Bytes of one.
    pub pool_buffer_bytes: usize,
    /// Connections of this core.
    pub connections_max: usize,
    /// What connections are held to.
    pub timeouts: Timeouts,
    /// Where it counts.
    pub stats: Arc<CoreStats>,
}

/// Runs a core on the calling thread until it is told to stop.
pub fn run(plan: Plan, orders: &Receiver<Order>, reports: &Sender<(usize, Report)>) {
    if let Some(cores) = core_affinity::get_core_ids().filter(|cores| !cores.is_empty()) {
        let core = cores[plan.number % cores.len()];
        if !core_affinity::set_for_current(core) {
            tracing::warn!(core = plan.number, "the thread could not be pinned to a core");
        }
    }
    let number = plan.number;
    let say = |report| {
        // The control thread outlives the cores; if it is gone there is nobody to tell.
        let _ = reports.send((number, report));
    };
    match kernel::run(plan.backend, serve(plan, orders, &say)) {
        Ok(Ok(cut)) => say(Report::Stopped { cut }),
        Ok(Err(error)) | Err(error) => say(Report::Failed(error)),
    }
}

async fn serve(plan: Plan, orders: &Receiver<Order>, say: &dyn Fn(Report)) -> io::Result<usize> {
    let pool = Pool::new(plan.pool_buffers, plan.pool_buffer_bytes);
    let (io, unregistered) = Io::new(plan.backend, &pool)?;
    let core = Rc::new(Core {
        io,
        coder: RefCell::new(Coder::new(limits::REBUILD_PLANS_MAX)),
        catalogue: Catalogue::new(plan.stores, pool.piece_capacity()),
        pool,
        tables: TableCache::default(),
        gate: Gate {
            lowat_bytes: limits::NOTSENT_LOWAT_BYTES as u32,
            piece_bytes_max: limits::PIECE_BYTES_MAX as u32,
            credit_bytes_min: limits::CREDIT_BYTES_MIN as u32,
        },
        stats: plan.stats,
        connections: RefCell::new(Slab::new()),
        refusing: Cell::new(0),
        scratch: RefCell::new(Box::new([0; REQUEST_HEAD_BYTES_MAX])),
        draining: Cell::new(false),
    });
    core.stats.pool_buffers.set(core.pool.buffers() as u64);
    let listener = Rc::new(plan.listener);
    tokio::task::spawn_local(accept(
        Rc::clone(&core),
        Rc::clone(&listener),
        plan.connections_max,
    ));
    say(Report::Ready(unregistered));

    let mut deadline: Option<Instant> = None;
    let mut watch = Watch::new(plan.timeouts);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match orders.try_recv() {
            Ok(Order::Drain { deadline: until }) => {
                core.draining.set(true);
                listener.stop_listening();
                deadline = Some(until);
            }
            Err(TryRecvError::Empty) => {}
            // Without a control thread there is nobody to serve for.
            Err(TryRecvError::Disconnected) => deadline = Some(Instant::now()),
        }
        watch.tick(&core);
        let Some(deadline) = deadline else { continue };
        let left = core.connections.borrow().len();
        if left == 0 || Instant::now() >= deadline {
            for (_, connection) in core.connections.borrow().iter() {
                connection.socket.abort();
            }
            return Ok(left);
        }
    }
}

/// Accepts connections and starts a task for each, until the core drains.
async fn accept(core: Rc<Core>, listener: Rc<Socket>, connections_max: usize) {
    loop {
        let ready = core.io.ready(&listener, Interest::Read).await;
        if core.draining.get() {
            return;
        }
        if let Err(error) = ready {
            tracing::error!(%error, "waiting for connections failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match listener.accept() {
                Ok((socket, peer)) => admit(&core, socket, peer, connections_max),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The peer was gone before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    break;
                }
            }
        }
    }
}

/// Starts serving a connection, or refuses it when there are as many as are planned for.
fn admit(core: &Rc<Core>, socket: Socket, peer: SocketAddr, connections_max: usize) {
    // Those being refused take no room, or a crowd that keeps coming back would hold it for ever.
    let refusing = core.refusing.get();
    let open = core.connections.borrow().len() - refusing;
    let refusal = if open < connections_max {
        core.stats.accepted.add(1);
        None
    } else {
        core.stats.refused.add(1);
        if refusing >= REFUSALS_MAX {
            return;
        }
        core.refusing.set(refusing + 1);
        let reason = "this server holds as many connections as it may";
        Some(respond::error(Status::Unavailable, reason, None, SystemTime::now(), true))
    };
    tracing::debug!(%peer, refused = refusal.is_some(), "accepted");
    let connection = Rc::new(Connection::new(Rc::new(socket)));
    let slot = core.connections.borrow_mut().insert(Rc::clone(&connection));
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let refused = refusal.is_some();
        drive(Rc::clone(&core), connection, refusal).await;
        core.connections.borrow_mut().remove(slot);
        core.refusing.set(core.refusing.get() - usize::from(refused));
    });
}
