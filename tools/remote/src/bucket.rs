//! The files of a store that is a bucket.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartId, ObjectStore as _, ObjectStoreExt as _,
    PutMode as StorePutMode, PutPayload, RetryConfig, UpdateVersion,
};
use tokio::time::sleep;

use crate::client::Client;
use crate::counts::Requests;
use crate::credentials;
use crate::error::{RemoteError, RemoteErrorKind};
use crate::transport::Service;
use crate::url::RemoteUrl;

/// How often a call that is not a GET is made again where the store has too much to do or can't be reached.
const TRIES: u32 = 4;
/// The pause before the second time; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// A file that is read whole is no longer.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Pages of one listing that may have no file: a store that gives more would be asked for ever.
const EMPTY_PAGES_MAX: usize = 32;
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
    /// It is replaced if this is its entity tag. Otherwise it stays, and writing fails in the same way.
    Replace(String),
}

/// A store that is a bucket. Clones are the same one.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    store: AmazonS3,
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
    /// A store by its URL. Keys come from the environment of the AWS tools or from their profile files, and from the
    /// machine's role otherwise. Asks nothing of the store.
    ///
    /// # Errors
    /// If the profile that is named can't be used, or there are no keys for a service that is not AWS's.
    pub fn open(url: &RemoteUrl, client: &Client) -> Result<Bucket, RemoteError> {
        Bucket::open_as(url, client, None)
    }

    /// The same, with these keys where there are some: id and secret.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open_as(
        url: &RemoteUrl,
        client: &Client,
        keys: Option<(String, String)>,
    ) -> Result<Bucket, RemoteError> {
        let name = url.to_string();
        let wrong =
            |reason: String| RemoteError::new(RemoteErrorKind::Other, &name, "credentials", reason);
        let requests = Arc::new(Requests::default());
        let service = Service {
            transport: client.transport.clone(),
            requests: Arc::clone(&requests),
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(url.bucket())
            .with_virtual_hosted_style_request(url.is_virtual_hosted())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // One by one: not every store knows the call that removes several.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            })
            .with_http_connector(service);
        let profile = match keys {
            Some(keys) => credentials::Profile {
                key: Some(keys),
                ..credentials::Profile::default()
            },
            None if credentials::in_environment() => credentials::Profile::default(),
            None => credentials::profile().map_err(wrong)?,
        };
        let has_key = profile.key.is_some();
        if let Some((id, secret)) = profile.key {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret);
        }
        if let Some(token) = profile.token {
            builder = builder.with_token(token);
        }
        let endpoint = url.endpoint().map(str::to_owned).or(profile.endpoint);
        if let Some(endpoint) = endpoint {
            // Elsewhere there are no roles: who was asked for one would give an answer that says nothing of keys.
            if !has_key && !credentials::in_environment() && !endpoint.contains(".amazonaws.com") {
                return Err(wrong(credentials::NONE.to_owned()));
            }
            // http only if the operator has written it.
            builder = builder
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint);
        }
        if let Some(region) = url.region().map(str::to_owned).or(profile.region) {
            builder = builder.with_region(region);
        }
        let store = builder
            .build()
            .map_err(|error| RemoteError::of(&name, "its settings", &error))?;
        Ok(Bucket(Arc::new(Inner {
            store,
            prefix: url.prefix(),
            name,
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
        let full = format!("{}{prefix}", self.0.prefix);
        let listed = again!(self, &format!("list {prefix}"), {
            let options = PaginatedListOptions {
                offset: after.map(|after| format!("{}{after}", self.0.prefix)),
                delimiter: dirs.then_some(Cow::Borrowed("/")),
                max_keys: Some(at_most.clamp(1, PAGE)),
                page_token: next.clone(),
                ..PaginatedListOptions::default()
            };
            self.0.store.list_paginated(Some(&full), options)
        })?;
        let short = |path: &Path| {
            let name = path.as_ref().strip_prefix(&self.0.prefix)?;
            Some(name.to_owned())
        };
        let files = listed.result.objects.iter().filter_map(|file| {
            Some(Entry {
                name: short(&file.location)?,
                bytes: file.size,
                etag: file.e_tag.clone(),
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
        let result = self.0.store.get_opts(&path, options).await;
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
            etag: result.meta.e_tag.clone(),
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
        self.read_tagged(name).await.map(|(bytes, _)| bytes)
    }

    /// The same, with its entity tag.
    ///
    /// # Errors
    /// As [`Bucket::read`].
    pub async fn read_tagged(&self, name: &str) -> Result<(Bytes, Option<String>), RemoteError> {
        let path = self.path(name)?;
        let what = format!("get {name}");
        let result = again!(self, &what, self.0.store.get(&path))?;
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
        let tag = result.meta.e_tag.clone();
        let bytes = result.bytes().await;
        let bytes = bytes.map_err(|error| RemoteError::of(&self.0.name, what, &error))?;
        Ok((bytes, tag))
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// The store's.
    pub async fn head(&self, name: &str) -> Result<Entry, RemoteError> {
        let path = self.path(name)?;
        let what = format!("head {name}");
        let found = again!(self, &what, self.0.store.head(&path))?;
        Ok(Entry {
            name: name.to_owned(),
            bytes: found.size,
            etag: found.e_tag,
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
            PutMode::Replace(etag) => StorePutMode::Update(UpdateVersion {
                e_tag: Some(etag),
                version: None,
            }),
        };
        let put = again!(self, &format!("put {name}"), {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.0.store.put_opts(&path, payload, mode.clone().into())
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
        let id = again!(self, &what, self.0.store.create_multipart(&path))?;
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
/// remove it.
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
            store.put_part(&self.path, &self.id, number, payload)
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
            store.complete_multipart(&self.path, &self.id, parts.clone())
        });
        match completed {
            // The first of several tries was heard, and its answer was not.
            Err(error) if error.kind() == RemoteErrorKind::NotFound => {
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
        let aborted = again!(
            self.bucket,
            &what,
            store.abort_multipart(&self.path, &self.id)
        );
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
