//! Starts the cores and the admin listener, waits for a signal, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::select;

use crate::config::Settings;
use crate::connection::seats::Seats;
use crate::io::{Backend, SocketOptions};
use crate::memory::budget::Budget;
use crate::memory::limits;

pub mod admin;
pub mod backend;
mod cores;
mod error;
mod listeners;
pub mod preflight;
mod signals;
pub mod worker;

use admin::Shared;
use cores::Cores;
pub use error::ServeError;
use listeners::listen;
use preflight::{check_directories, machine_warnings, plan};
use signals::signals;
use worker::Report;

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
