//! Starts the cores and the admin listener, waits for a signal, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::config::Settings;
use crate::config::values::ZeroCopyMode;
use crate::connection::deadlines::Timeouts;
use crate::connection::seats::Seats;
use crate::io::sys::{self, Resource};
use crate::io::{self as kernel, Backend, Listener, SocketOptions};
use crate::memory::budget::Budget;
use crate::memory::limits;
use crate::memory::plan::{Declared, MemoryPlan, PlanRefusal};

pub mod admin;
pub mod backend;
pub mod worker;

use admin::Shared;
use worker::{Order, Report};

/// Orders that may wait for a core: it looks once a tick.
const ORDERS_MAX: usize = 4;
/// How long a core that has as many waiting may take to make room for one more.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the cores may take to reset what is open after a second signal: some ticks.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No store can be read.
    #[error("{0}")]
    Stores(io::Error),
    /// io_uring was asked for and can't be had.
    #[error("--io uring: {0}")]
    Backend(kernel::ProbeError),
    /// Zero-copy sends were insisted on and can't be had.
    #[error("--zero-copy always: {0}")]
    ZeroCopy(String),
    /// An address can't be listened on.
    #[error("cannot listen on {address} ({what}): {error}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The declared memory can't hold what was asked.
    #[error(transparent)]
    Plan(#[from] PlanRefusal),
    /// The kernel that PENSTOCK_KERNEL names can't be used.
    #[error("PENSTOCK_KERNEL: {0}")]
    Kernel(String),
    /// A core stopped working.
    #[error("core {core}: {error}")]
    Core {
        /// Its number.
        core: usize,
        /// Why.
        error: io::Error,
    },
    /// Anything else that the operating system refused.
    #[error("{what}: {error}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

/// Where a running server is reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Objects.
    pub objects: SocketAddr,
    /// Metrics, health and status.
    pub admin: SocketAddr,
}

/// Serves until SIGTERM or SIGINT. `ready` is called once every core serves.
pub fn serve(settings: Settings, ready: impl FnOnce(Addresses)) -> Result<(), ServeError> {
    check_directories(&settings)?;
    if let Err(error) = decode_kernel::arch::Kernel::requested() {
        return Err(ServeError::Kernel(error.to_string()));
    }
    let plan = plan(&settings)?;
    tracing::info!("{}", plan.summary());
    for warning in machine_warnings(&settings, &plan) {
        tracing::info!("{warning}");
    }
    if settings.send_timeout < limits::SEND_TIMEOUT_ADVISED {
        tracing::warn!(
            "--send-timeout {}: live clients that read slowly acknowledge in steps some seconds apart and may \
             be closed; {} or more spares them",
            humantime::format_duration(settings.send_timeout),
            humantime::format_duration(limits::SEND_TIMEOUT_ADVISED),
        );
    }
    let (backend, why_not_uring) = choose_backend(&settings)?;
    let zero_copy =
        backend::choose_zero_copy(settings.zero_copy, backend).map_err(ServeError::ZeroCopy)?;
    if let Some(why) = &zero_copy.1 {
        tracing::info!("no zero-copy sends: {why}");
    }

    let options = SocketOptions {
        send_buffer_bytes: plan.send_buffer_floor,
        receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
    };
    let listeners =
        listen(settings.listen, settings.cores, &options).map_err(|error| ServeError::Listen {
            what: "objects",
            address: settings.listen,
            error,
        })?;
    let objects = listeners[0]
        .local_address()
        .map_err(|error| ServeError::System {
            what: "getsockname",
            error,
        })?;
    let admin_listener = TcpListener::bind(settings.admin).map_err(|error| ServeError::Listen {
        what: "admin",
        address: settings.admin,
        error,
    })?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|error| ServeError::System {
            what: "getsockname",
            error,
        })?;

    let signals = signals().map_err(|error| ServeError::System {
        what: "signals",
        error,
    })?;
    let shared = Shared::new(
        (backend, why_not_uring),
        zero_copy,
        plan,
        Budget::new(plan.credit_bytes),
        Seats::new(plan.connections, settings.connections_per_address_max),
    );
    let (cores, shared) = Cores::start(&settings, shared, listeners)?;
    admin::start(admin_listener, Arc::clone(&shared)).map_err(|error| ServeError::System {
        what: "the admin thread",
        error,
    })?;
    cores.wait_until_ready()?;
    shared.set_ready(true);
    ready(Addresses {
        objects,
        admin: admin_address,
    });

    select! {
        recv(signals) -> signal => {
            tracing::info!(signal = signal.unwrap_or_default(), "stopping: bodies under way may finish");
            shared.set_ready(false);
            cores.drain(Instant::now() + settings.drain_timeout, &signals)
        }
        recv(cores.reports) -> report => match report {
            Ok((core, Report::Failed(error))) => Err(ServeError::Core { core, error }),
            _ => Err(ServeError::Core { core: 0, error: io::Error::other("it stopped by itself") }),
        },
    }
}

/// Some store or node must be readable; those that are not count as lost.
fn check_directories(settings: &Settings) -> Result<(), ServeError> {
    let all = [&settings.stores[..], &settings.tahoe_nodes].concat();
    penstock_tools::store::check_stores(&all).map_err(ServeError::Stores)?;
    for store in settings.stores.iter().filter(|store| !store.is_dir()) {
        tracing::warn!(store = %store.display(), "store missing; its shares count as lost");
    }
    for node in settings.tahoe_nodes.iter().filter(|node| !node.is_dir()) {
        tracing::warn!(node = %node.display(), "node missing; its shares count as lost");
    }
    Ok(())
}

/// The backend, and why it isn't io_uring if that was tried.
fn choose_backend(settings: &Settings) -> Result<(Backend, Option<String>), ServeError> {
    let (backend, why_not_uring) =
        backend::choose_io(settings.io, settings.cores).map_err(ServeError::Backend)?;
    match &why_not_uring {
        None => tracing::info!(%backend, "I/O backend"),
        Some(error) => {
            tracing::warn!(%backend, "io_uring can't be used, epoll takes its place: {error}")
        }
    }
    Ok((backend, why_not_uring.map(|error| error.to_string())))
}

/// Divides the declared memory for this machine.
pub fn plan(settings: &Settings) -> Result<MemoryPlan, ServeError> {
    let descriptors =
        sys::raise_limit(Resource::Descriptors).map_err(|error| ServeError::System {
            what: "RLIMIT_NOFILE",
            error,
        })?;
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let gateway = !settings.tahoe_nodes.is_empty();
    let share_files = settings
        .share_files
        .unwrap_or_else(|| limits::share_files(settings.cores, descriptors));
    let own = limits::descriptors_own(settings.cores, share_files);
    Ok(MemoryPlan::new(Declared {
        memory_bytes: settings.memory_bytes,
        cores: settings.cores,
        pool_buffers: settings.pool_buffers,
        pool_buffer_bytes: settings.pool_buffer_bytes,
        hot_bytes: settings.hot_bytes,
        ahead_bytes: settings.readahead_bytes,
        rebuilt_bytes: settings.rebuilt_bytes,
        share_files,
        gateway,
        connections: settings.connections_max,
        descriptors_allow: descriptors.saturating_sub(own),
        descriptors_own: own,
    })?)
}

/// What to do so that every core can register its pool with io_uring, if the limit is too low for that: once for
/// reads, and once for zero-copy sends. The server itself tries, and says what came of it.
pub fn locked_memory_advice(settings: &Settings, plan: &MemoryPlan) -> Option<String> {
    let (times, sends) = match settings.zero_copy {
        ZeroCopyMode::Off => (1, ""),
        _ => (2, ", and send by copy"),
    };
    let wanted = (limits::RING_LOCKED_BYTES + times * plan.pool_bytes) * plan.declared.cores as u64;
    let (_, locked) = sys::limit(Resource::LockedMemory).ok()?;
    (locked < wanted && !sys::may_lock_memory()).then(|| {
        let kib = wanted.div_ceil(1024);
        format!(
            "RLIMIT_MEMLOCK is {} KiB, rings and registered pool buffers take {kib} KiB: `ulimit -l {kib}` or \
             LimitMEMLOCK={wanted}, else some cores use theirs unregistered{sends}",
            locked >> 10,
        )
    })
}

/// Limits of the machine that are lower than what the plan will use, each with the line that fixes it.
pub fn machine_warnings(settings: &Settings, plan: &MemoryPlan) -> Vec<String> {
    let mut warnings = Vec::new();
    let setting = |path: &str| -> Option<Vec<u64>> {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    // tcp_mem counts pages: low, pressure, most, for all sockets of the machine.
    let sockets =
        plan.connections as u64 * limits::socket_bytes(plan.send_buffer_floor) + plan.credit_bytes;
    if let Some([_, pressure, _]) = setting("/proc/sys/net/ipv4/tcp_mem").as_deref()
        && pressure * 4096 < sockets
    {
        warnings.push(format!(
            "net.ipv4.tcp_mem puts TCP under pressure at {} MiB, this plan's sockets may take {} MiB: \
             `sysctl net.ipv4.tcp_mem=\"{} {} {}\"`",
            (pressure * 4096) >> 20,
            sockets >> 20,
            sockets / 4096,
            sockets / 4096 * 3 / 2,
            sockets / 4096 * 2,
        ));
    }
    let wanted = settings.send_buffer_max;
    if send_buffer_max(wanted) < wanted {
        warnings.push(format!(
            "net.core.wmem_max caps a connection's send buffer at {} KiB: `sysctl net.core.wmem_max={wanted}`",
            send_buffer_max(wanted) >> 10,
        ));
    }
    warnings
}

/// The largest `SO_SNDBUF` that the kernel lets this process set, up to what is wanted: a larger one is
/// cut without a word (socket(7)).
fn send_buffer_max(wanted: u32) -> u32 {
    std::fs::read_to_string("/proc/sys/net/core/wmem_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map_or(wanted, |most: u32| most.min(wanted))
}

/// One listener per core on the same address. The first bind is without SO_REUSEPORT and given up
/// again: a port that another server has is an error, not a share of its connections.
fn listen(address: SocketAddr, cores: usize, options: &SocketOptions) -> io::Result<Vec<Listener>> {
    if address.port() != 0 {
        drop(TcpListener::bind(address)?);
    }
    let first = Listener::bind(address, options)?;
    let address = first.local_address()?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(Listener::bind(address, options)?);
    }
    Ok(listeners)
}

/// SIGTERM and SIGINT as messages.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = bounded(ORDERS_MAX);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// The running cores, as the control thread sees them.
struct Cores {
    orders: Vec<Sender<Order>>,
    reports: Receiver<(usize, Report)>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Cores {
    fn start(
        settings: &Settings,
        mut shared: Shared,
        listeners: Vec<Listener>,
    ) -> Result<(Cores, Arc<Shared>), ServeError> {
        let stores: Arc<[PathBuf]> = settings.stores.clone().into();
        let nodes: Arc<[PathBuf]> = settings.tahoe_nodes.clone().into();
        let (report, reports) = bounded(4 * settings.cores);
        let (go, may_go) = bounded(0);
        let mut cores = Cores {
            orders: Vec::new(),
            reports,
            threads: Vec::new(),
        };
        for (number, listener) in listeners.into_iter().enumerate() {
            let stats = Arc::clone(&shared.cores[number]);
            let plan = worker::Plan {
                number,
                go: may_go.clone(),
                backend: shared.backend,
                listener,
                stores: Arc::clone(&stores),
                share_files: shared.plan.declared.share_files,
                tahoe_nodes: Arc::clone(&nodes),
                tahoe_segment_bytes_max: settings.tahoe_segment_bytes_max,
                pool_buffers: settings.pool_buffers,
                pool_buffer_bytes: settings.pool_buffer_bytes,
                budget: Arc::clone(&shared.budget),
                seats: Arc::clone(&shared.seats),
                over_limit: settings.over_limit,
                send_buffer_floor: shared.plan.send_buffer_floor,
                send_buffer_max: send_buffer_max(settings.send_buffer_max),
                hot_bytes: usize::try_from(shared.plan.hot_bytes).unwrap_or(0),
                rebuilt_bytes: usize::try_from(shared.plan.rebuilt_bytes).unwrap_or(0),
                ahead_buffers: shared.plan.ahead_buffers(),
                verify_age: settings.verify_age,
                zero_copy: shared.zero_copy,
                timeouts: Timeouts {
                    head: settings.head_timeout,
                    idle: settings.idle_timeout,
                    send: settings.send_timeout,
                    rate_min: settings.rate_min,
                },
                stats,
            };
            let (order, orders) = bounded(ORDERS_MAX);
            let report = report.clone();
            let thread = std::thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || worker::run(plan, &orders, &report))
                .map_err(|error| ServeError::System {
                    what: "starting a core's thread",
                    error,
                })?;
            shared.orders.push(order.clone());
            cores.orders.push(order);
            cores.threads.push(thread);
        }
        // Every core has its ring before any registers its pool: both count against RLIMIT_MEMLOCK, and a
        // pool can go unregistered where a ring can't.
        for _ in 0..cores.threads.len() {
            match cores.reports.recv() {
                Ok((_, Report::Begun)) => {}
                Ok((core, Report::Failed(error))) => return Err(ServeError::Core { core, error }),
                _ => {
                    let error = io::Error::other("a core ended before it began");
                    return Err(ServeError::Core { core: 0, error });
                }
            }
        }
        drop(go);
        Ok((cores, Arc::new(shared)))
    }

    fn wait_until_ready(&self) -> Result<(), ServeError> {
        let mut unregistered = None;
        for _ in 0..self.threads.len() {
            match self.reports.recv() {
                Ok((core, Report::Ready(reason))) => {
                    unregistered = reason.or(unregistered.take()).inspect(|_| {
                        tracing::debug!(core, "the pool is not registered");
                    })
                }
                Ok((core, Report::Failed(error))) => return Err(ServeError::Core { core, error }),
                Ok((core, Report::Begun)) => {
                    let error = io::Error::other("it began twice");
                    return Err(ServeError::Core { core, error });
                }
                Ok((core, Report::Stopped { .. })) => {
                    let error = io::Error::other("it stopped at once");
                    return Err(ServeError::Core { core, error });
                }
                Err(_) => {
                    let error = io::Error::other("its thread ended");
                    return Err(ServeError::Core { core: 0, error });
                }
            }
        }
        if let Some(reason) = unregistered {
            tracing::warn!("pool buffers are not registered with io_uring: {reason}");
        }
        Ok(())
    }

    fn order_drain(&self, deadline: Instant) {
        for order in &self.orders {
            // Cores look once a tick. One that is gone needs no order.
            let _ = order.send_timeout(Order::Drain { deadline }, ORDER_PATIENCE);
        }
    }

    /// Stops the cores: bodies may finish until `deadline`, or until a second signal cuts them off.
    fn drain(self, deadline: Instant, signals: &Receiver<i32>) -> Result<(), ServeError> {
        self.order_drain(deadline);
        let mut cut_off = 0;
        let mut running = self.threads.len();
        // Set by a second signal.
        let mut patience = None;
        while running > 0 {
            select! {
                recv(self.reports) -> report => match report {
                    Ok((_, Report::Stopped { cut })) => {
                        cut_off += cut;
                        running -= 1;
                    }
                    Ok((core, Report::Failed(error))) => return Err(ServeError::Core { core, error }),
                    Ok((_, Report::Begun | Report::Ready(_))) => {}
                    Err(_) => break,
                },
                recv(signals) -> _ => {
                    if patience.is_some() {
                        break;
                    }
                    tracing::warn!("second signal: stopping now");
                    // Open bodies are reset: an exit alone would end them like whole ones.
                    self.order_drain(Instant::now());
                    patience = Some(after(CUT_PATIENCE));
                }
                recv(patience.as_ref().unwrap_or(&never())) -> _ => {
                    tracing::warn!(cores = running, "not stopped in time");
                    break;
                }
            }
        }
        if cut_off > 0 {
            tracing::warn!(connections = cut_off, "cut off before the end");
        }
        tracing::info!("stopped");
        Ok(())
    }
}
