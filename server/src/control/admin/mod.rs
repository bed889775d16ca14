//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, `/history`, and at `/` a page that shows it live, on
//! a thread of its own.
//!
//! It reads the cores' counters, and asks each core for a list of connections. Nothing here can slow a core, and
//! nobody who connects can take more than the plan has for it (`guests`).

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use super::listeners::AdminListener;
use super::state::ServerState;
use crate::memory::costs::admin_reply_bytes;
use crate::memory::limits::{
    ADMIN_FIELDS_MAX, ADMIN_HEAD_BYTES_MAX, ADMIN_SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES,
};
use guard::Refusal;
use guests::{Guest, Guests, Seat};
use history::History;

mod guard;
mod guests;
mod history;
mod memory;
mod metrics;
mod remote;
mod status;
mod stores;

/// How often connections are looked at whose time may be over.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How long accepting rests when there is no descriptor.
const PAUSE: Duration = Duration::from_millis(200);

/// The page, its style, and its script, which is in several files.
const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(
    include_str!("page/view.js"),
    include_str!("page/words.js"),
    include_str!("page/elements.js"),
    include_str!("page/charts.js"),
    include_str!("page/status.js"),
    include_str!("page/asking.js"),
);

type Reply = Response<Full<Bytes>>;

/// What all connections share.
struct Desk {
    guests: Rc<Guests>,
    server: Arc<ServerState>,
    history: RefCell<History>,
}

/// The admin thread.
pub(super) struct Admin {
    stop: Arc<Notify>,
}

impl Admin {
    /// Starts the thread. It ends with the process.
    pub(super) fn start(listener: AdminListener, server: Arc<ServerState>) -> io::Result<Admin> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(Notify::new());
        let stopping = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let tasks = tokio::task::LocalSet::new();
                let served = tasks.block_on(&runtime, serve(listener, server, &stopping));
                if let Err(error) = served {
                    tracing::error!(%error, "the admin listener stopped");
                }
            })?;
        Ok(Admin { stop })
    }
    /// Accepts no more connections: another process does. Those that are open are served on.
    pub(super) fn stop_accepting(&self) {
        self.stop.notify_one();
    }
}

async fn serve(listener: AdminListener, server: Arc<ServerState>, stop: &Notify) -> io::Result<()> {
    let desk = Rc::new(Desk {
        guests: Guests::new(),
        history: RefCell::new(History::new(server.started)),
        server,
    });
    let swept = Rc::clone(&desk.guests);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            swept.sweep(Instant::now());
        }
    });
    tokio::task::spawn_local(keep_history(Rc::clone(&desk)));
    match listener {
        AdminListener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let accept = async || {
                let (stream, _) = listener.accept().await?;
                limit_buffers(SockRef::from(&stream));
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            accept_all(accept, &desk, stop).await;
        }
        AdminListener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let accept = async || {
                let (stream, _) = listener.accept().await?;
                limit_buffers(SockRef::from(&stream));
                Ok(stream)
            };
            accept_all(accept, &desk, stop).await;
        }
    }
    // What is open is served as long as the process is there.
    std::future::pending().await
}

/// Takes a sample every few seconds, as long as the thread is there.
async fn keep_history(desk: Rc<Desk>) {
    let mut turns = tokio::time::interval(history::EVERY);
    // After a gap there is one sample of all of it, and the next come when they would have.
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first turn is at once: nothing has happened yet.
    turns.tick().await;
    loop {
        turns.tick().await;
        desk.history.borrow_mut().take(&desk.server, Instant::now());
    }
}

/// Bounds the kernel's queues. Sockets in the file system don't inherit this from their listener.
fn limit_buffers(socket: SockRef<'_>) {
    // A socket that is gone already takes no memory.
    let _ = socket.set_send_buffer_size(ADMIN_SEND_BUFFER_BYTES as usize);
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES as usize);
}

/// Accepts connections until it is told to stop.
async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    accept: impl AsyncFn() -> io::Result<S>,
    desk: &Rc<Desk>,
    stop: &Notify,
) {
    loop {
        let Some(accepted) = until(stop.notified(), accept()).await else {
            return;
        };
        match accepted {
            Ok(stream) => {
                if let Some(seat) = desk.guests.seat().await {
                    tokio::task::spawn_local(secured(stream, seat, Rc::clone(desk)));
                }
            }
            // accept(2): it listens no more, and the end is near.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What `work` gives, unless `end` comes before it.
async fn until<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut end, mut work) = (pin!(end), pin!(work));
    std::future::poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// Serves one connection, by TLS if the listener speaks that.
async fn secured<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    seat: Seat,
    desk: Rc<Desk>,
) {
    let Some(config) = desk.server.tls.as_ref().and_then(|tls| tls.admin()) else {
        return connection(stream, seat, desk).await;
    };
    let accepted = Box::pin(TlsAcceptor::from(config).accept(stream));
    match until(seat.guest.ended(), accepted).await {
        Some(Ok(stream)) => connection(stream, seat, desk).await,
        Some(Err(error)) => tracing::debug!(%error, "an admin connection without a TLS session"),
        None => {}
    }
}

/// Serves one connection until it ends or has to give way.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    seat: Seat,
    desk: Rc<Desk>,
) {
    let guest = Arc::clone(&seat.guest);
    let service = service_fn(|request| {
        let (guest, desk) = (Arc::clone(&guest), Rc::clone(&desk));
        async move { Ok::<_, Infallible>(answer(&request, &guest, &desk).await) }
    });
    let served = http1::Builder::new()
        .max_buf_size(ADMIN_HEAD_BYTES_MAX)
        .max_headers(ADMIN_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served: Pin<&mut _> = pin!(served);
    if let Some(Err(error)) = until(seat.guest.ended(), served).await {
        tracing::debug!(%error, "an admin connection ended");
    }
}

async fn answer(request: &Request<Incoming>, guest: &Arc<Guest>, desk: &Desk) -> Reply {
    let Desk { guests, server, .. } = desk;
    guest.asked();
    let short = |status, text: &str| text_reply(guest, status, text.to_owned());
    if let Err(refusal) = guard::check(request, &server.admin, &server.live()) {
        return refused(guest, refusal);
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut reply = short(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        set(&mut reply, header::ALLOW, "GET, HEAD");
        return reply;
    }
    match request.uri().path() {
        "/healthz" => short(StatusCode::OK, "ok\n"),
        "/readyz" => match status::not_ready(server) {
            None => short(StatusCode::OK, "ready\n"),
            Some(reason) => short(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {reason}\n"),
            ),
        },
        "/" => page(guest),
        "/page.css" => page_part(guest, "text/css; charset=utf-8", STYLE),
        "/page.js" => page_part(guest, "text/javascript; charset=utf-8", SCRIPT),
        path @ ("/metrics" | "/status" | "/history") => {
            let Some(place) = guests.place(guest).await else {
                let busy = "too many replies are being taken\n";
                let mut reply = short(StatusCode::SERVICE_UNAVAILABLE, busy);
                set(&mut reply, header::RETRY_AFTER, "1");
                return reply;
            };
            let (made, media_type) = match path {
                "/metrics" => {
                    let text = metrics::encode(Arc::clone(server));
                    (text.map_err(|e| e.to_string()), metrics::CONTENT_TYPE)
                }
                "/history" => (past(desk), "application/json"),
                _ => {
                    // While many ask, some are told all but the list, which would take them a tick.
                    let listed = match guests.asking.try_acquire() {
                        Ok(_turn) => status::ask_cores(server).await,
                        Err(_) => Vec::new(),
                    };
                    let text = serde_json::to_string(&status::status(server, listed));
                    (text.map_err(|e| e.to_string()), "application/json")
                }
            };
            match made {
                Ok(mut text) => {
                    text.shrink_to_fit();
                    reply(StatusCode::OK, media_type, guest.body(text, Some(place)))
                }
                Err(error) => short(StatusCode::INTERNAL_SERVER_ERROR, &error),
            }
        }
        _ => short(
            StatusCode::NOT_FOUND,
            "there is / /status /history /metrics /healthz /readyz\n",
        ),
    }
}

fn reply(status: StatusCode, media_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    set(&mut reply, header::CONTENT_TYPE, media_type);
    set(&mut reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut reply, header::CACHE_CONTROL, "no-store");
    reply
}

fn set(reply: &mut Reply, name: HeaderName, value: &'static str) {
    reply
        .headers_mut()
        .append(name, HeaderValue::from_static(value));
}

fn text_reply(guest: &Arc<Guest>, status: StatusCode, text: String) -> Reply {
    reply(status, "text/plain; charset=utf-8", guest.body(text, None))
}

fn refused(guest: &Arc<Guest>, refusal: Refusal) -> Reply {
    let (status, text) = match refusal {
        Refusal::NoHost => (StatusCode::BAD_REQUEST, "a request needs one valid Host\n"),
        Refusal::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "this name is not known here; if it is this server's, start it with --admin-host NAME\n",
        ),
        Refusal::Token => (
            StatusCode::UNAUTHORIZED,
            "this takes the token of --admin-token-file: Authorization: Bearer TOKEN, or as a password\n",
        ),
    };
    let mut reply = text_reply(guest, status, text.to_owned());
    if refusal == Refusal::Token {
        // The first is what browsers ask their user for.
        let browsers = "Basic realm=\"penstock admin\", charset=\"UTF-8\"";
        set(&mut reply, header::WWW_AUTHENTICATE, browsers);
        set(
            &mut reply,
            header::WWW_AUTHENTICATE,
            "Bearer realm=\"penstock admin\"",
        );
    }
    reply
}

/// The history as text, which grows into memory that was planned for it.
fn past(desk: &Desk) -> Result<String, String> {
    let declared = &desk.server.plan.declared;
    let planned = admin_reply_bytes(declared.cores, declared.stores);
    let mut text = Vec::with_capacity(planned as usize);
    let history = desk.history.borrow();
    let report = history.report(Instant::now(), SystemTime::now());
    serde_json::to_writer(&mut text, &report).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

/// A page that asks for `/status` and `/history` again and again. Its policy lets it load nothing else but its own parts.
fn page(guest: &Arc<Guest>) -> Reply {
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut reply = page_part(guest, "text/html; charset=utf-8", PAGE);
    set(&mut reply, header::CONTENT_SECURITY_POLICY, policy);
    reply
}

/// A file of the page. It is a part of the program, and takes no memory of its own.
fn page_part(guest: &Arc<Guest>, media_type: &'static str, text: &'static str) -> Reply {
    let mut reply = reply(StatusCode::OK, media_type, guest.body(text, None));
    set(&mut reply, header::REFERRER_POLICY, "no-referrer");
    reply
}
