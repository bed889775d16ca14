//! The cores' threads, as the control thread sees them: started, waited for, drained.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, Sender, after, bounded, never, select};

use super::error::ServeError;
use super::preflight::send_buffer_max;
use super::signals::Signal;
use super::state::ServerState;
use super::worker::{self, Order, Report};
use crate::config::Settings;
use crate::connection::access_log::AccessLog;
use crate::connection::core::{Fairness, Signing};
use crate::connection::driver::Transport;
use crate::connection::totals::Totals;
use crate::io::Listener;

/// Orders that may wait for a core, which looks for them once a tick.
const ORDERS_MAX: usize = 4;
/// How long a core with that many orders may take to make room for one more.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the cores may take to reset open connections after a second signal, or when the time for the drain is over:
/// some ticks.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// The running cores.
pub(super) struct Cores {
    /// It holds the way to give each core orders.
    state: Arc<ServerState>,
    reports: Receiver<(usize, Report)>,
    threads: usize,
    /// Dropped when connections are to be accepted.
    accept: Option<Sender<Infallible>>,
}

/// A report of a core that works; otherwise why it doesn't.
fn working(report: Result<(usize, Report), RecvError>) -> Result<(usize, Report), ServeError> {
    match report {
        Ok((core, Report::Failed(error))) => Err(ServeError::Core { core, error }),
        Ok(report) => Ok(report),
        Err(_) => Err(ServeError::Core {
            core: 0,
            error: io::Error::other("its thread ended"),
        }),
    }
}

/// A core fails, or stops without being told to.
pub(super) fn ended(report: Result<(usize, Report), RecvError>) -> ServeError {
    match working(report) {
        Err(error) => error,
        Ok((core, _)) => stopped(core),
    }
}

/// A core stopped that was not told to.
fn stopped(core: usize) -> ServeError {
    let error = io::Error::other("it stopped by itself");
    ServeError::Core { core, error }
}

impl Cores {
    /// Starts a thread for each listener, and waits until each has its ring.
    pub(super) fn start(
        settings: &Settings,
        mut state: ServerState,
        listeners: Vec<Vec<(Listener, Transport)>>,
        access: Option<AccessLog>,
    ) -> Result<(Cores, Arc<ServerState>), ServeError> {
        let threads = listeners.len();
        let totals = Arc::new(Totals::default());
        let (orders, order_receivers): (Vec<_>, Vec<_>) =
            listeners.iter().map(|_| bounded(ORDERS_MAX)).unzip();
        state.orders = orders;
        let state = Arc::new(state);
        let (report, reports) = bounded(4 * threads);
        let (go, may_go) = bounded(0);
        let (accept, may_accept) = bounded(0);
        for (number, (listeners, orders)) in listeners.into_iter().zip(order_receivers).enumerate()
        {
            let plan = worker::Plan {
                number,
                go: may_go.clone(),
                accept: may_accept.clone(),
                backend: state.backends.io,
                listeners,
                tls: state.tls.clone(),
                stores: state.stores(),
                share_files: state.plan.declared.share_files,
                tahoe_segment_bytes_max: settings.tahoe_segment_bytes_max,
                pool_buffers: settings.pool_buffers,
                pool_reserve: state.plan.reserve_buffers(),
                pool_buffer_bytes: settings.pool_buffer_bytes,
                budget: Arc::clone(&state.budget),
                seats: Arc::clone(&state.seats),
                fairness: Fairness {
                    rates: Arc::clone(&state.rates),
                    totals: Arc::clone(&totals),
                },
                over_limit: settings.over_limit,
                send_buffer_floor: state.plan.send_buffer_floor,
                send_buffer_max: send_buffer_max(settings.send_buffer_max),
                hot_bytes: usize::try_from(state.plan.hot_bytes).unwrap_or(0),
                rebuilt_bytes: usize::try_from(state.plan.rebuilt_bytes).unwrap_or(0),
                readahead_buffers: state.plan.readahead_buffers(),
                verify_age: settings.verify_age,
                zero_copy: state.backends.zero_copy,
                live: state.live(),
                signing: Signing {
                    keys: Arc::clone(&state.keys),
                    lister: Arc::clone(&state.lister),
                },
                stats: Arc::clone(&state.cores[number]),
                access: access.clone(),
            };
            let report = report.clone();
            std::thread::Builder::new()
                .name(format!("core-{number}"))
                .spawn(move || worker::run(plan, &orders, &report))
                .map_err(ServeError::system("starting a core's thread"))?;
        }
        let cores = Cores {
            state: Arc::clone(&state),
            reports,
            threads,
            accept: Some(accept),
        };
        // Every core has its ring before any registers its pool: both count against RLIMIT_MEMLOCK, and a
        // pool can go unregistered where a ring can't.
        for _ in 0..threads {
            match cores.next_report()? {
                (_, Report::Begun) => {}
                (core, _) => return Err(stopped(core)),
            }
        }
        drop(go);
        Ok((cores, state))
    }

    /// Waits until every core serves.
    pub(super) fn wait_until_ready(&self) -> Result<(), ServeError> {
        let mut unregistered = None;
        for _ in 0..self.threads {
            match self.next_report()? {
                (core, Report::Ready(reason)) => {
                    unregistered = reason.or(unregistered.take()).inspect(|_| {
                        tracing::debug!(core, "the pool is not registered");
                    })
                }
                (core, _) => return Err(stopped(core)),
            }
        }
        if let Some(reason) = unregistered {
            tracing::warn!("pool buffers are not registered with io_uring: {reason}");
        }
        Ok(())
    }

    /// Has them accept connections.
    pub(super) fn accept(&mut self) {
        self.accept = None;
    }

    /// What the cores report.
    pub(super) fn reports(&self) -> &Receiver<(usize, Report)> {
        &self.reports
    }

    fn next_report(&self) -> Result<(usize, Report), ServeError> {
        working(self.reports.recv())
    }

    /// Has them accept no more, and end what they have begun until `deadline`.
    pub(super) fn order_drain(&self, deadline: Instant, keep_listening: bool) {
        // A core that is gone needs no order.
        self.order(Order::Drain {
            deadline,
            keep_listening,
        });
    }

    /// Tells all cores something. They do it at their next tick. Returns the numbers of those that don't listen.
    pub(super) fn order(&self, order: Order) -> Vec<usize> {
        let orders = self.state.orders.iter().enumerate();
        let told = orders.map(|(core, orders)| {
            (
                core,
                orders.send_timeout(order.clone(), ORDER_PATIENCE).is_ok(),
            )
        });
        told.filter(|(_, told)| !told)
            .map(|(core, _)| core)
            .collect()
    }

    /// Waits for the cores, which were told to drain until `deadline`. With a `shorter` time a signal to stop sets them that;
    /// without one it cuts off what is under way.
    pub(super) fn drained(
        self,
        deadline: Instant,
        mut shorter: Option<Duration>,
        signals: &Receiver<Signal>,
    ) -> Result<(), ServeError> {
        let mut cut_off = 0;
        let mut running = self.threads;
        // What hangs must not keep the server from ending.
        let left = deadline.saturating_duration_since(Instant::now());
        let mut over = after(left.saturating_add(CUT_PATIENCE));
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
                recv(signals) -> signal => {
                    if !matches!(signal, Ok(Signal::Stop) | Err(_)) {
                        continue;
                    }
                    if let Some(time) = shorter.take() {
                        tracing::info!("stopping: bodies under way have {}", humantime::format_duration(time));
                        self.order_drain(Instant::now() + time, true);
                        over = after(time.saturating_add(CUT_PATIENCE));
                        continue;
                    }
                    if patience.is_some() {
                        break;
                    }
                    tracing::warn!("second signal: stopping now");
                    // Open bodies are reset: an exit alone would end them like complete ones.
                    self.order_drain(Instant::now(), true);
                    patience = Some(after(CUT_PATIENCE));
                }
                recv(over) -> _ => {
                    tracing::warn!(cores = running, "not stopped in time");
                    break;
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
