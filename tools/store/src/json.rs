//! How types of other crates look in JSON. Texts that people wrote are as they are, since JSON escapes; the others look
//! as they do where they are printed.

use std::fmt::Display;
use std::path::Path;

use decode_kernel::share::{Fields, Key, Metadata};
use serde::{Serialize, Serializer};

use crate::date::rfc3339;

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
    serializer.serialize_str(&rfc3339(*seconds))
}

/// What a put said of an object, to be flattened: what was not said is not there.
pub(crate) fn metadata<S: Serializer>(
    metadata: &Metadata,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Said<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        crc64nvme: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<String>,
        #[serde(skip_serializing_if = "Fields::is_empty", serialize_with = "fields")]
        fields: &'a Fields,
    }
    let said = Said {
        crc64nvme: metadata.crc64nvme_text(),
        expires: metadata.expires.map(|seconds| rfc3339(seconds.get())),
        fields: &metadata.fields,
    };
    said.serialize(serializer)
}

/// Header fields as an object.
fn fields<S: Serializer>(fields: &Fields, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter())
}
