//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and at `/` a page that shows it live, on a thread
//! of its own.
//!
//! It reads the cores' counters, and asks each core for a list of connections. Nothing here can slow a core, and
//! nobody who connects can take more than the plan has for it (`guests`).

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

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
use tokio_rustls::TlsAcceptor;

use super::listeners::AdminListener;
use crate::memory::limits::{
    ADMIN_FIELDS_MAX, ADMIN_HEAD_BYTES_MAX, ADMIN_SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES,
};
use guard::Refusal;
use guests::{Guest, Guests, Seat};

mod guard;
mod guests;
mod memory;
mod metrics;
mod remote;
mod state;
mod status;
mod stores;

pub use state::ServerState;

/// How often connections are looked at whose time may be over.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How long accepting rests when there is no descriptor.
const PAUSE: Duration = Duration::from_millis(200);

type Reply = Response<Full<Bytes>>;

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
    let guests = Guests::new();
    let swept = Rc::clone(&guests);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            swept.sweep(Instant::now());
        }
    });
    match listener {
        AdminListener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let accept = async || {
                let (stream, _) = listener.accept().await?;
                limit_buffers(SockRef::from(&stream));
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            accept_all(accept, &guests, &server, stop).await;
        }
        AdminListener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let accept = async || {
                let (stream, _) = listener.accept().await?;
                limit_buffers(SockRef::from(&stream));
                Ok(stream)
            };
            accept_all(accept, &guests, &server, stop).await;
        }
    }
    // What is open is served as long as the process is there.
    std::future::pending().await
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
    guests: &Rc<Guests>,
    server: &Arc<ServerState>,
    stop: &Notify,
) {
    loop {
        let Some(accepted) = until(stop.notified(), accept()).await else {
            return;
        };
        match accepted {
            Ok(stream) => {
                if let Some(seat) = guests.seat().await {
                    let (guests, server) = (Rc::clone(guests), Arc::clone(server));
                    tokio::task::spawn_local(secured(stream, seat, guests, server));
                }
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
    guests: Rc<Guests>,
    server: Arc<ServerState>,
) {
    let Some(config) = server.tls.as_ref().and_then(|tls| tls.admin()) else {
        return connection(stream, seat, guests, server).await;
    };
    let accepted = Box::pin(TlsAcceptor::from(config).accept(stream));
    match until(seat.guest.ended(), accepted).await {
        Some(Ok(stream)) => connection(stream, seat, guests, server).await,
        Some(Err(error)) => tracing::debug!(%error, "an admin connection without a TLS session"),
        None => {}
    }
}

/// Serves one connection until it ends or has to give way.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    seat: Seat,
    guests: Rc<Guests>,
    server: Arc<ServerState>,
) {
    let guest = Arc::clone(&seat.guest);
    let service = service_fn(|request| {
        let (guest, guests, server) = (Arc::clone(&guest), Rc::clone(&guests), Arc::clone(&server));
        async move { Ok::<_, Infallible>(answer(&request, &guest, &guests, &server).await) }
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

async fn answer(
    request: &Request<Incoming>,
    guest: &Arc<Guest>,
    guests: &Guests,
    server: &Arc<ServerState>,
) -> Reply {
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
        "/readyz" => match not_ready(server) {
            None => short(StatusCode::OK, "ready\n"),
            Some(reason) => short(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {reason}\n"),
            ),
        },
        "/" => page(guest),
        path @ ("/metrics" | "/status") => {
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
            "there is / /status /metrics /healthz /readyz\n",
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

/// A page that asks for `/status` once a second. Its policy lets it load nothing else.
fn page(guest: &Arc<Guest>) -> Reply {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let body = guest.body(include_str!("page.html"), None);
    let mut reply = reply(StatusCode::OK, "text/html; charset=utf-8", body);
    set(&mut reply, header::CONTENT_SECURITY_POLICY, policy);
    set(&mut reply, header::REFERRER_POLICY, "no-referrer");
    reply
}

/// Why the server is not ready: it is starting or stopping, or so many stores are away that nothing can be served.
fn not_ready(server: &ServerState) -> Option<String> {
    match server.is_ready() {
        true => server.stores().outage(),
        false => Some("starting or stopping".to_owned()),
    }
}
