//! What a response carries: an object of the stores, a Tahoe-LAFS file, or the content of a cap.

use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use decode_kernel::sha256::sha256d;
use decode_kernel::tahoe::Cap;

use super::batch::Batch;
use super::produce;
use crate::engine::{Engine, Piece, PieceError};
use crate::memory::budget::Claim;
use crate::objects::{Catalogue, LookupError, Object, ObjectHandle};
use crate::tahoe::{self, FileHandle, Gateway};
use crate::units::ObjectOffset;

/// Where the bytes of a body come from. Share files may be closed while nobody works with it.
pub enum Resource {
    /// An object of the stores.
    Object(Rc<ObjectHandle>),
    /// A Tahoe-LAFS file.
    File(Rc<FileHandle>),
    /// What a cap holds itself.
    Literal(Bytes),
    /// A document that was made for one request, and the claim on its memory.
    Document(Bytes, Claim),
}

/// The same for one turn, with its share files open.
pub enum OpenResource {
    /// An object of the stores.
    Object(Rc<Object>),
    /// A Tahoe-LAFS file.
    File(Rc<tahoe::file::File>),
    /// Bytes that are in memory.
    Literal(Bytes),
}

/// What a cap stands for, as a response's head says it.
pub struct CapContent {
    /// Bytes.
    pub size: u64,
    /// The entity tag, quotes included.
    pub etag: String,
    /// Where the bytes come from.
    pub resource: Resource,
}

/// Why a cap can't be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// It is no read-cap of an immutable file.
    #[error("not a read-cap")]
    Malformed,
    /// It is a cap of a kind that is not served.
    #[error("not a cap of an immutable file")]
    Unsupported,
    /// Its file can't be served.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// The names that one core can open.
pub struct Resources {
    /// Objects, by key.
    pub catalogue: Catalogue,
    /// Tahoe-LAFS files, by cap, if they are served.
    pub gateway: Option<Gateway>,
}

impl Resources {
    /// Opens what a cap's text stands for.
    ///
    /// # Errors
    /// [`CapError`]. The cap is a secret: no error tells it.
    pub async fn open_cap(&self, engine: &Engine, text: &str) -> Result<CapContent, CapError> {
        let cap = Cap::parse(text).map_err(|error| match error.unsupported() {
            true => CapError::Unsupported,
            false => CapError::Malformed,
        })?;
        match cap {
            Cap::Lit(content) => Ok(CapContent {
                size: content.len() as u64,
                etag: format!("\"lit-{}\"", tahoe::tag(&sha256d(&[&content]))),
                resource: Resource::Literal(content.into()),
            }),
            Cap::Chk(cap) => {
                let gateway = self.gateway.as_ref().ok_or(LookupError::NotFound)?;
                let tag = tahoe::tag(cap.ueb_hash());
                let etag = format!("\"{}-{tag}\"", cap.storage_index());
                let (handle, file) = gateway.open(engine, cap).await?;
                Ok(CapContent {
                    size: file.geometry.size(),
                    etag,
                    resource: Resource::File(handle),
                })
            }
        }
    }

    /// Closes what nobody asked for in a while.
    pub fn close_unused(&self, now: Instant) {
        self.catalogue.close_unused(now);
        if let Some(gateway) = &self.gateway {
            gateway.close_unused(now);
        }
    }

    /// Opens the files of a resource again that were closed while its clients waited.
    ///
    /// # Errors
    /// As for a request, or that it is not there any more.
    pub async fn reopen(
        &self,
        engine: &Engine,
        resource: &Resource,
    ) -> Result<OpenResource, LookupError> {
        match (resource, &self.gateway) {
            (Resource::Object(handle), _) => {
                let object = self.catalogue.reopen(handle).await?;
                Ok(OpenResource::Object(object))
            }
            (Resource::File(handle), Some(gateway)) => {
                let file = gateway.reopen(engine, handle).await?;
                Ok(OpenResource::File(file))
            }
            (Resource::File(_), None) => Err(LookupError::NotFound),
            (Resource::Literal(bytes) | Resource::Document(bytes, _), _) => {
                Ok(OpenResource::Literal(bytes.clone()))
            }
        }
    }

    /// Does what has to be done before a piece of a resource that begins at `start` can be produced, and may take long:
    /// the segment of a Tahoe-LAFS file is verified, or waited for while another request has that done.
    pub async fn prepare(
        &self,
        engine: &Engine,
        resource: &OpenResource,
        start: ObjectOffset,
    ) -> Result<(), PieceError> {
        if let (OpenResource::File(file), Some(gateway)) = (resource, &self.gateway) {
            let segment = file.geometry.segment_of(start.0);
            gateway.record(engine, file, segment).await?;
        }
        Ok(())
    }

    /// Produces the first part of `wanted` that fits one pool buffer, from the `batch` that was read ahead as far as
    /// that holds it.
    pub async fn produce(
        &self,
        engine: &Engine,
        resource: &OpenResource,
        wanted: Range<ObjectOffset>,
        batch: Option<&Batch>,
    ) -> Result<Piece, PieceError> {
        match (resource, &self.gateway) {
            (OpenResource::Object(object), _) => {
                produce::produce(engine, object, wanted, batch).await
            }
            (OpenResource::File(file), Some(gateway)) => {
                tahoe::piece::produce(engine, gateway, file, wanted).await
            }
            (OpenResource::File(_), None) => Err(PieceError::Bug("a file without a gateway")),
            (OpenResource::Literal(bytes), _) => {
                let part = &bytes[wanted.start.0 as usize..wanted.end.0 as usize];
                Piece::literal(engine, wanted.start, part).await
            }
        }
    }
}

impl Resource {
    /// What it stands for, if that is open.
    pub fn open(&self, now: Instant) -> Option<OpenResource> {
        Some(match self {
            Resource::Object(handle) => OpenResource::Object(handle.open(now)?),
            Resource::File(handle) => OpenResource::File(handle.open(now)?),
            Resource::Literal(bytes) | Resource::Document(bytes, _) => {
                OpenResource::Literal(bytes.clone())
            }
        })
    }

    /// Whether shares of an object are missing, or given up. Of what a grid has, that is not known, and of an object that
    /// was closed neither.
    pub fn is_degraded(&self) -> bool {
        match self {
            Resource::Object(handle) => {
                let degraded =
                    |object: &Object| object.live_shares() < object.geometry().n().into();
                handle.peek(degraded).unwrap_or(false)
            }
            Resource::File(_) | Resource::Literal(_) | Resource::Document(..) => false,
        }
    }

    /// What it is called in a log, which quotes and escapes it as any text.
    pub fn name(&self) -> String {
        match self {
            Resource::Object(handle) => handle.name().key().to_owned(),
            Resource::File(handle) => format!("storage index {}", handle.name().storage_index()),
            Resource::Literal(_) => "a literal file".to_owned(),
            Resource::Document(..) => "a document".to_owned(),
        }
    }
}
