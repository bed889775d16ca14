//! An HTTP/1.1 proxy between a client and an object store, for tests and benchmarks: late, slow, hanging, failing and lying
//! as it is told, in an order that a seed gives. It counts what was asked.
//!
//! Requests go on as they are, with their Host, so that signatures stay good. Faults strike answers to GETs.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

mod blob;
mod bucket;
mod faults;
mod files;

pub use bucket::DirectoryBuckets;
pub use faults::{Chance, FORMS, Fault, Faults};

/// A request that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: String,
    /// The bytes that it asked for, if it asked for a range.
    pub range: Option<Range<u64>>,
}

/// A proxy that runs until it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    to: SocketAddr,
    told: Mutex<Told>,
}

struct Told {
    faults: Faults,
    random: fastrand::Rng,
    seen: Vec<Seen>,
    keeps: bool,
}

impl State {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultProxy {
    /// Starts one on a thread of its own.
    ///
    /// # Errors
    /// If it can't listen there, or has no thread.
    pub fn start(
        listen: SocketAddr,
        to: SocketAddr,
        faults: Faults,
        seed: u64,
    ) -> io::Result<FaultProxy> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            to,
            told: Mutex::new(Told {
                faults,
                random: fastrand::Rng::with_seed(seed),
                seen: Vec::new(),
                keeps: false,
            }),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("faultproxy".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, shared) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(FaultProxy {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this to answers from now on.
    pub fn set(&self, faults: Faults) {
        self.state.told().faults = faults;
    }

    /// Notes requests from now on.
    pub fn keep_seen(&self) {
        self.state.told().keeps = true;
    }

    /// The requests that were noted since the last time.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.told().seen)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told by itself.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    // The same socket, for a reset while hyper has it.
    let Ok(stream) = stream.into_std() else {
        return;
    };
    let Ok(socket) = stream.try_clone() else {
        return;
    };
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let socket = Arc::new(socket);
    let service = service_fn(|request| {
        let (state, socket) = (Arc::clone(&state), Arc::clone(&socket));
        async move {
            let answer = answer(request, &state, &socket).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|error| {
                let mut bad = Response::new(Either::Left(Full::from(error.to_string())));
                *bad.status_mut() = StatusCode::BAD_GATEWAY;
                bad
            }))
        }
    });
    // How it ended is the client's matter.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Either<Full<Bytes>, Faulty>>;

async fn answer(
    mut request: Request<Incoming>,
    state: &State,
    socket: &Arc<std::net::TcpStream>,
) -> anyhow::Result<Answer> {
    let range = request.headers().get(RANGE).and_then(parse_range);
    let (latency, bandwidth, mut fault) = {
        let mut told = state.told();
        if told.keeps {
            let seen = Seen {
                method: request.method().clone(),
                target: request.uri().to_string(),
                range: range.clone(),
            };
            told.seen.push(seen);
        }
        let Told { faults, random, .. } = &mut *told;
        let fault = match *request.method() {
            Method::GET => faults.draw(random),
            _ => None,
        };
        (faults.latency, faults.bandwidth, fault)
    };
    let wait = match fault {
        Some(Fault::Late(more)) => latency + more,
        _ => latency,
    };
    if !wait.is_zero() {
        sleep(wait).await;
    }
    match fault {
        Some(Fault::SlowDown) => {
            let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Reduce your request \
                        rate.</Message></Error>";
            let mut slow = Response::new(Either::Left(Full::from(body)));
            *slow.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(slow);
        }
        Some(Fault::Whole) => {
            request.headers_mut().remove(RANGE);
        }
        _ => {}
    }
    // A wrong range is asked for, and said to be the right one. A signature may cover the field, so the last byte stays.
    let shifts = fault == Some(Fault::WrongRange);
    let upstream = TcpStream::connect(state.to).await?;
    upstream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(upstream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (mut head, body) = response.into_parts();
    if !head.status.is_success() {
        fault = None;
    }
    let length = head.headers.get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    if shifts && let Some(shifted) = head.headers.get(CONTENT_RANGE).and_then(shift) {
        head.headers.insert(CONTENT_RANGE, shifted);
    }
    if fault == Some(Fault::Truncated) {
        head.headers.remove(CONTENT_LENGTH);
    }
    let body = Faulty {
        body,
        length,
        sent: 0,
        fault,
        bandwidth,
        pause: None,
        socket: Arc::clone(socket),
    };
    Ok(Response::from_parts(head, Either::Right(body)))
}

/// The bytes that `bytes=A-B` asks for.
fn parse_range(value: &HeaderValue) -> Option<Range<u64>> {
    let (first, last) = value
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(first..last.checked_add(1)?)
}

/// `bytes A-B/C` as `bytes A+1-B+1/C`.
fn shift(value: &HeaderValue) -> Option<HeaderValue> {
    let (range, total) = value
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    HeaderValue::from_str(&format!("bytes {}-{}/{total}", first + 1, last + 1)).ok()
}

/// A body to which a fault happens.
struct Faulty {
    body: Incoming,
    length: Option<u64>,
    sent: u64,
    fault: Option<Fault>,
    bandwidth: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    socket: Arc<std::net::TcpStream>,
}

impl Faulty {
    /// Bytes after which the body goes wrong.
    fn limit(&self) -> u64 {
        match self.fault {
            Some(Fault::Hang(after) | Fault::Reset(after)) => after,
            Some(Fault::Short | Fault::Truncated) => {
                self.length.map_or(0, |all| all.saturating_sub(1))
            }
            _ => u64::MAX,
        }
    }
}

impl Body for Faulty {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let left = self.limit().saturating_sub(self.sent);
        if left == 0 {
            return match self.fault {
                Some(Fault::Hang(_)) => Poll::Pending,
                Some(Fault::Reset(_)) => {
                    let socket = socket2::SockRef::from(&*self.socket);
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
                }
                _ => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            };
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let mut data = match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) => data,
            Err(other) => return Poll::Ready(Some(Ok(other))),
        };
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if self.fault == Some(Fault::WrongBytes) && self.sent == 0 && !data.is_empty() {
            let mut wrong = data.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 1;
            data = wrong.into();
        }
        self.sent += data.len() as u64;
        if let Some(bandwidth) = self.bandwidth {
            let took = data.len() as f64 / bandwidth.max(1) as f64;
            self.pause = Some(Box::pin(sleep(Duration::from_secs_f64(took))));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
