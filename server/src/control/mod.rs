//! Starts the cores and the admin listener, waits for a signal, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::select;
use socket2::SockRef;

use crate::config::Settings;
use crate::connection::seats::Seats;
use crate::io::SocketOptions;
use crate::memory::budget::Budget;
use crate::memory::limits;
use crate::objects::servable::{self, Bounds};

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
mod signals;
pub mod worker;

pub use error::ServeError;

use admin::ServerState;
use backend::Backends;
use cores::Cores;

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
    let (listeners, objects) = listeners::objects(&settings.listen, settings.cores, &options)?;
    let (admin_listener, admin) = listeners::admin(&settings.admin)?;
    let signals = signals::subscribe().map_err(ServeError::system("signals"))?;
    let state = ServerState::new(
        backends,
        plan,
        Budget::new(plan.credit_bytes),
        Seats::new(plan.connections, settings.connections_per_address_max),
        stores,
    );
    let (cores, state) = Cores::start(&settings, state, listeners)?;
    let admin_socket = admin_listener
        .try_clone()
        .map_err(ServeError::system("the admin listener"))?;
    admin::start(admin_listener, Arc::clone(&state))
        .map_err(ServeError::system("the admin thread"))?;
    cores.wait_until_ready()?;
    state.set_ready(true);
    if let Some(every) = settings.survey_every {
        let bounds = Bounds::new(&state.plan);
        let started = state.survey.start(&state.stores, bounds, every);
        started.map_err(ServeError::system("the thread of the survey"))?;
    }
    ready(Addresses { objects, admin });

    select! {
        recv(signals) -> signal => {
            tracing::info!(signal = signal.unwrap_or_default(), "stopping: bodies under way may finish");
            state.set_ready(false);
            let drained = cores.drain(Instant::now() + settings.drain_timeout, &signals);
            // The kernel may keep the process, and what it has open, for a call that hangs. Its address is free all the
            // same.
            let _ = SockRef::from(&admin_socket).shutdown(std::net::Shutdown::Both);
            drained
        }
        recv(cores.reports()) -> report => Err(match cores::working(report) {
            Err(error) => error,
            Ok((core, _)) => cores::stopped(core),
        }),
    }
}
