//! One core: a pinned thread with its runtime, listener, pool, decoder and connections.
//!
//! It talks to the control thread through two channels only: orders in, reports out. A request never
//! leaves the core that accepted it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::body::hot::HotObjects;
use crate::body::readahead::Readahead;
use crate::body::rebuilt::RebuiltBlocks;
use crate::body::zero_copy::ZeroCopy;
use crate::body::{Resources, Sources};
use crate::config::Live;
use crate::config::values::{OverLimit, ZeroCopyMode};
use crate::connection::accept::accept;
use crate::connection::access_log::AccessLog;
use crate::connection::core::{Core, Fairness, Signing};
use crate::connection::driver::Transport;
use crate::connection::gate::Gate;
use crate::connection::lending::Lender;
use crate::connection::list::{self, Listed};
use crate::connection::places::Secured;
use crate::connection::seats::Seats;
use crate::connection::tick::Ticks;
use crate::engine::Engine;
use crate::io::Pool;
use crate::io::{self as kernel, Backend, Io, Listener, Socket};
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::limits::{self, READAHEAD_BUFFER_BYTES, TICK};
use crate::objects::Catalogue;
use crate::objects::codes::Codes;
use crate::objects::open_files::OpenFiles;
use crate::objects::verified::VerifiedLeaves;
use crate::stats::CoreStats;
use crate::stores::Stores;
use crate::tahoe::Gateway;
use crate::tls::record::RECORD_BYTES_MAX;
use crate::tls::{Acceptor, Workspace};

/// What the control thread tells a core.
#[derive(Clone)]
pub enum Order {
    /// Go on with other settings.
    Reload {
        /// The settings.
        live: Arc<Live>,
        /// Where objects are read from now on.
        stores: Arc<Stores>,
    },
    /// Stop accepting; let bodies finish until the deadline, then close.
    Drain {
        /// When to stop waiting.
        deadline: Instant,
        /// Whether another process goes on with the listeners. Otherwise they listen no more.
        keep_listening: bool,
    },
    /// List the largest and the slowest connections, for the status.
    List {
        /// Where to.
        reply: mpsc::Sender<Vec<Listed>>,
    },
}

/// What a core tells the control thread.
#[derive(Debug)]
pub enum Report {
    /// Its runtime is there. It waits for the others.
    Begun,
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
    /// Disconnected when every core has begun.
    pub go: Receiver<std::convert::Infallible>,
    /// Disconnected when all are ready, and it is to accept connections.
    pub accept: Receiver<std::convert::Infallible>,
    /// Its number, from 0.
    pub number: usize,
    /// How it talks to the kernel.
    pub backend: Backend,
    /// Its listeners.
    pub listeners: Vec<(Listener, Transport)>,
    /// What TLS handshakes start from, if there is TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// Where objects and files are read from, shared by the cores.
    pub stores: Arc<Stores>,
    /// Share files that may be open.
    pub share_files: usize,
    /// The longest segment of a Tahoe-LAFS file.
    pub tahoe_segment_bytes_max: u64,
    /// Segment buffers.
    pub pool_buffers: usize,
    /// Buffers that take the place of those that hang.
    pub pool_reserve: usize,
    /// Bytes of one.
    pub pool_buffer_bytes: usize,
    /// Memory to lend, shared by the cores.
    pub budget: Arc<Budget>,
    /// Places for connections, shared by the cores.
    pub seats: Arc<Seats>,
    /// How fast clients are sent to, and what their networks got, shared by the cores.
    pub fairness: Fairness,
    /// What happens when there is no place.
    pub over_limit: OverLimit,
    /// `SO_SNDBUF` that every connection has.
    pub send_buffer_floor: u32,
    /// The most it may become.
    pub send_buffer_max: u32,
    /// Memory for small objects that are asked for often.
    pub hot_bytes: usize,
    /// Memory for rebuilt blocks that others want soon.
    pub rebuilt_bytes: usize,
    /// Readahead buffers.
    pub readahead_buffers: usize,
    /// How long a verified leaf counts as good; `None` if every read is verified.
    pub verify_age: Option<Duration>,
    /// When pieces are sent zero-copy.
    pub zero_copy: ZeroCopyMode,
    /// The settings that can change, as they are at the start.
    pub live: Arc<Live>,
    /// Who may sign requests, and what makes listings.
    pub signing: Signing,
    /// Where it counts.
    pub stats: Arc<CoreStats>,
    /// Where it logs requests, if they are logged.
    pub access: Option<AccessLog>,
}

/// Runs a core on the calling thread until it is told to stop.
pub fn run(plan: Plan, orders: &Receiver<Order>, reports: &Sender<(usize, Report)>) {
    if let Some(cores) = core_affinity::get_core_ids().filter(|cores| !cores.is_empty()) {
        let core = cores[plan.number % cores.len()];
        if !core_affinity::set_for_current(core) {
            tracing::warn!(
                core = plan.number,
                "the thread could not be pinned to a core"
            );
        }
    }
    let number = plan.number;
    let say = |report| {
        // The control thread outlives the cores; if it is gone there is nobody to tell.
        let _ = reports.send((number, report));
    };
    // Held until the ring has ended. When it ends, tokio-uring forgets what its reads hold, and only then cancels
    // them and waits for the last: until then they may write to the pool.
    // What takes the place of buffers that hang is claimed from the credit when that happens.
    let (bytes, mut claim) = (plan.pool_buffer_bytes, Claim::empty(&plan.budget));
    let grant = move |buffers: usize| claim.resize((buffers * bytes) as u64, Allowance::Half);
    let pool = Pool::with_reserve(plan.pool_buffers, plan.pool_reserve, bytes, grant);
    let readahead = (plan.readahead_buffers > 0)
        .then(|| Pool::for_direct_reads(plan.readahead_buffers, READAHEAD_BUFFER_BYTES));
    match kernel::run(
        plan.backend,
        serve(plan, &pool, readahead.as_ref(), orders, &say),
    ) {
        // It said so.
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => say(Report::Failed(error)),
    }
}

async fn serve(
    plan: Plan,
    pool: &Pool,
    readahead: Option<&Pool>,
    orders: &Receiver<Order>,
    say: &dyn Fn(Report),
) -> io::Result<()> {
    say(Report::Begun);
    // Blocks the thread, which has nothing else to do yet.
    let _ = plan.go.recv();
    let (io, unregistered) = Io::new(plan.backend, pool)?;
    let verified = VerifiedLeaves::new(plan.verify_age);
    let (stats, timeout) = (Arc::clone(&plan.stats), plan.stores.timeout());
    let fetcher = plan.stores.remote();
    let fetcher = fetcher.map(|remote| Arc::clone(remote.fetcher()));
    let engine = Engine::new(io, pool.clone(), verified, stats, timeout);
    let files = OpenFiles::new(plan.share_files, &plan.budget);
    let codes = Rc::new(Codes::new(pool.piece_capacity(), &plan.budget));
    let gateway = (!plan.stores.nodes().is_empty()).then(|| {
        Gateway::new(
            Arc::clone(&plan.stores),
            plan.tahoe_segment_bytes_max,
            Rc::clone(&files),
            Rc::clone(&codes),
        )
    });
    // Open objects at most: each has one share file at least.
    let objects_max = plan.share_files / (1 + limits::OBJECT_FILES_EXTRA);
    let sources = Sources {
        engine: Rc::new(engine),
        resources: Resources {
            catalogue: Catalogue::new(
                plan.stores,
                plan.live.allow_stale,
                pool.piece_capacity(),
                files,
                codes,
            ),
            gateway,
        },
        hot: HotObjects::new(plan.hot_bytes, objects_max, plan.verify_age),
        rebuilt: RebuiltBlocks::new(plan.rebuilt_bytes, plan.verify_age),
        readahead: readahead.cloned().map(Readahead::new),
        fetcher,
        zero_copy: ZeroCopy::new(plan.zero_copy, pool, Arc::clone(&plan.stats)),
        permits: Semaphore::new(pool.buffers()),
        workspace: plan.tls.as_ref().map(|_| {
            let bytes = limits::PIECE_BYTES_MAX + RECORD_BYTES_MAX;
            RefCell::new(Workspace::new(bytes, limits::TLS_KEYS_MAX))
        }),
        record: Mutex::default(),
    };
    let gate = Gate {
        piece_bytes_max: limits::PIECE_BYTES_MAX as u32,
        credit_bytes_min: limits::CREDIT_BYTES_MIN,
    };
    let lender = Lender::new(plan.budget, plan.send_buffer_floor, plan.send_buffer_max);
    let mut core = Core::new(
        sources,
        gate,
        lender,
        plan.fairness,
        plan.live,
        plan.signing,
        plan.access,
    );
    let mut by_tls = plan.listeners.iter();
    let by_tls = by_tls.find(|(_, transport)| *transport == Transport::Tls);
    if let (Some(acceptor), Some((listener, _))) = (plan.tls, by_tls) {
        let port = listener.local_address()?.port();
        core.secure(Secured::new(acceptor, port));
    }
    let core = Rc::new(core);
    let stats = &plan.stats;
    stats.pool_buffers.set(pool.buffers() as u64);
    stats
        .readahead_buffers
        .set(readahead.map_or(0, |pool| pool.buffers() as u64));
    let giver = Rc::clone(&core);
    tokio::task::spawn_local(async move { giver.networks.give_turns(giver.io()).await });
    say(Report::Ready(unregistered));
    // Blocks the thread again. A server that does not become ready must not have accepted anything.
    let _ = plan.accept.recv();
    let listeners = plan.listeners.into_iter();
    let listeners: Vec<(Rc<Socket>, Transport)> = listeners
        .map(|(one, transport)| (Rc::new(one.into()), transport))
        .collect();
    for listener in &listeners {
        tokio::task::spawn_local(accept(
            Rc::clone(&core),
            listener.clone(),
            Arc::clone(&plan.seats),
            plan.over_limit,
        ));
    }

    let mut deadline: Option<Instant> = None;
    let mut look = Ticks::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match orders.try_recv() {
            Ok(Order::Drain {
                deadline: until,
                keep_listening,
            }) => {
                core.draining.set(true);
                if !keep_listening {
                    listeners.iter().for_each(|(one, _)| one.stop_listening());
                }
                deadline = Some(until);
            }
            Ok(Order::Reload { live, stores }) => reload(&core, live, &stores),
            Ok(Order::List { reply }) => {
                // Nobody waits any more if the admin's patience is over.
                let _ = reply.try_send(list::list(&core));
            }
            Err(TryRecvError::Empty) => {}
            // Without a control thread there is nobody to serve for.
            Err(TryRecvError::Disconnected) => deadline = Some(Instant::now()),
        }
        look.tick(&core);
        core.make_room_for_others(&plan.seats, Instant::now());
        let Some(deadline) = deadline else { continue };
        let left = core.connections.borrow().len();
        if left == 0 || Instant::now() >= deadline {
            for (_, connection) in core.connections.borrow().iter() {
                connection.socket.reset();
            }
            // Before the runtime ends: a ring waits for its reads, of which one may hang.
            say(Report::Stopped { cut: left });
            return Ok(());
        }
    }
}

/// Goes on with other settings. Bodies under way are not touched.
fn reload(core: &Core, live: Arc<Live>, stores: &Arc<Stores>) {
    let resources = &core.sources.resources;
    resources.catalogue.change(stores, live.allow_stale);
    if let Some(gateway) = &resources.gateway {
        gateway.change(stores);
    }
    core.change(live);
}
