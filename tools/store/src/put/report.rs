//! What a put did.

use std::fmt;
use std::path::PathBuf;

use decode_kernel::code::CodeKind;
use decode_kernel::share::{Digest, Generation, Header, Metadata};
use serde::{Serialize, Serializer};

use crate::json;
use crate::size::Size;

/// The result of a put.
#[derive(Debug)]
pub struct PutReport {
    /// The header of share 0.
    pub header: Header,
    /// The path of each share that was written, by number.
    pub paths: Vec<PathBuf>,
    /// Shares that were not written, of an object that was put with fewer than n.
    pub missing: Vec<u16>,
    /// Files of older puts that were removed.
    pub replaced: usize,
    /// Stores that could not be written or have no room, and why: mostly the same for all puts of a run.
    pub passed_over: Vec<String>,
    /// What else did not go as it should: stores that failed, domains with too many shares.
    pub warnings: Vec<String>,
}

impl fmt::Display for PutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            key,
            geometry,
            code,
            digest,
            content_type,
            ..
        } = &self.header;
        let (k, n) = (geometry.k(), geometry.n());
        let size = geometry.size();
        write!(f, "put {key}: {}, {content_type}, ", Size(size))?;
        write!(f, "{code} {k}+{}, sha256 {digest}", n - k)?;
        if self.replaced > 0 {
            write!(f, ", replacing an older one")?;
        }
        if !self.missing.is_empty() {
            let written = usize::from(n) - self.missing.len();
            write!(
                f,
                "; {written} of {n} shares were written: `penstock repair` adds the others"
            )?;
        }
        Ok(())
    }
}

/// In JSON, what the headers have in common, and which shares were written where.
impl Serialize for PutReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PutReport {
            header,
            paths,
            missing,
            replaced,
            passed_over,
            warnings,
        } = self;
        let document = Document {
            size: header.geometry.size(),
            created: header.created,
            content_type: &header.content_type,
            digest: &header.digest,
            metadata: &header.metadata,
            generation: &header.generation,
            code: &header.code,
            k: header.geometry.k(),
            n: header.geometry.n(),
            shares: paths.len(),
            missing,
            paths: paths
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            replaced: *replaced,
            warnings: passed_over.iter().chain(warnings).collect(),
        };
        document.serialize(serializer)
    }
}

/// What JSON has of a [`PutReport`].
#[derive(Serialize)]
struct Document<'a> {
    size: u64,
    #[serde(serialize_with = "json::date")]
    created: u64,
    content_type: &'a str,
    #[serde(rename = "sha256", serialize_with = "json::text")]
    digest: &'a Digest,
    #[serde(flatten, serialize_with = "json::metadata")]
    metadata: &'a Metadata,
    #[serde(serialize_with = "json::text")]
    generation: &'a Generation,
    #[serde(serialize_with = "json::text")]
    code: &'a CodeKind,
    k: u16,
    n: u16,
    /// Shares that were written.
    shares: usize,
    missing: &'a [u16],
    paths: Vec<String>,
    replaced: usize,
    warnings: Vec<&'a String>,
}
