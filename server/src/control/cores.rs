//! The cores' threads, as the control thread sees them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};

use super::admin::Shared;
use super::error::ServeError;
use super::preflight::send_buffer_max;
use super::worker::{self, Order, Report};
use crate::config::Settings;
use crate::connection::deadlines::Timeouts;
use crate::io::Listener;

/// Orders that may wait for a core: it looks once a tick.
const ORDERS_MAX: usize = 4;
/// How long a core that has as many waiting may take to make room for one more.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the cores may take to reset what is open after a second signal: some ticks.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// The running cores, as the control thread sees them.
pub(super) struct Cores {
    orders: Vec<Sender<Order>>,
    pub(super) reports: Receiver<(usize, Report)>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Cores {
    pub(super) fn start(
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

    pub(super) fn wait_until_ready(&self) -> Result<(), ServeError> {
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
    pub(super) fn drain(
        self,
        deadline: Instant,
        signals: &Receiver<i32>,
    ) -> Result<(), ServeError> {
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
