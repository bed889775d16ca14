//! A store that is a bucket: how its files are listed, read and written.
//!
//! A file of a bucket can't be renamed, so a put ends otherwise than in a directory: its shares stay under their `.pending`
//! names, and a mark beside each, `<generation>.decided`, says that the put is decided. See docs/decisions/0044.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use decode_kernel::share::{Header, PAGE_BYTES};
use penstock_remote::{
    Bucket, Client, PutMode, RemoteError, RemoteErrorKind, RemoteUrl, Upload, Version,
};
use tokio::task::JoinHandle;

use super::marker::{MARKER, Marker};
use super::parts::{self, Listed, Part};
use super::rejected::RejectReason;

/// An object's directory has no more files: shares of a few puts, marks and tombstones.
const FILES_MAX: usize = 10_000;
/// Names that are asked for at one time, of all objects: as many as S3 tells.
const NAMES_OF_PART: usize = 1000;
/// How often a read is tried.
const TRIES: usize = 4;
/// Reads that are shorter, such as those of the table's pages, fetch as much, and what is behind is kept.
const SHORT_BYTES: u64 = 256 << 10;
/// The length of a part in bytes, unless the file would have too many.
const PART_BYTES: u64 = 8 << 20;
/// How long a store that failed is not asked again.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// A store that is a bucket, or a part of one. Clones are the same.
#[derive(Clone)]
pub struct BucketStore(Arc<Inner>);

struct Inner {
    bucket: Bucket,
    client: Client,
    /// Its URL, as it is told in paths and messages.
    path: PathBuf,
    /// Its marker and the marker's version, once they were read.
    marker: Mutex<Option<(Marker, Option<Version>)>>,
    /// When it failed last, if it has not answered since.
    failed: Mutex<Option<(Instant, RemoteError)>>,
}

impl std::fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.path.fmt(f)
    }
}

/// How an error of a store is told where files are worked on, and named.
fn io_error(error: &RemoteError) -> io::Error {
    let kind = match error.kind() {
        RemoteErrorKind::NotFound => io::ErrorKind::NotFound,
        RemoteErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        RemoteErrorKind::Denied => io::ErrorKind::PermissionDenied,
        RemoteErrorKind::Timeout => io::ErrorKind::TimedOut,
        RemoteErrorKind::Unsupported => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.reason())
}

impl BucketStore {
    /// The store at a URL. Asks nothing of it.
    ///
    /// # Errors
    /// If there are credentials that can't be used.
    pub fn open(url: &RemoteUrl, client: &Client) -> Result<BucketStore, RemoteError> {
        Ok(BucketStore::of(
            Bucket::open(url, client)?,
            url.to_string(),
            client,
        ))
    }

    /// The store of a bucket that was opened, named by its URL.
    pub fn of(bucket: Bucket, url: String, client: &Client) -> BucketStore {
        BucketStore(Arc::new(Inner {
            bucket,
            client: client.clone(),
            path: url.into(),
            marker: Mutex::new(None),
            failed: Mutex::new(None),
        }))
    }

    /// Its URL.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Requests that were made.
    pub fn requests(&self) -> &penstock_remote::Requests {
        self.0.bucket.requests()
    }

    /// Makes a request. Where the store failed a moment ago, with as many tries as help, it fails at once: a walk over all
    /// objects would wait for each.
    fn run<T>(&self, request: impl Future<Output = Result<T, RemoteError>>) -> io::Result<T> {
        let failed = self.failed().clone();
        match failed.filter(|(at, _)| at.elapsed() < LEFT_ALONE) {
            Some((_, error)) => Err(io_error(&error)),
            None => self.run_now(request),
        }
    }

    /// Makes a request, whatever happened before.
    fn run_now<T>(&self, request: impl Future<Output = Result<T, RemoteError>>) -> io::Result<T> {
        let result = self.0.client.run(request);
        let failed = result.as_ref().err().filter(|error| error.is_temporary());
        *self.failed() = failed.map(|error| (Instant::now(), error.clone()));
        result.map_err(|error| io_error(&error))
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Instant, RemoteError)>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name in the store of what `path` tells.
    fn name<'a>(&self, path: &'a Path) -> io::Result<&'a str> {
        let name = path.strip_prefix(&self.0.path).ok().and_then(Path::to_str);
        name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not in this store"))
    }

    /// The files of an object's directory (`ab/cdef…`).
    pub(super) fn files(&self, dir: &str) -> io::Result<Vec<Listed>> {
        let prefix = format!("objects/{dir}/");
        let files = self.run(self.0.bucket.list(&prefix, FILES_MAX))?;
        Ok(files.into_iter().map(Listed::from).collect())
    }

    /// The next of all its objects, behind a name: see [`parts::part`].
    pub(super) fn part(&self, after: &str) -> io::Result<Part> {
        self.run(parts::part(&self.0.bucket, after, NAMES_OF_PART, FILES_MAX))
    }

    /// Whether there is any file in the store.
    pub(super) fn first_file(&self) -> io::Result<Option<String>> {
        let page = self.run(self.0.bucket.page("", false, None, None, 1))?;
        Ok(page.files.into_iter().next().map(|file| file.name))
    }

    /// Its marker; `None` if there is none. It is asked for once.
    pub(super) fn marker(&self) -> io::Result<Option<Result<Marker, String>>> {
        let known = self.known().clone();
        match known {
            Some((marker, _)) => Ok(Some(Ok(marker))),
            None => self.read_marker(),
        }
    }

    fn read_marker(&self) -> io::Result<Option<Result<Marker, String>>> {
        let (bytes, version) = match self.run(self.0.bucket.read_version(MARKER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let text = str::from_utf8(&bytes).map_err(|error| error.to_string());
        let marker = text.and_then(Marker::parse);
        if let Ok(marker) = &marker {
            *self.known() = Some((marker.clone(), version));
        }
        Ok(Some(marker))
    }

    fn known(&self) -> MutexGuard<'_, Option<(Marker, Option<Version>)>> {
        self.0.marker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a marker where none is, or in place of the one that was read. If another writer came first it is left as it is,
    /// and that is an error.
    pub(super) fn write_marker(&self, text: String) -> io::Result<()> {
        let known = self.known().take();
        let (mode, bytes) = match known {
            None => (PutMode::Create, Bytes::from(text)),
            Some((_, Some(version))) => (PutMode::Replace(version), Bytes::from(text)),
            Some((_, None)) => (PutMode::Overwrite, Bytes::from(text)),
        };
        let write = |mode| self.run(self.0.bucket.put(MARKER, bytes.clone(), mode));
        match write(mode) {
            // Without conditions the last one wins, as everywhere in such a store.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => write(PutMode::Overwrite),
            // The first of several tries may have been heard.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = self.run(self.0.bucket.read(MARKER))?;
                if there == bytes { Ok(()) } else { Err(error) }
            }
            written => written,
        }
    }

    /// Forgets the marker, so that it is asked for again.
    pub(super) fn forget_marker(&self) {
        *self.known() = None;
    }

    /// Opens a file and reads its header.
    pub(super) fn open_share(&self, listed: &Listed) -> Result<(Header, BucketFile), RejectReason> {
        let file = BucketFile {
            store: self.clone(),
            name: listed.name.clone(),
            bytes: listed.bytes,
            at_hand: Mutex::default(),
        };
        let mut page = [0; PAGE_BYTES];
        let have = page
            .len()
            .min(usize::try_from(listed.bytes).unwrap_or(usize::MAX));
        file.read_exact_at(&mut page[..have], 0)?;
        let header = Header::decode(&page[..have])?;
        let (len, expected) = (listed.bytes, header.geometry.share_file_bytes());
        if len != expected {
            return Err(RejectReason::Length { len, expected });
        }
        Ok((header, file))
    }

    /// When a file was written.
    pub(super) fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        let found = self.run_now(self.0.bucket.head(self.name(path)?))?;
        Ok(found.modified)
    }

    /// Writes a short file, in place of one that is there.
    pub(super) fn write(&self, path: &Path, text: &'static [u8]) -> io::Result<()> {
        let name = self.name(path)?;
        let text = Bytes::from_static(text);
        self.run(self.0.bucket.put(name, text, PutMode::Overwrite))
    }

    /// Removes a file. One that isn't there is removed already.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(self.0.bucket.delete(self.name(path)?))
    }

    /// Begins a file that will be `path`. `bytes` is how long it will be, or what is known of that.
    pub(crate) fn create(&self, path: &Path, bytes: u64) -> io::Result<BucketWriter> {
        let parts = bytes.div_ceil(Upload::PARTS_MAX);
        Ok(BucketWriter {
            name: self.name(path)?.to_owned(),
            store: self.clone(),
            part_bytes: parts.max(PART_BYTES).next_multiple_of(1 << 20) as usize,
            first: vec![0; PAGE_BYTES],
            part: Vec::new(),
            parts: 1,
            upload: None,
            sending: None,
            is_there: false,
        })
    }
}

/// A file of a bucket, open for reading.
#[derive(Debug)]
pub struct BucketFile {
    store: BucketStore,
    name: String,
    bytes: u64,
    at_hand: Mutex<AtHand>,
}

/// Bytes of a file that were fetched, each piece with where it begins.
#[derive(Debug, Default)]
struct AtHand {
    /// What was fetched ahead.
    ahead: Option<(u64, Vec<u8>)>,
    /// What a short read fetched.
    short: Option<(u64, Vec<u8>)>,
}

impl AtHand {
    fn find(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let pieces = [&self.ahead, &self.short].into_iter().flatten();
        let mut found = pieces.filter_map(|(start, bytes)| {
            let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
            bytes.get(from..)?.get(..len)
        });
        found.next()
    }
}

impl BucketFile {
    /// Its length in bytes, as it was listed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills the buffer from an offset.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buffer.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(found) = self.at_hand().find(offset, buffer.len()) {
            buffer.copy_from_slice(found);
            return Ok(());
        }
        // A header is read alone.
        if offset == 0 || len >= SHORT_BYTES {
            buffer.copy_from_slice(&self.fetch(offset, len)?);
            return Ok(());
        }
        let bytes = self.fetch(offset, SHORT_BYTES.min(self.bytes - offset))?;
        buffer.copy_from_slice(&bytes[..buffer.len()]);
        self.at_hand().short = Some((offset, bytes));
        Ok(())
    }

    fn at_hand(&self) -> MutexGuard<'_, AtHand> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches what will be read next, in place of what was fetched ahead before.
    pub(crate) fn prefetch(&self, offset: u64, len: u64) {
        self.at_hand().ahead = None;
        // Who reads finds the error again.
        let ahead = self.fetch(offset, len).ok().map(|read| (offset, read));
        self.at_hand().ahead = ahead;
    }

    /// So many bytes from an offset.
    fn fetch(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let bucket = &self.store.0.bucket;
        let once = async || {
            let mut body = bucket.get(&self.name, offset..offset + len).await?;
            let mut bytes = Vec::with_capacity(len as usize);
            while let Some(more) = body.next().await {
                bytes.extend_from_slice(&more?);
            }
            Ok::<_, RemoteError>(bytes)
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.0.client.run(once()) {
                Err(error) if error.is_temporary() && tries < TRIES => {}
                fetched => return fetched.map_err(|error| io_error(&error)),
            }
        }
    }
}

/// A file that is being written to a bucket, its first page last. It is not there before [`BucketWriter::place`], and not
/// after it was dropped without [`BucketWriter::keep`]. Holds three parts at most.
#[derive(Debug)]
pub(crate) struct BucketWriter {
    store: BucketStore,
    name: String,
    part_bytes: usize,
    /// The first part, which waits for the first page.
    first: Vec<u8>,
    /// The part that is being filled.
    part: Vec<u8>,
    /// The number of the next part.
    parts: usize,
    upload: Option<Upload>,
    /// The upload, while a part is on its way.
    sending: Option<JoinHandle<(Upload, Result<(), RemoteError>)>>,
    /// Whether the file may be at the store.
    is_there: bool,
}

impl BucketWriter {
    /// Appends behind what there is.
    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        for bytes in parts {
            let mut bytes = *bytes;
            while !bytes.is_empty() {
                let is_first = self.first.len() < self.part_bytes;
                if !is_first && self.part.len() == self.part_bytes {
                    let part = std::mem::take(&mut self.part);
                    self.send(part)?;
                }
                let filled = match is_first {
                    true => &mut self.first,
                    false => &mut self.part,
                };
                let len = bytes.len().min(self.part_bytes - filled.len());
                let (now, rest) = bytes.split_at(len);
                // Memory is taken as it is filled: most files are short.
                filled.extend_from_slice(now);
                bytes = rest;
            }
        }
        Ok(())
    }

    /// Sends a part, behind the one that is on its way.
    fn send(&mut self, part: Vec<u8>) -> io::Result<()> {
        if self.parts as u64 >= Upload::PARTS_MAX {
            let limit = format!(
                "a file of a bucket has at most {} parts, and this one is longer; put it from a file, so that its length is known",
                Upload::PARTS_MAX
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
        }
        let number = self.parts;
        self.parts += 1;
        self.send_as(number, part)
    }

    fn send_as(&mut self, number: usize, part: Vec<u8>) -> io::Result<()> {
        self.wait()?;
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => {
                let begun = self.store.0.bucket.upload(&self.name);
                self.store.run(begun)?
            }
        };
        let sending = async move {
            let sent = upload.part(number, part.into()).await;
            (upload, sent)
        };
        self.sending = Some(self.store.0.client.handle().spawn(sending));
        Ok(())
    }

    /// Waits for the part that is on its way.
    fn wait(&mut self) -> io::Result<()> {
        let Some(sending) = self.sending.take() else {
            return Ok(());
        };
        let (upload, sent) = (self.store.0.client.run(sending)).map_err(io::Error::other)?;
        self.upload = Some(upload);
        sent.map_err(|error| io_error(&error))
    }

    /// Writes the first page, and has everything sent.
    pub(crate) fn finish(&mut self, page: &[u8; PAGE_BYTES]) -> io::Result<()> {
        self.first[..PAGE_BYTES].copy_from_slice(page);
        if self.upload.is_none() && self.sending.is_none() && self.part.is_empty() {
            return Ok(());
        }
        let first = std::mem::take(&mut self.first);
        self.send_as(0, first)?;
        if !self.part.is_empty() {
            let part = std::mem::take(&mut self.part);
            self.send(part)?;
        }
        self.wait()
    }

    /// Makes it a file of the store.
    pub(crate) fn place(&mut self) -> io::Result<()> {
        self.is_there = true;
        match &self.upload {
            Some(upload) => self.store.run(upload.complete())?,
            None => {
                let bytes = Bytes::from(std::mem::take(&mut self.first));
                let bucket = &self.store.0.bucket;
                self.store
                    .run(bucket.put(&self.name, bytes, PutMode::Overwrite))?;
            }
        }
        self.upload = None;
        Ok(())
    }

    /// Leaves it there.
    pub(crate) fn keep(mut self) {
        self.is_there = false;
    }
}

impl Drop for BucketWriter {
    fn drop(&mut self) {
        let _ = self.wait();
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.store.run(upload.abort())
        {
            tracing::warn!("{error}; the bucket's rules should end uploads that are not completed");
        }
        if self.is_there
            && let Err(error) = self.store.run(self.store.0.bucket.delete(&self.name))
        {
            tracing::warn!("{error}; `penstock repair` removes the file");
        }
    }
}
