//! How types of other crates look in JSON. Texts that people wrote are as they are, since JSON escapes; the others look
//! as they do where they are printed.

use std::fmt::Display;
use std::path::Path;

use decode_kernel::share::Key;
use serde::Serializer;

/// What it displays as.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A path. What is not UTF-8 in it is replaced, as where it is printed.
pub(crate) fn path<S: Serializer>(
    path: impl AsRef<Path>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}

/// A key, which is not quoted as where it is printed.
pub(crate) fn key<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key.as_str())
}

/// Seconds since 1970 as RFC 3339.
pub(crate) fn date<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::date::rfc3339(*seconds))
}
