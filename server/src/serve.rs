//! Starts the cores and the admin listener, waits for a signal, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::admin::{self, Shared};
use crate::config::Settings;
use crate::io::sys::{self, Resource};
use crate::io::{self as kernel, Backend, Socket, SocketOptions};
use crate::limits;
use crate::stats::CoreStats;
use crate::watch::Timeouts;
use crate::worker::{self, Order, Report};

/// Orders that may wait for a core: it looks once a tick.
const ORDERS_MAX: usize = 4;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No store can be read.
    #[error("{0}")]
    Stores(io::Error),
    /// io_uring was asked for and can't be had.
    #[error("--io uring: {0}")]
    Backend(#[from] kernel::ProbeError),
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
    /// Too few descriptors for the connections asked for.
    #[error(
        "{connections} connections and {files} share files need {need} descriptors, the limit is {have}: \
         raise it (`ulimit -n {need}`, LimitNOFILE={need}) or set --max-connections {fits}"
    )]
    Descriptors {
        /// Connections.
        connections: usize,
        /// Share files that may be open.
        files: usize,
        /// Descriptors needed.
        need: u64,
        /// RLIMIT_NOFILE.
        have: u64,
        /// Connections that would fit.
        fits: u64,
    },
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
    penstock_tools::store::check_stores(&settings.stores).map_err(ServeError::Stores)?;
    for store in settings.stores.iter().filter(|store| !store.is_dir()) {
        tracing::warn!(store = %store.display(), "store missing; its shares count as lost");
    }
    let backend = choose_backend(&settings)?;
    let connections_max = check_descriptors(&settings)?;

    let options = SocketOptions {
        send_buffer_bytes: limits::SEND_BUFFER_BYTES,
        notsent_lowat_bytes: limits::NOTSENT_LOWAT_BYTES,
        user_timeout: settings.send_timeout,
    };
    let listeners = listen(settings.listen, settings.cores, &options)
        .map_err(|error| ServeError::Listen { what: "objects", address: settings.listen, error })?;
    let objects = listeners[0]
        .local_address()
        .map_err(|error| ServeError::System { what: "getsockname", error })?;
    let admin_listener = TcpListener::bind(settings.admin)
        .map_err(|error| ServeError::Listen { what: "admin", address: settings.admin, error })?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|error| ServeError::System { what: "getsockname", error })?;

    let signals = signals().map_err(|error| ServeError::System { what: "signals", error })?;
    let shared = Arc::new(Shared::new(backend, settings.cores, connections_max));
    admin::start(admin_listener, Arc::clone(&shared))
        .map_err(|error| ServeError::System { what: "the admin thread", error })?;
    let cores = Cores::start(&settings, backend, connections_max, listeners, &shared.cores)?;
    cores.wait_until_ready()?;
    shared.set_ready(true);
    ready(Addresses { objects, admin: admin_address });

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

fn choose_backend(settings: &Settings) -> Result<Backend, ServeError> {
    let (backend, why_not_uring) = kernel::choose(settings.io)?;
    match why_not_uring {
        None => tracing::info!(%backend, "I/O backend"),
        Some(error) => tracing::warn!(%backend, "io_uring can't be used, epoll takes its place: {error}"),
    }
    Ok(backend)
}

/// Raises the soft limit on descriptors and checks it against what will be used. Without an explicit
/// `--max-connections`, fewer connections than the default are planned where descriptors are few.
fn check_descriptors(settings: &Settings) -> Result<usize, ServeError> {
    let have = sys::raise_limit(Resource::Descriptors)
        .map_err(|error| ServeError::System { what: "RLIMIT_NOFILE", error })?;
    // Per core: a listener, ring or epoll instance, the runtime's own, and refusals being sent.
    let fixed = 64 + settings.cores as u64 * 128;
    let files = limits::SHARE_FILES_MAX * settings.cores;
    let fits = have.saturating_sub(fixed + files as u64);
    let wanted = settings.connections_max.unwrap_or(limits::CONNECTIONS_DEFAULT);
    if fits >= wanted as u64 {
        return Ok(wanted);
    }
    if settings.connections_max.is_none() && fits >= 64 {
        tracing::warn!(
            connections = fits, descriptors = have,
            "fewer connections than usual are planned: raise the limit on descriptors (`ulimit -n`)"
        );
        return Ok(fits as usize);
    }
    let need = fixed + (files + wanted) as u64;
    Err(ServeError::Descriptors { connections: wanted, files, need, have, fits })
}

/// One listener per core on the same address. The first bind is without SO_REUSEPORT and given up
/// again: a port that another server has is an error, not a share of its connections.
fn listen(
    address: SocketAddr,
    cores: usize,
    options: &SocketOptions,
) -> io::Result<Vec<Socket>> {
    if address.port() != 0 {
        drop(TcpListener::bind(address)?);
    }
    let first = Socket::listen(address, options)?;
    let address = first.local_address()?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(Socket::listen(address, options)?);
    }
    Ok(listeners)
}

/// SIGTERM and SIGINT as messages.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = bounded(ORDERS_MAX);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
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
        backend: Backend,
        connections_max: usize,
        listeners: Vec<Socket>,
        stats: &[Arc<CoreStats>],
    ) -> Result<Cores, ServeError> {
        let stores: Arc<[PathBuf]> = settings.stores.clone().into();
        let (report, reports) = bounded(2 * settings.cores);
        let mut cores = Cores { orders: Vec::new(), reports, threads: Vec::new() };
        for (number, (listener, stats)) in listeners.into_iter().zip(stats).enumerate() {
            let plan = worker::Plan {
                number,
                backend,
                listener,
                stores: Arc::clone(&stores),
                pool_buffers: settings.pool_buffers,
                pool_buffer_bytes: settings.pool_buffer_bytes,
                connections_max: connections_max.div_ceil(settings.cores),
                timeouts: Timeouts {
                    head: settings.head_timeout,
                    idle: settings.idle_timeout,
                    send: settings.send_timeout,
                },
                stats: Arc::clone(stats),
            };
            let (order, orders) = bounded(ORDERS_MAX);
            let report = report.clone();
            let thread = std::thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || worker::run(plan, &orders, &report))
                .map_err(|error| ServeError::System { what: "starting a core's thread", error })?;
            cores.orders.push(order);
            cores.threads.push(thread);
        }
        Ok(cores)
    }

    fn wait_until_ready(&self) -> Result<(), ServeError> {
        let mut unregistered = None;
        for _ in 0..self.threads.len() {
            match self.reports.recv() {
                Ok((core, Report::Ready(reason))) => unregistered = reason.or(unregistered.take()).inspect(|_| {
                    tracing::debug!(core, "the pool is not registered");
                }),
                Ok((core, Report::Failed(error))) => return Err(ServeError::Core { core, error }),
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

    /// Stops the cores: bodies may finish until `deadline`, or until a second signal.
    fn drain(self, deadline: Instant, signals: &Receiver<i32>) -> Result<(), ServeError> {
        for order in &self.orders {
            // A core that is gone needs no order.
            let _ = order.try_send(Order::Drain { deadline });
        }
        let mut cut_off = 0;
        let mut running = self.threads.len();
        while running > 0 {
            select! {
                recv(self.reports) -> report => match report {
                    Ok((_, Report::Stopped { cut })) => {
                        cut_off += cut;
                        running -= 1;
                    }
                    Ok((core, Report::Failed(error))) => return Err(ServeError::Core { core, error }),
                    Ok((_, Report::Ready(_))) => {}
                    Err(_) => break,
                },
                recv(signals) -> _ => {
                    tracing::warn!("second signal: stopping now");
                    return Ok(());
                }
            }
        }
        if cut_off > 0 {
            tracing::warn!(connections = cut_off, "cut off at the deadline");
        }
        tracing::info!("stopped");
        Ok(())
    }
}
