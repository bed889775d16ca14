//! Starts the cores and the admin listener, does what signals ask for, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, select};

use crate::config::{ConfigError, Settings};
use crate::connection::seats::Seats;
use crate::io::SocketOptions;
use crate::memory::budget::Budget;
use crate::memory::limits;
use crate::objects::servable::{self, Bounds};
use crate::s3::keys::Keys;

pub mod admin;
pub mod backend;
mod cores;
mod error;
mod listeners;
mod log_fields;
mod log_limit;
pub mod logging;
pub mod memory_limit;
pub mod preflight;
mod reload;
mod signals;
pub mod worker;

pub use error::ServeError;

pub use listeners::AdminAt;

use admin::{Admin, ServerState};
use backend::Backends;
use cores::Cores;
use reload::Reloader;
use signals::Signal;

/// Where a running server is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Objects.
    pub objects: SocketAddr,
    /// Metrics, health and status.
    pub admin: AdminAt,
}

/// Serves until SIGTERM or SIGINT. `load` reads the settings again, at SIGHUP; `ready` is called once every core serves.
pub fn serve(
    settings: Settings,
    load: impl Fn() -> Result<Settings, ConfigError>,
    ready: impl FnOnce(Addresses),
) -> Result<(), ServeError> {
    let heard = signals::subscribe().map_err(ServeError::system("signals"))?;
    logging::set_filter(settings.log.as_deref());
    if let Err(error) = decode_kernel::arch::Kernel::requested() {
        return Err(ServeError::Kernel(error.to_string()));
    }
    let plan = preflight::memory_plan(&settings)?;
    tracing::info!("{}", plan.summary());
    preflight::log_advice(&settings, &plan);
    for refused in servable::refused(&plan) {
        tracing::info!("{refused}");
    }
    let stores = preflight::start_stores(&settings)?;
    let backends = Backends::choose(&settings)?;

    let options = SocketOptions {
        send_buffer_bytes: plan.send_buffer_floor,
        receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
    };
    let keys = Keys::of(settings.keys_file.as_deref(), settings.require_signature)?;
    let (listeners, objects) = listeners::objects(&settings.listen, settings.cores, &options)?;
    // The socket's file goes when this function ends.
    let (admin_listener, admin_at, _file) = listeners::admin(&settings.admin)?;
    heard.stops().map_err(ServeError::system("signals"))?;
    let signals = &heard.signals;
    let state = ServerState::new(
        backends,
        plan,
        Budget::new(plan.credit_bytes),
        Seats::new(plan.connections, settings.connections_per_address_max),
        stores,
        settings.admin.clone(),
        settings.reloadable(),
    );
    let state = state.map_err(ServeError::system("the thread for listings"))?;
    state.keys.set(keys);
    let (cores, state) = Cores::start(&settings, state, listeners)?;
    let admin_socket = admin_listener
        .duplicate()
        .map_err(ServeError::system("the admin listener"))?;
    let _admin = Admin::start(admin_listener, Arc::clone(&state))
        .map_err(ServeError::system("the admin thread"))?;
    cores.wait_until_ready()?;
    state.set_ready(true);
    if let Some(every) = settings.survey_every {
        let bounds = Bounds::new(&state.plan);
        let started = state.survey.start(&state.stores(), bounds, every);
        started.map_err(ServeError::system("the thread of the survey"))?;
    }
    ready(Addresses {
        objects,
        admin: admin_at,
    });

    let mut reloader = Reloader::new(load, &settings, &state);
    loop {
        select! {
            recv(signals) -> signal => match signal {
                Ok(Signal::Stop) | Err(_) => break,
                Ok(Signal::Reload) => reloader.reload(&state, &cores),
                Ok(Signal::ReopenLogs) => {
                    logging::reopen();
                    tracing::info!("SIGUSR1: log files are opened again");
                }
                Ok(Signal::HandOver) => tracing::warn!("SIGUSR2: there is nobody to hand over to"),
            },
            recv(cores.reports()) -> report => return Err(match cores::working(report) {
                Err(error) => error,
                Ok((core, _)) => cores::stopped(core),
            }),
        }
    }
    state.set_ready(false);
    let live = state.live();
    if !live.drain_delay.is_zero() {
        let delay = humantime::format_duration(live.drain_delay);
        tracing::info!("not ready any more, and served on for {delay}");
        wait_before_draining(live.drain_delay, signals, &cores)?;
    }
    tracing::info!("stopping: bodies under way may finish");
    let drained = cores.drain(Instant::now() + live.drain_timeout, signals);
    // The kernel may keep the process, and what it has open, for a call that hangs. Its address is free all the
    // same.
    let _ = admin_socket.shutdown(std::net::Shutdown::Both);
    drained
}

/// Serves on for a while, or until a second signal to stop.
fn wait_before_draining(
    delay: Duration,
    signals: &Receiver<Signal>,
    cores: &Cores,
) -> Result<(), ServeError> {
    let over = after(delay);
    loop {
        select! {
            recv(over) -> _ => return Ok(()),
            recv(signals) -> signal => match signal {
                Ok(Signal::Stop) | Err(_) => return Ok(()),
                Ok(Signal::ReopenLogs) => logging::reopen(),
                Ok(Signal::Reload | Signal::HandOver) => {}
            },
            recv(cores.reports()) -> report => return Err(match cores::working(report) {
                Err(error) => error,
                Ok((core, _)) => cores::stopped(core),
            }),
        }
    }
}
