//! HTTP/1.1 to stores, with bounds: on what is held of an answer, and on how long each step of it may take.
//!
//! A body as a whole has no limit of time: it comes as fast as its reader takes it. There is no queue between hyper's buffer
//! and the reader.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    ClientOptions as StoreOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind,
    HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::{Instant, Sleep, sleep};

use crate::counts::{Kind, Requests};
use crate::error::FOR_CREDENTIALS;
use crate::options::ClientOptions;
use crate::strays::without_strays;

/// Bytes per second at which a store takes what it is sent, at least.
const UPLOAD_RATE_LEAST: u64 = 64 << 10;
/// How long an idle connection is kept.
const IDLE_KEPT: Duration = Duration::from_secs(30);
/// The longest answer but to a GET of a file: a page of a listing has 1,000 names of 1,024 bytes at most.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// What is read of the body of an error, and what is told of its code and message each.
const ERROR_BYTES_MAX: usize = 64 << 10;
const SAID_CHARS_MAX: usize = 150;

type Connections = Pool<HttpsConnector<TcpConnector>, HttpRequestBody>;

/// The connections to all stores.
#[derive(Clone)]
pub(crate) struct Transport {
    connections: Connections,
    options: ClientOptions,
}

impl Transport {
    /// With these bounds.
    ///
    /// # Errors
    /// If the TLS library can't be set up.
    pub(crate) fn new(options: ClientOptions) -> Result<Transport, rustls::Error> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        tcp.set_recv_buffer_size(options.receive_buffer_bytes);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?;
        // A machine without roots can still reach stores by http.
        let tls = match tls.clone().with_native_roots() {
            Ok(tls) => tls,
            Err(_) => tls.with_root_certificates(rustls::RootCertStore::empty()),
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let connections = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_KEPT)
            .pool_max_idle_per_host(options.connections_per_store)
            .http1_max_buf_size(options.h1_buffer_bytes)
            .build(connector);
        Ok(Transport {
            connections,
            options,
        })
    }
}

/// Where a store is. Requests to elsewhere ask for credentials, with which the store is asked then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this host and port, or at hosts within its domain.
    At(String, u16),
    /// At AWS, whose services are many: everywhere but where credentials come from.
    Aws,
}

impl Place {
    /// Where an endpoint is.
    pub(crate) fn at(endpoint: &str) -> Option<Place> {
        let (host, port) = host_port(&endpoint.parse().ok()?)?;
        Some(Place::At(host, port))
    }

    fn has(&self, uri: &Uri) -> bool {
        let Some((host, port)) = host_port(uri) else {
            return true;
        };
        match self {
            Place::At(at, at_port) => {
                let within = host.strip_suffix(at.as_str());
                port == *at_port
                    && within.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Place::Aws => {
                let gives = ["169.254.", "[fd00:ec2:", "sts."];
                !gives.iter().any(|start| host.starts_with(start))
            }
        }
    }
}

fn host_port(uri: &Uri) -> Option<(String, u16)> {
    let usual = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri.host()?.to_ascii_lowercase();
    Some((host, uri.port_u16().unwrap_or(usual)))
}

/// One store's requests.
#[derive(Clone)]
pub(crate) struct Service {
    transport: Transport,
    requests: Arc<Requests>,
    place: Place,
}

impl Service {
    /// Those of a store that is not placed yet.
    pub(crate) fn new(transport: Transport, requests: Arc<Requests>) -> Service {
        Service {
            transport,
            requests,
            place: Place::Aws,
        }
    }

    /// Those of the store there.
    pub(crate) fn at(self, place: Place) -> Service {
        Service { place, ..self }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl HttpConnector for Service {
    fn connect(&self, _: &StoreOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if self.place.has(request.uri()) {
            let kind = Kind::of(&request);
            self.requests.note(kind);
            return self.ask(request, Some(kind)).await;
        }
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.ask(request, None).await;
        answer.map_err(|error| {
            let mut why: &dyn std::error::Error = &error;
            while let Some(source) = why.source() {
                why = source;
            }
            let unasked = Unasked(host, why.to_string());
            HttpError::new(error.kind(), unasked)
        })
    }
}

/// Who gives credentials could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{FOR_CREDENTIALS}{0} can't be asked: {1}")]
struct Unasked(String, String);

impl Service {
    /// Makes a request, of the store if it is of a kind.
    async fn ask(
        &self,
        mut request: HttpRequest,
        kind: Option<Kind>,
    ) -> Result<HttpResponse, HttpError> {
        let Transport {
            connections,
            options,
        } = &self.transport;
        // hyper makes the origin form of an absolute one.
        if request.uri().authority().is_none() {
            *request.uri_mut() = Uri::default();
        }
        let sending = request.body().content_length() as u64 / UPLOAD_RATE_LEAST;
        let within = options.first_byte_timeout + Duration::from_secs(sending);
        let answer = tokio::time::timeout(within, connections.request(request)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(|error| {
                let kind = match error.is_connect() {
                    true => HttpErrorKind::Connect,
                    false => HttpErrorKind::Interrupted,
                };
                HttpError::new(kind, error)
            })?,
            Err(late) => return Err(HttpError::new(HttpErrorKind::Timeout, late)),
        };
        let (mut head, body) = answer.into_parts();
        let left = match kind {
            Some(Kind::Get) if head.status.is_success() => u64::MAX,
            _ => ANSWER_BYTES_MAX,
        };
        let body = Bounded {
            body,
            left,
            idle: options.idle_timeout,
            alarm: Box::pin(sleep(options.idle_timeout)),
            waits: false,
        };
        if !head.status.is_success() {
            let told = Limited::new(body, ERROR_BYTES_MAX).collect().await;
            // Where it can't be read the status says enough.
            let told = told.map_or_else(|_| Bytes::new(), |told| told.to_bytes());
            let said = match kind {
                Some(_) => said(&head.headers, &told),
                None => format!("{FOR_CREDENTIALS}{}", said(&head.headers, &told)),
            };
            return Ok(HttpResponse::from_parts(head, said.into()));
        }
        if kind == Some(Kind::List) {
            let listing = body.collect().await?.to_bytes();
            head.headers.remove(CONTENT_LENGTH);
            let clean = std::str::from_utf8(&listing).map(without_strays);
            let listing = match clean {
                Ok(Cow::Owned(clean)) => clean.into(),
                _ => listing,
            };
            return Ok(HttpResponse::from_parts(head, listing.into()));
        }
        // object_store wants a length, which a chunked answer has not.
        if head.status == StatusCode::PARTIAL_CONTENT
            && !head.headers.contains_key(CONTENT_LENGTH)
            && let Some(bytes) = range_bytes(&head.headers)
        {
            head.headers.insert(CONTENT_LENGTH, bytes.into());
        }
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// What an error says: its code and message. The rest of its body repeats the request, down to what was signed.
fn said(headers: &HeaderMap, body: &[u8]) -> String {
    let parts = match body.first() {
        Some(b'{') => in_json(body),
        _ => {
            let text = String::from_utf8_lossy(body);
            ["Code", "Message"].map(|name| Some(element(&text, name)?.to_owned()))
        }
    };
    let [code, message] = parts;
    // Azure's answers to HEAD.
    let code = code.or_else(|| {
        let code = headers.get("x-ms-error-code")?.to_str().ok()?;
        Some(code.to_owned())
    });
    let parts = [code, message].into_iter().flatten().map(|part| {
        let plain = part.chars().map(|c| if c.is_control() { ' ' } else { c });
        plain.take(SAID_CHARS_MAX).collect::<String>()
    });
    parts.collect::<Vec<_>>().join(": ")
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// The code and message of `{"error": {"status": …, "message": …}}`, as Google's services say it, or of
/// `{"error": …, "error_description": …}`, as those who give tokens do.
fn in_json(body: &[u8]) -> [Option<String>; 2] {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    match &said["error"] {
        code @ serde_json::Value::String(_) => [text(code), text(&said["error_description"])],
        error => [text(&error["status"]), text(&error["message"])],
    }
}

/// Whether the connection ended before the body did.
fn is_cut_off(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_incomplete_message()
        || source.is_some_and(|source| source.kind() == std::io::ErrorKind::UnexpectedEof)
}

/// The number of bytes that `Content-Range` tells.
fn range_bytes(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, _) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

/// A body that may not pause for too long, nor be too long.
struct Bounded {
    body: Incoming,
    left: u64,
    idle: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Whether the alarm was set: it is when the reader finds nothing. Time that the reader takes is not the store's.
    waits: bool,
}

/// Why a body was given up.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("nothing more came within {} s", .0.as_secs_f32())]
    Idle(Duration),
    #[error("the answer is too long")]
    TooLong,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            if !this.waits {
                this.waits = true;
                this.alarm.as_mut().reset(Instant::now() + this.idle);
            }
            ready!(this.alarm.as_mut().poll(context));
            let idle = BodyError::Idle(this.idle);
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, idle))));
        };
        this.waits = false;
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                // Cut off in an orderly way, it is a wrong answer; else the connection broke.
                let kind = match is_cut_off(&error) || error.is_parse() {
                    true => HttpErrorKind::Decode,
                    false => HttpErrorKind::Interrupted,
                };
                let error = HttpError::new(kind, error);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(bytes) {
            Some(left) => this.left = left,
            None => {
                let error = HttpError::new(HttpErrorKind::Decode, BodyError::TooLong);
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_stores_or_ask_for_credentials() {
        let at = |endpoint| Place::at(endpoint).unwrap();
        for (place, uri, is_store) in [
            (at("http://h:1/p"), "http://h:1/x", true),
            (at("http://h:1"), "http://h:2/x", false),
            (at("https://H.example"), "https://h.example:443/x", true),
            (at("https://h.example"), "https://b.h.example/x", true),
            (at("https://h.example"), "https://evilh.example/x", false),
            (at("https://h.example"), "http://169.254.169.254/x", false),
            (Place::Aws, "https://b.s3.eu-1.amazonaws.com/x", true),
            (Place::Aws, "https://sts.eu-1.amazonaws.com/", false),
            (Place::Aws, "http://169.254.169.254/latest", false),
        ] {
            assert_eq!(
                place.has(&uri.parse().unwrap()),
                is_store,
                "{place:?} {uri}"
            );
        }
        assert_eq!(Place::at("ftp://h"), None);
    }

    #[test]
    fn errors_are_told_by_code_and_message() {
        let none = HeaderMap::new();
        for (body, told) in [
            (
                "<Error><Code>A</Code><Message>b\nc</Message><Signed>secret</Signed></Error>",
                "A: b c",
            ),
            ("\u{feff}<?xml?><Error><Code>A</Code></Error>", "A"),
            (
                r#"{"error":{"code":401,"message":"No.","status":"UNAUTHENTICATED"}}"#,
                "UNAUTHENTICATED: No.",
            ),
            (
                r#"{"error":{"code":404,"message":"No.","errors":[{"secret":1}]}}"#,
                "No.",
            ),
            (
                r#"{"error":"invalid_grant","error_description":"Expired","x":"secret"}"#,
                "invalid_grant: Expired",
            ),
            (r#"{"error":["secret"]}"#, ""),
            (r#"{"secret""#, ""),
            ("[]", ""),
            ("", ""),
        ] {
            assert_eq!(said(&none, body.as_bytes()), told, "{body}");
        }
        let mut of_head = HeaderMap::new();
        of_head.insert("x-ms-error-code", "BlobNotFound".parse().unwrap());
        assert_eq!(said(&of_head, b""), "BlobNotFound");
    }
}
