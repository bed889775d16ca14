//! The files that buckets have, whatever interface they are asked for by.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
    RANGE,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;

use crate::parse_range;

/// The directory, beside the buckets, of uploads that are not completed.
pub(crate) const UPLOADS: &str = ".uploads";
/// Google's version of a file, and the condition on it.
const GENERATION: &str = "x-goog-generation";
const IF_GENERATION: &str = "x-goog-if-generation-match";

pub(crate) type Answer = Response<Full<Bytes>>;

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
