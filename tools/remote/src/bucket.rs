//! The files of a store that is a bucket.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::list::PaginatedListOptions;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartId, ObjectMeta, PutMode as StorePutMode, PutPayload,
    UpdateVersion,
};
use tokio::time::sleep;

use crate::client::Client;
use crate::counts::Requests;
use crate::error::{RemoteError, RemoteErrorKind};
use crate::provider::{self, Keys, Objects};
use crate::transport::Service;
use crate::url::{Provider, RemoteUrl};

/// How often a call that is not a GET is made again where the store has too much to do or can't be reached.
const TRIES: u32 = 4;
/// The pause before the second time; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// A file that is read whole is no longer.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Pages of one listing that may have no file: a store that gives more would be asked for ever.
const EMPTY_PAGES_MAX: usize = 32;
/// Pages that may have only names before the one behind which they should begin.
const SKIPPED_PAGES_MAX: usize = 1000;
/// Names in one page of a listing.
const PAGE: usize = 1000;

/// Makes a call again, a few times, where that may help.
macro_rules! again {
    ($bucket:expr, $what:expr, $call:expr) => {{
        let what: &str = $what;
        let mut tries = Tries::default();
        loop {
            let result = $call.await;
            let result = result.map_err(|error| RemoteError::of(&$bucket.0.name, what, &error));
            if let Some(result) = tries.judge(result).await {
                break result;
            }
        }
    }};
}

/// How often a call was made.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// What came of a call, unless it is to be made again: then waits until that is due.
    async fn judge<T>(&mut self, result: Result<T, RemoteError>) -> Option<Result<T, RemoteError>> {
        self.0 += 1;
        match result {
            Err(error) if error.is_temporary() && self.0 < TRIES => {
                // Not all clients at one time.
                let pause = PAUSE * 2_u32.pow(self.0 - 1);
                sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                None
            }
            result => Some(result),
        }
    }
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the store, without the store's prefix.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What tells it from another by that name.
    pub etag: Option<String>,
    /// When it was written.
    pub modified: SystemTime,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Files.
    pub files: Vec<Entry>,
    /// Names up to the first slash behind the prefix, slash included, of files that have one, where that was asked for.
    pub dirs: Vec<String>,
    /// What the next page is asked for with; `None` at the end.
    pub next: Option<String>,
}

/// What becomes of a file by the name that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// It is replaced.
    Overwrite,
    /// It stays, and writing fails with [`RemoteErrorKind::AlreadyExists`].
    Create,
    /// It is replaced if this is its version. Otherwise it stays, and writing fails in the same way.
    Replace(Version),
}

/// Which of the files that had a name over time one is, as its store wants to be told: Google counts generations, others
/// have entity tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

impl Version {
    /// The version of a file, if the store tells it.
    fn of(provider: Provider, file: &ObjectMeta) -> Option<Version> {
        let version = UpdateVersion {
            e_tag: file.e_tag.clone(),
            version: file.version.clone(),
        };
        let told = match provider {
            Provider::Gs => &version.version,
            Provider::S3 | Provider::Az => &version.e_tag,
        };
        told.is_some().then_some(Version(version))
    }
}

/// An entity tag in one form, that of the header. Azure and some others leave the quotes out in listings.
fn quoted(tag: String) -> String {
    match tag.ends_with('"') {
        true => tag,
        false => format!("\"{tag}\""),
    }
}

/// A store that is a bucket. Clones are the same one.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    store: Box<dyn Objects>,
    provider: Provider,
    /// What messages call it.
    name: String,
    prefix: String,
    requests: Arc<Requests>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.0.name).finish()
    }
}

impl Bucket {
    /// A store by its URL. Credentials are those that its provider's own tools would find: in the environment or in files,
    /// and the machine's role or identity otherwise. Asks nothing of the store.
    ///
    /// # Errors
    /// If the credentials can't be used, or there are no keys for a service of S3 that is not AWS's.
    pub fn open(url: &RemoteUrl, client: &Client) -> Result<Bucket, RemoteError> {
        Bucket::open_as(url, client, None)
    }

    /// The same, with these keys where there are some.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open_as(
        url: &RemoteUrl,
        client: &Client,
        keys: Option<Keys>,
    ) -> Result<Bucket, RemoteError> {
        let requests = Arc::new(Requests::default());
        let service = Service::new(client.transport.clone(), Arc::clone(&requests));
        Ok(Bucket(Arc::new(Inner {
            store: provider::open(url, service, keys)?,
            provider: url.provider(),
            prefix: url.prefix(),
            name: url.to_string(),
            requests,
        })))
    }

    /// Requests that were made, by kind.
    pub fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// The error of an answer that whoever asked can make no use of.
    pub fn wrong_answer(&self, what: impl Into<String>, reason: String) -> RemoteError {
        RemoteError::new(RemoteErrorKind::Protocol, &self.0.name, what, reason)
    }

    fn path(&self, name: &str) -> Result<Path, RemoteError> {
        let path = Path::parse(format!("{}{name}", self.0.prefix));
        path.map_err(|error| {
            RemoteError::new(
                RemoteErrorKind::Other,
                &self.0.name,
                name,
                error.to_string(),
            )
        })
    }

    /// A page of the files whose names begin with a prefix: those after a name, or what a page before said comes next.
    /// With `dirs` what lies behind a slash is told as one.
    ///
    /// # Errors
    /// The store's.
    pub async fn page(
        &self,
        prefix: &str,
        dirs: bool,
        after: Option<&str>,
        next: Option<String>,
        at_most: usize,
    ) -> Result<Page, RemoteError> {
        let mut next = next;
        for _ in 0..SKIPPED_PAGES_MAX {
            let begin = after.filter(|_| next.is_none());
            let mut page = self.told(prefix, dirs, begin, next, at_most).await?;
            let Some(after) = after else {
                return Ok(page);
            };
            // Emulators of Azure begin with the first name, whatever was asked for.
            page.files.retain(|file| file.name.as_str() > after);
            page.dirs.retain(|dir| dir.as_str() > after);
            if !page.files.is_empty() || !page.dirs.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            next = page.next;
        }
        Err(self.wrong_answer(
            format!("list {prefix}"),
            "page after page without a name behind the one that was told".to_owned(),
        ))
    }

    /// A page as the store tells it.
    async fn told(
        &self,
        prefix: &str,
        dirs: bool,
        after: Option<&str>,
        next: Option<String>,
        at_most: usize,
    ) -> Result<Page, RemoteError> {
        let full = format!("{}{prefix}", self.0.prefix);
        let listed = again!(self, &format!("list {prefix}"), {
            let options = PaginatedListOptions {
                offset: after.map(|after| format!("{}{after}", self.0.prefix)),
                delimiter: dirs.then_some(Cow::Borrowed("/")),
                max_keys: Some(at_most.clamp(1, PAGE)),
                page_token: next.clone(),
                ..PaginatedListOptions::default()
            };
            self.0.store.list(&full, options)
        })?;
        let short = |path: &Path| {
            let name = path.as_ref().strip_prefix(&self.0.prefix)?;
            Some(name.to_owned())
        };
        let files = listed.result.objects.iter().filter_map(|file| {
            Some(Entry {
                name: short(&file.location)?,
                bytes: file.size,
                etag: file.e_tag.clone().map(quoted),
                modified: file.last_modified.into(),
            })
        });
        let found = listed.result.common_prefixes.iter();
        Ok(Page {
            files: files.collect(),
            dirs: found
                .filter_map(|dir| Some(format!("{}/", short(dir)?)))
                .collect(),
            next: listed.page_token,
        })
    }

    /// All files whose names begin with a prefix.
    ///
    /// # Errors
    /// The store's, or that there are more than `at_most`.
    pub async fn list(&self, prefix: &str, at_most: usize) -> Result<Vec<Entry>, RemoteError> {
        let mut files: Vec<Entry> = Vec::new();
        let mut next = None;
        let mut empty = 0;
        loop {
            let more = at_most.saturating_add(1);
            let page = self.page(prefix, false, None, next, more).await?;
            empty += usize::from(page.files.is_empty());
            if empty > EMPTY_PAGES_MAX {
                return Err(RemoteError::new(
                    RemoteErrorKind::Protocol,
                    &self.0.name,
                    format!("list {prefix}"),
                    "page after page without a file".to_owned(),
                ));
            }
            files.extend(page.files);
            if files.len() > at_most {
                return Err(RemoteError::new(
                    RemoteErrorKind::Protocol,
                    &self.0.name,
                    format!("list {prefix}"),
                    format!("more than {at_most} files"),
                ));
            }
            next = page.next;
            if next.is_none() {
                return Ok(files);
            }
        }
    }

    /// Bytes of a file. It is asked once: who wants them decides what is to be done about an error.
    ///
    /// # Errors
    /// The store's, or that it answers with anything else than these bytes.
    pub async fn get(&self, name: &str, range: Range<u64>) -> Result<Body, RemoteError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let what = format!("get {name}");
        let failed =
            |error: &object_store::Error| RemoteError::of(&self.0.name, what.clone(), error);
        let path = self.path(name)?;
        let result = self.0.store.get(&path, options).await;
        let result = result.map_err(|error| failed(&error))?;
        if result.range != range {
            return Err(RemoteError::new(
                RemoteErrorKind::Protocol,
                &self.0.name,
                what,
                format!("asked for bytes {range:?}, got {:?}", result.range),
            ));
        }
        Ok(Body {
            left: range.end - range.start,
            total_bytes: result.meta.size,
            etag: result.meta.e_tag.clone().map(quoted),
            stream: result.into_stream(),
            store: self.0.name.clone(),
            what,
        })
    }

    /// A few bytes of a file, all of them. Asked again where that may help.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn read_part(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let once = async || {
            let mut body = self.get(name, range.clone()).await?;
            let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
            while let Some(more) = body.next().await {
                bytes.extend_from_slice(&more?);
            }
            Ok(bytes)
        };
        let mut tries = Tries::default();
        loop {
            if let Some(result) = tries.judge(once().await).await {
                return result;
            }
        }
    }

    /// A short file, whole.
    ///
    /// # Errors
    /// The store's, or that it is too long.
    pub async fn read(&self, name: &str) -> Result<Bytes, RemoteError> {
        self.read_version(name).await.map(|(bytes, _)| bytes)
    }

    /// The same, with its version.
    ///
    /// # Errors
    /// As [`Bucket::read`].
    pub async fn read_version(&self, name: &str) -> Result<(Bytes, Option<Version>), RemoteError> {
        let path = self.path(name)?;
        let what = format!("get {name}");
        let result = again!(self, &what, {
            self.0.store.get(&path, GetOptions::default())
        })?;
        if result.meta.size > READ_BYTES_MAX {
            return Err(RemoteError::new(
                RemoteErrorKind::Protocol,
                &self.0.name,
                what,
                format!(
                    "it has {} bytes, {READ_BYTES_MAX} at most were expected",
                    result.meta.size
                ),
            ));
        }
        let version = Version::of(self.0.provider, &result.meta);
        let bytes = result.bytes().await;
        let bytes = bytes.map_err(|error| RemoteError::of(&self.0.name, what, &error))?;
        Ok((bytes, version))
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// The store's.
    pub async fn head(&self, name: &str) -> Result<Entry, RemoteError> {
        let path = self.path(name)?;
        let what = format!("head {name}");
        let found = again!(self, &what, {
            let options = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            self.0.store.get(&path, options)
        })?
        .meta;
        Ok(Entry {
            name: name.to_owned(),
            bytes: found.size,
            etag: found.e_tag.map(quoted),
            modified: found.last_modified.into(),
        })
    }

    /// Writes a file in one request.
    ///
    /// # Errors
    /// The store's, or that it is there already. After a timeout it may have been written, and a second try may find what
    /// the first has made.
    pub async fn put(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<(), RemoteError> {
        let path = self.path(name)?;
        let mode = match mode {
            PutMode::Overwrite => StorePutMode::Overwrite,
            PutMode::Create => StorePutMode::Create,
            PutMode::Replace(Version(version)) => StorePutMode::Update(version),
        };
        let put = again!(self, &format!("put {name}"), {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.0.store.put(&path, payload, mode.clone().into())
        });
        put.map(drop)
    }

    /// Removes a file. One that is not there is removed already.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, name: &str) -> Result<(), RemoteError> {
        let path = self.path(name)?;
        let what = format!("delete {name}");
        match again!(self, &what, self.0.store.delete(&path)) {
            Err(error) if error.kind() == RemoteErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Begins to write a file in parts. It is there when the upload is completed, and not before.
    ///
    /// # Errors
    /// The store's.
    pub async fn upload(&self, name: &str) -> Result<Upload, RemoteError> {
        let path = self.path(name)?;
        let what = format!("begin to write {name}");
        let id = again!(self, &what, self.0.store.begin(&path))?;
        Ok(Upload {
            bucket: self.clone(),
            name: name.to_owned(),
            path,
            id,
            parts: BTreeMap::new(),
        })
    }
}

/// A file that is being written in parts. One that is neither completed nor aborted stays at the store, until its rules
/// remove it; at Azure it is gone after a week, and nothing can be aborted.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    name: String,
    path: Path,
    id: MultipartId,
    parts: BTreeMap<usize, PartId>,
}

impl Upload {
    /// Parts are no smaller, in bytes, but for the last one.
    pub const PART_BYTES_MIN: u64 = 5 << 20;
    /// There are no more of them.
    pub const PARTS_MAX: u64 = 10_000;

    /// Writes a part, the first being 0. They may come in any order, and all but the last have the same length, which some
    /// stores ask for.
    ///
    /// # Errors
    /// The store's.
    pub async fn part(&mut self, number: usize, bytes: Bytes) -> Result<(), RemoteError> {
        let store = &self.bucket.0.store;
        let what = format!("write part {number} of {}", self.name);
        let part = again!(self.bucket, &what, {
            let payload = PutPayload::from_bytes(bytes.clone());
            store.part(&self.path, &self.id, number, payload)
        })?;
        self.parts.insert(number, part);
        Ok(())
    }

    /// Ends it: the file is there.
    ///
    /// # Errors
    /// The store's, or that a part was left out. After a timeout the file may be there all the same.
    pub async fn complete(&self) -> Result<(), RemoteError> {
        let store = &self.bucket.0.store;
        let what = format!("complete {}", self.name);
        if self
            .parts
            .keys()
            .ne(&(0..self.parts.len()).collect::<Vec<_>>())
        {
            return Err(RemoteError::new(
                RemoteErrorKind::Other,
                &self.bucket.0.name,
                what,
                "a part was left out",
            ));
        }
        let parts: Vec<PartId> = self.parts.values().cloned().collect();
        let completed = again!(self.bucket, &what, {
            store.complete(&self.path, &self.id, parts.clone())
        });
        // How Google and Azure say that they know no such upload. Azure counts blocks, which are the file's now.
        let no_more = ["NoSuchUpload", "InvalidBlockList"];
        match completed {
            // The first of several tries was heard, and its answer was not.
            Err(error)
                if error.kind() == RemoteErrorKind::NotFound
                    || no_more.iter().any(|code| error.reason().contains(code)) =>
            {
                let found = self.bucket.head(&self.name).await;
                found.map(drop).map_err(|_| error)
            }
            completed => completed.map(drop),
        }
    }

    /// Gives it up. One that is no more is given up already.
    ///
    /// # Errors
    /// The store's.
    pub async fn abort(&self) -> Result<(), RemoteError> {
        let store = &self.bucket.0.store;
        let what = format!("give up {}", self.name);
        let aborted = again!(self.bucket, &what, store.abort(&self.path, &self.id));
        match aborted {
            Err(error) if error.kind() == RemoteErrorKind::NotFound => Ok(()),
            aborted => aborted,
        }
    }
}

type Stream = Pin<Box<dyn futures_core::Stream<Item = object_store::Result<Bytes>> + Send>>;

/// Bytes of a file, as they come.
pub struct Body {
    stream: Stream,
    left: u64,
    total_bytes: u64,
    etag: Option<String>,
    store: String,
    what: String,
}

impl Body {
    /// Bytes of the whole file.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What tells the file from another by its name.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The next bytes; `None` when all have come.
    pub async fn next(&mut self) -> Option<Result<Bytes, RemoteError>> {
        let wrong = |reason: String| {
            Some(Err(RemoteError::new(
                RemoteErrorKind::Protocol,
                &self.store,
                self.what.clone(),
                reason,
            )))
        };
        let next = std::future::poll_fn(|context| self.stream.as_mut().poll_next(context)).await;
        match next {
            None if self.left == 0 => None,
            None => wrong(format!("the body is {} bytes too short", self.left)),
            Some(Err(error)) => Some(Err(RemoteError::of(&self.store, self.what.clone(), &error))),
            Some(Ok(bytes)) => match self.left.checked_sub(bytes.len() as u64) {
                None => wrong("the body is too long".to_owned()),
                Some(left) => {
                    self.left = left;
                    Some(Ok(bytes))
                }
            },
        }
    }
}
