//! Starts the cores and the admin listener, does what signals ask for, and stops them.
//!
//! This is the control thread. It never touches a request.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};

use crate::config::address::AdminAddress;
use crate::config::{ConfigError, Settings};
use crate::connection::seats::Seats;
use crate::io::SocketOptions;
use crate::memory::budget::Budget;
use crate::memory::limits;
use crate::objects::servable::{self, Bounds};
use crate::s3::keys::Keys;
use crate::tls::Acceptor;

mod access_log;
mod admin;
pub mod backend;
mod certificates;
mod cores;
mod error;
mod given;
mod hand_over;
mod listeners;
mod log_fields;
mod log_limit;
pub mod logging;
pub mod memory_limit;
pub mod preflight;
mod reload;
mod service;
mod signals;
mod socket_file;
mod state;
pub mod worker;

pub use error::ServeError;

pub use listeners::AdminAt;

use admin::Admin;
use backend::Backends;
use certificates::CertificateWatch;
use cores::Cores;
use given::{Given, Listening};
use hand_over::{Offer, Successor};
use reload::Reloader;
use service::Watchdog;
use signals::Signal;
use socket_file::{Beside, SocketFile};
use state::ServerState;

/// What the service manager shows while all is well.
const SERVING: &str = "serving";
/// How long bodies may take after a hand-over, if nobody stops this server: as long as they need.
const HANDED_OVER_DRAIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where a running server is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Objects.
    pub objects: SocketAddr,
    /// Objects, by TLS.
    pub tls: Option<SocketAddr>,
    /// Metrics, health and status.
    pub admin: AdminAt,
    /// Whether those are reached by TLS.
    pub admin_tls: bool,
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
    let (given, predecessor) = given(&settings)?;
    let hand_over = hand_over_socket(&settings, predecessor.is_some())?;
    for refused in servable::refused(&plan) {
        tracing::info!("{refused}");
    }
    let stores = preflight::start_stores(&settings)?;
    let backends = Backends::choose(&settings)?;

    let options = SocketOptions {
        send_buffer_bytes: plan.send_buffer_floor,
        receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
    };
    let tls = match &settings.tls_certificates[..] {
        [] => None,
        files => {
            let client_ca = settings.admin_client_ca.as_deref();
            Some(Arc::new(Acceptor::new(files, client_ca)?))
        }
    };
    let keys = Keys::of(settings.keys_file.as_deref(), settings.require_signature)?;
    let Listening {
        cores: core_listeners,
        objects_at,
        tls_at,
        admin: admin_listener,
        admin_at,
        admin_file,
        copies,
        tls_copies,
        activated,
    } = Listening::new(&settings, &options, given)?;
    heard.stops().map_err(ServeError::system("signals"))?;
    let signals = &heard.signals;
    let state = ServerState::new(
        backends,
        plan,
        Budget::new(plan.credit_bytes),
        Seats::new(plan.connections, settings.connections_per_address_max),
        stores,
        match &admin_at {
            AdminAt::Tcp(at) => match &settings.admin {
                AdminAddress::Tcp(address) => AdminAddress::Tcp(address.clone()),
                AdminAddress::Unix(_) => (*at).into(),
            },
            AdminAt::Unix(path) => AdminAddress::Unix(path.clone()),
        },
        settings.reloadable(),
    );
    let mut state = state.map_err(ServeError::system("the thread for listings"))?;
    state.tls = tls;
    state.keys.set(keys);
    let (access, _access_thread) = match &settings.access_log {
        None => (None, None),
        Some(path) => {
            let started = access_log::start(path, settings.access_log_format);
            let (log, thread) = started.map_err(|error| ServeError::AccessLog {
                path: path.clone(),
                error,
            })?;
            (Some(log), Some(thread))
        }
    };
    let admin_socket = admin_listener
        .duplicate()
        .map_err(ServeError::system("the admin listener"))?;
    let (mut cores, state) = Cores::start(&settings, state, core_listeners, access)?;
    let admin = Admin::start(admin_listener, Arc::clone(&state))
        .map_err(ServeError::system("the admin thread"))?;
    cores.wait_until_ready()?;
    if let Some(stream) = predecessor {
        match hand_over::ready(stream) {
            Ok(()) => tracing::info!("taken over: the old server ends what it has begun"),
            Err(error) => tracing::warn!(
                "the old server did not say that it accepts no more ({error}): if it goes on, stop it"
            ),
        }
    }
    cores.accept();
    state.set_ready(true);
    if let Some(every) = settings.survey_every {
        let bounds = Bounds::new(&state.plan);
        let started = state.survey.start(&state.stores(), bounds, every);
        started.map_err(ServeError::system("the thread of the survey"))?;
    }
    let offered = hand_over.and_then(|socket| {
        let offer = Offer {
            objects: copies,
            tls: tls_copies,
            admin: admin_socket.try_clone().ok()?,
            admin_file: admin_file.as_ref().map(|file| file.path().to_owned()),
            memory_bytes: settings.memory_bytes,
            activated,
            cache: state
                .stores()
                .remote()
                .map(|remote| Arc::clone(remote.cache())),
        };
        let begun = socket.place().and_then(|(listener, file)| {
            let successors = hand_over::offer(listener, offer)?;
            Ok((successors, file))
        });
        let failed = |error| tracing::error!(%error, "this server can't hand over");
        begun.map_err(failed).ok()
    });
    let (successors, hand_over_file) = match offered {
        Some((successors, file)) => (successors, Some(file)),
        None => (never(), None),
    };
    ready(Addresses {
        objects: objects_at,
        tls: tls_at,
        admin: admin_at,
        admin_tls: settings.admin_client_ca.is_some(),
    });
    service::ready(SERVING);

    let mut reloader = Reloader::new(load, &settings, &state);
    let mut watchdog = Watchdog::new(&state.cores);
    let mut certificates = CertificateWatch::default();
    let looks = match &state.tls {
        Some(_) => tick(limits::CERTIFICATES_LOOK_EVERY),
        None => never(),
    };
    certificates.look(&state);
    let mut successor = None;
    while successor.is_none() {
        select! {
            recv(signals) -> signal => match signal {
                Ok(Signal::Stop) | Err(_) => break,
                Ok(Signal::Reload) => {
                    service::reloading();
                    reloader.reload(&state, &cores);
                    service::ready(SERVING);
                }
                Ok(Signal::ReopenLogs) => {
                    logging::reopen();
                    tracing::info!("SIGUSR1: log files are opened again");
                }
                Ok(Signal::HandOver) => start_successor(&settings),
            },
            recv(successors) -> new => successor = new.ok(),
            recv(watchdog.ticks) -> _ => watchdog.look(),
            recv(looks) -> _ => certificates.look(&state),
            recv(cores.reports()) -> report => return Err(cores::ended(report)),
        }
    }
    state.set_ready(false);
    let live = state.live();
    if successor.is_none() {
        service::stopping("stopping: bodies under way may finish");
    }
    if successor.is_none() && !live.drain_delay.is_zero() {
        let delay = humantime::format_duration(live.drain_delay);
        tracing::info!("not ready any more, and served on for {delay}");
        successor = wait_before_draining(live.drain_delay, signals, &successors, &cores)?;
    }
    drop(successors);
    let Some(successor) = successor else {
        tracing::info!("stopping: bodies under way may finish");
        let deadline = Instant::now() + live.drain_timeout;
        cores.order_drain(deadline, activated.objects);
        let drained = cores.drained(deadline, None, signals);
        if !activated.admin {
            // The kernel may keep the process, and what it has open, for a call that hangs. Its address is free all the
            // same.
            let _ = admin_socket.shutdown(std::net::Shutdown::Both);
        }
        return drained;
    };
    service::handed_over(successor.process);
    admin.stop_accepting();
    let deadline = Instant::now() + HANDED_OVER_DRAIN;
    cores.order_drain(deadline, true);
    let files = admin_file.into_iter().chain(hand_over_file);
    files.for_each(SocketFile::leave);
    // It waits for this, or is gone.
    let _ = successor.stopped.send(());
    tracing::info!(
        process = successor.process,
        "handed over: bodies under way may finish"
    );
    cores.drained(deadline, Some(live.drain_timeout), signals)
}

/// What the listeners come from: a server that hands over, which is to be told when this one is ready, or a service
/// manager, if there is one.
fn given(settings: &Settings) -> Result<(Given, Option<UnixStream>), ServeError> {
    let Some(path) = &settings.take_over else {
        return Ok((Given::by_service_manager()?, None));
    };
    let taken = hand_over::take(path).map_err(|error| ServeError::TakeOver {
        path: path.clone(),
        error,
    })?;
    let Some(taken) = taken else {
        tracing::info!(socket = %path.display(), "there is no server to take over from");
        return Ok((Given::by_service_manager()?, None));
    };
    memory_limit::check_both(settings.memory_bytes, taken.memory_bytes)?;
    tracing::info!(
        listeners = taken.objects.len(),
        both_mib = settings.memory_bytes.saturating_add(taken.memory_bytes) >> 20,
        "taking over; until the old server has ended the memory of both counts"
    );
    let given = Given {
        objects: taken.objects,
        tls: taken.tls,
        admin: Some(taken.admin),
        admin_file: taken.admin_file,
        activated: taken.activated,
    };
    Ok((given, Some(taken.stream)))
}

/// The socket at which this server hands over, not yet in its place.
fn hand_over_socket(settings: &Settings, takes_over: bool) -> Result<Option<Beside>, ServeError> {
    let Some(path) = &settings.hand_over else {
        return Ok(None);
    };
    let socket = match takes_over && settings.take_over == settings.hand_over {
        true => Beside::new(path),
        false => socket_file::is_free(path).and_then(|()| Beside::new(path)),
    };
    socket.map(Some).map_err(|error| ServeError::SocketFile {
        what: "hand-over",
        path: path.clone(),
        error,
    })
}

/// Starts a new server, with the arguments of this one, that takes over.
fn start_successor(settings: &Settings) {
    let Some(path) = &settings.hand_over else {
        return tracing::warn!(
            "SIGUSR2: this server has no --hand-over SOCKET, so no other can take over"
        );
    };
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next() else {
        return;
    };
    let mut command = std::process::Command::new(program);
    let mut takes_over = false;
    for argument in arguments {
        takes_over |= argument.as_encoded_bytes().starts_with(b"--take-over");
        command.arg(argument);
    }
    if !takes_over {
        command.arg("--take-over").arg(path);
    }
    // These name this process. The watchdog is the new one's from then on.
    for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    match command.spawn() {
        Ok(mut child) => {
            tracing::info!(process = child.id(), "SIGUSR2: a new server was started");
            let waits = std::thread::Builder::new().name("successor".into());
            // It outlives this process, unless it fails.
            let _ = waits.spawn(move || match child.wait() {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::error!("the new server ended: {status}"),
                Err(error) => tracing::error!(%error, "the new server can't be waited for"),
            });
        }
        Err(error) => tracing::error!(%error, "SIGUSR2: no new server can be started"),
    }
}

/// Serves on for a while, or until a second signal to stop, or until a new server is ready.
fn wait_before_draining(
    delay: Duration,
    signals: &Receiver<Signal>,
    successors: &Receiver<Successor>,
    cores: &Cores,
) -> Result<Option<Successor>, ServeError> {
    let over = after(delay);
    loop {
        select! {
            recv(over) -> _ => return Ok(None),
            recv(successors) -> new => if let Ok(new) = new {
                return Ok(Some(new));
            },
            recv(signals) -> signal => match signal {
                Ok(Signal::Stop) | Err(_) => return Ok(None),
                Ok(Signal::ReopenLogs) => logging::reopen(),
                Ok(Signal::Reload | Signal::HandOver) => {}
            },
            recv(cores.reports()) -> report => return Err(cores::ended(report)),
        }
    }
}
