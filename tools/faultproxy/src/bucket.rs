//! A bucket that is a directory, by as much of S3's interface as a store takes: GET with a range, HEAD, PUT with conditions,
//! DELETE, uploads in parts, ListObjectsV2. With the conditions of Google Cloud Storage it is that too, and who asks as for
//! Azure Blob Storage is answered so ([`crate::blob`]).
//!
//! For tests. It believes every signature but those in which it reads `refused`.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, ETAG};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::blob;
use crate::files::{
    Answer, Query, UPLOADS, decoded, delete, empty, listed, most, object, put, replace, tag,
};

/// A longer body is refused.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A server of buckets, which are the directories in one. It runs until it is dropped.
pub struct DirectoryBuckets {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DirectoryBuckets {
    /// Starts one at a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If it can't listen, or has no thread.
    pub fn start(root: &Path) -> io::Result<DirectoryBuckets> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let root: Arc<Path> = root.into();
        let thread = std::thread::Builder::new()
            .name("buckets".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, root) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(DirectoryBuckets {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DirectoryBuckets {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told by itself.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, root: Arc<Path>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let root = Arc::clone(&root);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let root = Arc::clone(&root);
                async move {
                    let (head, body) = request.into_parts();
                    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
                    let answer = body
                        .map_err(io::Error::other)
                        .and_then(|body| answer(&root, &head, &body.to_bytes()));
                    Ok::<_, Infallible>(answer.unwrap_or_else(|error| failed(&error)))
                }
            });
            // How it ended is the client's matter.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn failed(error: &io::Error) -> Answer {
    let (status, code) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            (StatusCode::NOT_FOUND, "NoSuchKey")
        }
        io::ErrorKind::InvalidInput => (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
        io::ErrorKind::AlreadyExists => (StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
        io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "AccessDenied"),
        io::ErrorKind::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    let body = format!("<Error><Code>{code}</Code><Message>{error}</Message></Error>");
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}

fn answer(root: &Path, request: &Parts, body: &[u8]) -> io::Result<Answer> {
    let path = decoded(request.uri.path().trim_start_matches('/'))?;
    let path = path.as_str();
    let authorized = request.headers.get(AUTHORIZATION);
    if authorized.is_some_and(|value| value.to_str().is_ok_and(|value| value.contains("refused"))) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    if path.split('/').any(|part| part == ".." || part == UPLOADS) {
        return Err(io::ErrorKind::NotFound.into());
    }
    if request.headers.contains_key("x-ms-version") {
        return blob::answer(root, path, request, body);
    }
    let file = root.join(path);
    let query = Query(request.uri.query().unwrap_or_default());
    let upload = query.value("uploadId").map(|id| upload(root, &id));
    let upload = upload.transpose()?;
    match (&request.method, upload) {
        (&Method::GET, None) if query.has("list-type") => list(&file, &query),
        (&Method::GET | &Method::HEAD, None) => object(&file, request),
        (&Method::PUT, None) => put(root, &file, request, body),
        (&Method::DELETE, None) => delete(root, &file),
        (&Method::POST, None) if query.has("uploads") => begin(root, path),
        (&Method::PUT, Some(parts)) => {
            let number: u32 = query
                .value("partNumber")
                .and_then(|number| number.parse().ok())
                .ok_or(io::ErrorKind::InvalidInput)?;
            let part = parts.join(format!("{number:05}"));
            fs::write(&part, body)?;
            let answer = Response::builder().header(ETAG, tag(&part)?);
            answer.body(Full::default()).map_err(io::Error::other)
        }
        (&Method::POST, Some(parts)) => complete(&file, &parts),
        (&Method::DELETE, Some(parts)) => {
            fs::remove_dir_all(parts)?;
            empty(StatusCode::NO_CONTENT)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The directory of an upload's parts.
fn upload(root: &Path, id: &str) -> io::Result<PathBuf> {
    let parts = root.join(UPLOADS).join(id);
    match id.bytes().all(|byte| byte.is_ascii_hexdigit()) && parts.is_dir() {
        true => Ok(parts),
        false => Err(io::Error::new(io::ErrorKind::NotFound, "NoSuchUpload")),
    }
}

fn begin(root: &Path, name: &str) -> io::Result<Answer> {
    let id = format!("{:016x}", fastrand::u64(..));
    fs::create_dir_all(root.join(UPLOADS).join(&id))?;
    let (bucket, key) = name.split_once('/').unwrap_or((name, ""));
    let body = format!(
        "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>"
    );
    Ok(Response::new(Full::from(body)))
}

fn complete(path: &Path, parts: &Path) -> io::Result<Answer> {
    let names = fs::read_dir(parts)?.map(|entry| Ok(entry?.path()));
    let mut names = names.collect::<io::Result<Vec<PathBuf>>>()?;
    names.sort();
    replace(path, |file| {
        for name in &names {
            io::copy(&mut File::open(name)?, file)?;
        }
        Ok(())
    })?;
    fs::remove_dir_all(parts)?;
    let tag = tag(path)?.replace('"', "&quot;");
    let body = format!(
        "<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
    );
    Ok(Response::new(Full::from(body)))
}

fn list(bucket: &Path, query: &Query<'_>) -> io::Result<Answer> {
    let after = ["continuation-token", "start-after"];
    let after = after.into_iter().find_map(|name| query.value(name));
    let page = listed(
        bucket,
        query,
        &after.unwrap_or_default(),
        most(query, "max-keys"),
    )?;
    let (is_cut, count) = (page.next.is_some(), page.names.len());
    let mut body = String::new();
    for (name, path) in page.names {
        let Some(path) = path else {
            body.push_str(&format!(
                "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
            ));
            continue;
        };
        // Removed meanwhile.
        let (Ok(tag), Ok(found)) = (tag(&path), fs::metadata(&path)) else {
            continue;
        };
        let modified = humantime::format_rfc3339_millis(found.modified()?);
        body.push_str(&format!(
            "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>{}</ETag><Size>{}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            tag.replace('"', "&quot;"),
            found.len()
        ));
    }
    let prefix = query.value("prefix").unwrap_or_default();
    let next = page
        .next
        .map(|last| format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    let next = next.unwrap_or_default();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>{is_cut}</IsTruncated>{next}\
         <Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount>{body}</ListBucketResult>"
    );
    Ok(Response::new(Full::from(body)))
}
