//! A bucket that is a directory, by as much of S3's interface as a reader takes: GET with a range, HEAD, ListObjectsV2.
//!
//! For tests. It believes every signature and writes nothing.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::parse_range;

/// When every file was written, as far as anybody is told.
const MODIFIED: &str = "Fri, 27 Nov 2026 12:00:00 GMT";

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
            let service = service_fn(|request| {
                let answer = answer(&root, &request).unwrap_or_else(|error| failed(&error));
                async move { Ok::<_, Infallible>(answer) }
            });
            // How it ended is the client's matter.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn failed(error: &io::Error) -> Answer {
    let (status, code) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            (StatusCode::NOT_FOUND, "NoSuchKey")
        }
        io::ErrorKind::InvalidInput => (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    let body = format!("<Error><Code>{code}</Code><Message>{error}</Message></Error>");
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}

fn answer(root: &Path, request: &Request<Incoming>) -> io::Result<Answer> {
    let path = request.uri().path().trim_start_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Err(io::ErrorKind::NotFound.into());
    }
    let query = request.uri().query().unwrap_or_default();
    match *request.method() {
        Method::GET if query.contains("list-type=2") => list(&root.join(path), query),
        Method::GET | Method::HEAD => object(&root.join(path), request),
        _ => {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            Ok(answer)
        }
    }
}

fn tag(path: &Path) -> io::Result<String> {
    let found = fs::metadata(path)?;
    Ok(format!("\"{:x}-{:x}\"", found.ino(), found.mtime_nsec()))
}

fn object(path: &Path, request: &Request<Incoming>) -> io::Result<Answer> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let all = found.len();
    let wanted = request.headers().get(RANGE).and_then(parse_range);
    let range = wanted.clone().unwrap_or(0..all);
    let range = range.start..range.end.min(all);
    if range.start > range.end || (wanted.is_some() && range.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = range.end - range.start;
    let mut body = Vec::new();
    if *request.method() == Method::GET {
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut body)?;
    }
    let mut answer = Response::builder()
        .header(CONTENT_LENGTH, length)
        .header(ETAG, tag(path)?)
        .header(ACCEPT_RANGES, "bytes")
        .header(LAST_MODIFIED, MODIFIED);
    if wanted.is_some() {
        let said = format!("bytes {}-{}/{all}", range.start, range.end - 1);
        answer = answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, said);
    }
    answer.body(Full::from(body)).map_err(io::Error::other)
}

/// All files under a prefix, in one page.
fn list(bucket: &Path, query: &str) -> io::Result<Answer> {
    let value = |name: &str| {
        let pairs = query.split('&');
        let mut values =
            pairs.filter_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
        values.next().map(|(_, value)| value.replace("%2F", "/"))
    };
    let prefix = value("prefix").unwrap_or_default();
    let mut files = Vec::new();
    // The directory that the prefix names, or the one that it begins in.
    let dir = match prefix.rsplit_once('/') {
        Some((dir, _)) => bucket.join(dir),
        None => bucket.to_owned(),
    };
    walk(bucket, &dir, &mut files)?;
    files.retain(|(name, _)| name.starts_with(&prefix));
    files.sort();
    let mut body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>false</IsTruncated><Prefix>{prefix}</Prefix>\
         <KeyCount>{}</KeyCount>",
        files.len()
    );
    for (name, path) in files {
        let tag = tag(&path)?.replace('"', "&quot;");
        body.push_str(&format!(
            "<Contents><Key>{name}</Key><LastModified>2026-11-27T12:00:00.000Z</LastModified><ETag>{tag}</ETag>\
             <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            fs::metadata(&path)?.len()
        ));
    }
    body.push_str("</ListBucketResult>");
    Ok(Response::new(Full::from(body)))
}

fn walk(bucket: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && bucket.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(bucket, &path, files)?;
        } else if let Some(name) = path.strip_prefix(bucket).ok().and_then(Path::to_str) {
            files.push((name.to_owned(), path));
        }
    }
    Ok(())
}
