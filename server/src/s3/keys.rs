//! Key pairs: who may sign requests, read from a file that only the server's user may read.
//!
//! ```toml
//! [[key]]
//! id = "AKIAEXAMPLE"
//! secret = "at least sixteen characters"
//! prefix = "media/"                    # optional: only keys of objects that begin like this
//! not_after = 2027-01-01T00:00:00Z     # optional: from then on it counts no more
//! ```
//!
//! Any number of pairs is valid at one time, so one is changed for another without a gap: add the new one, sign with it,
//! take the old one away. Secrets are wiped from memory when they are dropped, and nothing prints them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use serde::Deserialize;
use zeroize::Zeroizing;

/// A longer file is no list of key pairs.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Pairs in one file.
const KEYS_MAX: usize = 4096;
/// The longest id and the longest secret.
const TEXT_BYTES_MAX: usize = 128;
/// The shortest secret. Whoever has one signed link can try secrets until one fits, at home and as fast as he likes.
const SECRET_BYTES_MIN: usize = 16;

/// A key pair.
pub struct Key {
    id: String,
    secret: Zeroizing<String>,
    prefix: Option<Arc<str>>,
    not_after: Option<SystemTime>,
}

impl Key {
    /// Its public part.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its secret part. Not to be shown to anybody.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// How keys of objects begin that it opens; `None` if it opens all.
    pub fn prefix(&self) -> Option<&Arc<str>> {
        self.prefix.as_ref()
    }

    /// Whether it counts at this time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_after.is_none_or(|end| now < end)
    }
}

/// Shows the id alone.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// All key pairs.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// Why there are no key pairs. Never shows what stands in the file, since that is secret.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Signatures are required, and there are no key pairs.
    #[error("--require-signature: nobody can sign without a --keys-file")]
    Required,
    /// It can't be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not a regular file.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// Other users may read or change it.
    #[error("{}: every user of the machine may read or change the secrets in it (mode {mode:04o}): chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is too long.
    #[error("{} is longer than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// It is not written as it should be.
    #[error("{}, line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

const FORM: &str = "it must hold tables [[key]] with id = \"…\" and secret = \"…\", and perhaps prefix = \"…\" and \
                    not_after = 2027-01-01T00:00:00Z";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    key: Vec<toml::Spanned<KeyForm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyForm {
    id: String,
    secret: String,
    prefix: Option<String>,
    not_after: Option<toml::value::Datetime>,
}

impl Keys {
    /// Reads the file of key pairs, if there is one; there must be if signatures are `required`.
    ///
    /// # Errors
    /// As [`Keys::load`], or if there are none and some are needed.
    pub fn of(path: Option<&Path>, required: bool) -> Result<Keys, KeysError> {
        match path {
            Some(path) => Keys::load(path),
            None if required => Err(KeysError::Required),
            None => Ok(Keys::default()),
        }
    }

    /// Reads a file of key pairs.
    ///
    /// # Errors
    /// If it can't be read, if every user may read or change it, or if it is not written as it should be.
    pub fn load(path: &Path) -> Result<Keys, KeysError> {
        let text = read(path)?;
        Keys::parse(&text).map_err(|(at, reason)| KeysError::Syntax {
            path: path.to_owned(),
            line: 1 + text.as_bytes()[..at.min(text.len())]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count(),
            reason,
        })
    }

    /// Reads the text of such a file. The error has the place of what is wrong with it.
    fn parse(text: &str) -> Result<Keys, (usize, String)> {
        let file: FileForm = toml::from_str(text).map_err(|error| {
            // Its own message would show a secret that is not a string.
            (error.span().unwrap_or_default().start, FORM.to_owned())
        })?;
        if file.key.is_empty() {
            return Err((0, format!("there is no key in it; {FORM}")));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(file.key.len());
        for form in file.key {
            let at = form.span().start;
            let key = form.into_inner().check().map_err(|why| (at, why))?;
            if keys.len() == KEYS_MAX {
                return Err((at, format!("there are more than {KEYS_MAX} keys")));
            }
            if keys.iter().any(|other| other.id == key.id) {
                return Err((at, format!("the id {} is there twice", key.id)));
            }
            keys.push(key);
        }
        Ok(Keys(keys))
    }

    /// The pair with this id.
    pub fn find(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    /// The only pair, if there is one only.
    pub fn only(&self) -> Option<&Key> {
        match &self.0[..] {
            [key] => Some(key),
            _ => None,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl KeyForm {
    fn check(self) -> Result<Key, String> {
        let secret = Zeroizing::new(self.secret);
        let of_an_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+=@".contains(&byte);
        if self.id.is_empty() || self.id.len() > TEXT_BYTES_MAX || !self.id.bytes().all(of_an_id) {
            return Err(format!(
                "an id has 1 to {TEXT_BYTES_MAX} letters, digits and -_.+=@"
            ));
        }
        if !(SECRET_BYTES_MIN..=TEXT_BYTES_MAX).contains(&secret.len()) {
            return Err(format!(
                "the secret of {} must have {SECRET_BYTES_MIN} to {TEXT_BYTES_MAX} bytes",
                self.id
            ));
        }
        let not_after = match self.not_after {
            None => None,
            Some(date) => Some(humantime::parse_rfc3339(&date.to_string()).map_err(|_| {
                format!(
                    "not_after of {} must be a time in UTC, such as 2027-01-01T00:00:00Z",
                    self.id
                )
            })?),
        };
        Ok(Key {
            id: self.id,
            secret,
            prefix: self
                .prefix
                .filter(|prefix| !prefix.is_empty())
                .map(Arc::from),
            not_after,
        })
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let failed = |error| KeysError::Read {
        path: path.to_owned(),
        error,
    };
    // A pipe would be waited for.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(KeysError::NotAFile(path.to_owned()));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o007 != 0 {
        let path = path.to_owned();
        return Err(KeysError::Open { path, mode });
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(KeysError::TooLong(path.to_owned()));
    }
    // With room for all of it: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    match text.len() as u64 <= FILE_BYTES_MAX {
        true => Ok(text),
        false => Err(KeysError::TooLong(path.to_owned())),
    }
}

/// The key pairs that count now, shared by the cores. They may be exchanged while the server runs.
#[derive(Debug, Default)]
pub struct KeyRing(RwLock<Arc<Keys>>);

impl KeyRing {
    /// Starts with these.
    pub fn new(keys: Keys) -> KeyRing {
        KeyRing(RwLock::new(Arc::new(keys)))
    }

    /// The pairs that count now.
    pub fn get(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these count.
    pub fn set(&self, keys: Keys) {
        let keys = Arc::new(keys);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    const SECRET: &str = "s3cr3t-of-sixteen-and-more";

    fn load(text: &str, mode: u32) -> Result<Keys, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Keys::load(&path).map_err(|error| {
            let error = error.to_string();
            error.replace(&path.display().to_string(), "FILE")
        })
    }

    #[test]
    fn two_pairs_count_at_one_time() {
        let text = format!(
            "[[key]]\nid = \"old\"\nsecret = \"{SECRET}\"\nnot_after = 2027-01-01T00:00:00Z\n\n\
             [[key]]\nid = \"new\"\nsecret = \"{SECRET}2\"\nprefix = \"media/\"\n"
        );
        let keys = load(&text, 0o640).unwrap();
        let old = keys.find("old").unwrap();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600);
        assert!(old.is_valid(end - Duration::from_secs(1)) && !old.is_valid(end));
        assert_eq!((old.secret(), old.prefix()), (SECRET, None));
        let new = keys.find("new").unwrap();
        assert_eq!(new.prefix().map(|prefix| &**prefix), Some("media/"));
        assert!(new.is_valid(end) && keys.find("none").is_none());
        assert!(keys.only().is_none());
        assert!(!format!("{keys:?}").contains(SECRET));
        let ring = KeyRing::new(keys);
        let before = ring.get();
        ring.set(Keys::default());
        assert_eq!((before.count(), ring.get().count()), (2, 0));
    }

    #[test]
    fn a_file_that_others_may_read_or_write_is_refused() {
        let text = format!("[[key]]\nid = \"a\"\nsecret = \"{SECRET}\"\n");
        for mode in [0o644, 0o604, 0o602] {
            let error = load(&text, mode).unwrap_err();
            assert!(error.contains("chmod 600"), "{error}");
        }
        assert_eq!(load(&text, 0o600).unwrap().only().unwrap().id(), "a");
    }

    #[test]
    fn errors_tell_the_line_and_no_secret() {
        for (text, line, part) in [
            ("", 1, "no key"),
            ("[[key]]\nid = \"a\"\n", 1, "secret"),
            ("[[key]]\nid = \"a\"\nsecret = \"hunter2\"\n", 1, "16 to"),
            ("\n[[key]]\nid = \"a\"\nsecret = 123456\n", 4, "must hold"),
            (
                "[[key]]\nid = \"a\"\nsecret = \"hunter2-hunter2-hunter2\n",
                3,
                "must hold",
            ),
            (
                "[[key]]\nid = \"a/b\"\nsecret = \"hunter2-hunter2-hunter2\"\n",
                1,
                "letters",
            ),
            (
                "[[key]]\nid = \"a\"\nsecret = \"hunter2-hunter2-hunter2\"\nsecert = \"x\"\n",
                4,
                "must hold",
            ),
            (
                "[[key]]\nid = \"a\"\nsecret = \"hunter2-hunter2-hunter2\"\nnot_after = 2027-01-01\n",
                1,
                "UTC",
            ),
            (
                "[[key]]\nid = \"a\"\nsecret = \"hunter2-hunter2-hunter2\"\n[[key]]\nid = \"a\"\nsecret = \"hunter2-hunter2-hunter2\"\n",
                4,
                "twice",
            ),
        ] {
            let error = load(text, 0o600).unwrap_err();
            assert!(
                error.starts_with(&format!("FILE, line {line}: ")),
                "{error}"
            );
            assert!(error.contains(part), "{error}");
            assert!(
                !error.contains("hunter2") && !error.contains("123456"),
                "{error}"
            );
        }
        let missing = Keys::load(Path::new("no-such-file")).unwrap_err();
        assert!(missing.to_string().contains("no-such-file"));
        let dir = tempfile::tempdir().unwrap();
        let error = Keys::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }
}
