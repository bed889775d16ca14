//! A bucket that is a directory, by as much of S3's interface as a store takes: GET with a range, HEAD, PUT with conditions,
//! DELETE, uploads in parts, ListObjectsV2. With the conditions of Google Cloud Storage it is that too, and who asks as for
//! Azure Blob Storage is answered so ([`crate::blob`]).
//!
//! For tests. It believes every signature but those in which it reads `refused`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH,
    LAST_MODIFIED, RANGE,
};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::sync::oneshot;

use crate::{blob, parse_range};

/// The directory, beside the buckets, of uploads that are not completed.
pub(crate) const UPLOADS: &str = ".uploads";
/// Google's version of a file, and the condition on it.
const GENERATION: &str = "x-goog-generation";
const IF_GENERATION: &str = "x-goog-if-generation-match";
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

pub(crate) type Answer = Response<Full<Bytes>>;

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

pub(crate) fn decoded(text: &str) -> io::Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(io::Error::other)?.into_owned())
}

pub(crate) fn empty(status: StatusCode) -> io::Result<Answer> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    Ok(answer)
}

/// The pairs of a query.
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl Query<'_> {
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        decoded(&value.replace('+', " ")).ok()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    }
}

/// Writes a file beside its place, and gives it its name in one step.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let new = dir.join(format!(".new-{:016x}", fastrand::u64(..)));
    let written = File::create_new(&new).and_then(|mut file| write(&mut file));
    let named = written.and_then(|()| fs::rename(&new, path));
    if named.is_err() {
        let _ = fs::remove_file(&new);
    }
    named
}

pub(crate) fn put(root: &Path, path: &Path, request: &Parts, body: &[u8]) -> io::Result<Answer> {
    // No bucket is made by a file in it.
    let bucket = path
        .strip_prefix(root)
        .ok()
        .and_then(|name| name.iter().next());
    if !bucket.is_some_and(|bucket| root.join(bucket).is_dir()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let there = tag(path).ok();
    let header = |name| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let refused = match (header(IF_NONE_MATCH), header(IF_MATCH)) {
        (Some(_), _) => there.is_some(),
        (None, Some(tag)) => there.as_deref() != Some(tag),
        (None, None) => {
            header(hyper::header::HeaderName::from_static(IF_GENERATION)).is_some_and(|wanted| {
                let there = generation(path).unwrap_or(0);
                wanted != there.to_string()
            })
        }
    };
    if refused {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    replace(path, |file| file.write_all(body))?;
    let answer = Response::builder()
        .header(ETAG, tag(path)?)
        .header(GENERATION, generation(path)?);
    answer.body(Full::default()).map_err(io::Error::other)
}

/// Removes a file, and the directories that it leaves empty.
pub(crate) fn delete(root: &Path, path: &Path) -> io::Result<Answer> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for dir in path.ancestors().skip(1) {
        // A bucket stays.
        if dir.parent() == Some(root) || fs::remove_dir(dir).is_err() {
            break;
        }
    }
    empty(StatusCode::NO_CONTENT)
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

pub(crate) fn tag(path: &Path) -> io::Result<String> {
    let found = fs::metadata(path)?;
    Ok(format!("\"{:x}-{:x}\"", found.ino(), found.mtime_nsec()))
}

/// Of a file that is there; none has 0.
fn generation(path: &Path) -> io::Result<u64> {
    let found = fs::metadata(path)?;
    Ok(found.ino() << 30 | found.mtime_nsec().unsigned_abs())
}

pub(crate) fn object(path: &Path, request: &Parts) -> io::Result<Answer> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let all = found.len();
    let wanted = request.headers.get(RANGE).and_then(parse_range);
    let range = wanted.clone().unwrap_or(0..all);
    let range = range.start..range.end.min(all);
    if range.start > range.end || (wanted.is_some() && range.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = range.end - range.start;
    let mut body = Vec::new();
    if request.method == Method::GET {
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut body)?;
    }
    let mut answer = Response::builder()
        .header(CONTENT_LENGTH, length)
        .header(ETAG, tag(path)?)
        .header(GENERATION, generation(path)?)
        .header(ACCEPT_RANGES, "bytes")
        .header(LAST_MODIFIED, httpdate::fmt_http_date(found.modified()?));
    if wanted.is_some() {
        let said = format!("bytes {}-{}/{all}", range.start, range.end - 1);
        answer = answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, said);
    }
    answer.body(Full::from(body)).map_err(io::Error::other)
}

/// A page of a listing.
pub(crate) struct Listed {
    /// Names, and the files of those that are files.
    pub(crate) names: Vec<(String, Option<PathBuf>)>,
    /// The last of them, if there are more.
    pub(crate) next: Option<String>,
}

/// Files under a prefix, up to a delimiter if there is one: as many as a page has, behind a name.
pub(crate) fn listed(
    bucket: &Path,
    query: &Query<'_>,
    after: &str,
    most: usize,
) -> io::Result<Listed> {
    let prefix = query.value("prefix").unwrap_or_default();
    let mut files = Vec::new();
    // The directory that the prefix names, or the one that it begins in.
    let dir = match prefix.rsplit_once('/') {
        Some((dir, _)) => bucket.join(dir),
        None => bucket.to_owned(),
    };
    walk(bucket, &dir, &mut files)?;
    // By name: what is told of it, which is the same for all that a delimiter puts together.
    let mut found: BTreeMap<String, Option<PathBuf>> = BTreeMap::new();
    for (name, path) in files {
        let Some(rest) = name.strip_prefix(&prefix) else {
            continue;
        };
        match rest.split_once('/').filter(|_| query.has("delimiter")) {
            Some((dir, _)) => found.insert(format!("{prefix}{dir}/"), None),
            None => found.insert(name, Some(path)),
        };
    }
    let mut found = found.into_iter().filter(|(name, _)| name.as_str() > after);
    let names: Vec<_> = found.by_ref().take(most).collect();
    let is_cut = found.next().is_some();
    let last = names.last().map(|(name, _)| name.clone());
    Ok(Listed {
        next: last.filter(|_| is_cut),
        names,
    })
}

/// How many names a page may have.
pub(crate) fn most(query: &Query<'_>, key: &str) -> usize {
    let most = query.value(key).and_then(|most| most.parse().ok());
    most.unwrap_or(1000)
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

fn walk(bucket: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && bucket.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        // What is being written is not there yet.
        if name.as_encoded_bytes().starts_with(b".new-") {
            continue;
        }
        if path.is_dir() {
            walk(bucket, &path, files)?;
        } else if let Some(name) = path.strip_prefix(bucket).ok().and_then(Path::to_str) {
            files.push((name.to_owned(), path));
        }
    }
    Ok(())
}
