//! What a request is answered with: an object of the stores, a file of a grid, or the content of a cap.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use decode_kernel::sha256::sha256d;
use decode_kernel::tahoe::Cap;

use crate::body::produce::{self, Piece, ProduceError};
use crate::body::readahead::Stretch;
use crate::connection::core::Core;
use crate::engine::plan::Slice;
use crate::http::head::Representation;
use crate::http::parse::Request;
use crate::http::route::{self, Route};
use crate::http::status::Status;
use crate::io::pool::Chunk;
use crate::objects::object::{Object, OpenFailure};
use crate::tahoe;

/// Something that can be served: where the bytes of a body come from.
pub enum Resource {
    /// An object of the stores.
    Object(Rc<Object>),
    /// A file of a grid.
    File(Rc<tahoe::file::File>),
    /// What a cap holds itself.
    Literal(Bytes),
}

/// What a response's head says of a resource.
pub enum Description {
    /// An object's own.
    Object(Rc<Object>),
    /// Of what a cap stands for, as this request names it.
    Named {
        /// Bytes.
        size: u64,
        /// The entity tag, quotes included.
        etag: String,
        /// The media type.
        content_type: String,
        /// Further fields.
        fields: String,
    },
}

/// Fields of every response that shows what a cap stands for. The address is the secret that opens the
/// file, so it goes nowhere else; the bytes never change.
const CAP_FIELDS: &str = "Referrer-Policy: no-referrer\r\n\
    Cache-Control: private, max-age=31536000, immutable\r\n\
    X-Content-Type-Options: nosniff\r\n";

/// Finds what a request asks for.
pub async fn open(core: &Core, request: &Request) -> Result<(Description, Resource), OpenFailure> {
    match route::route(request, core.gateway.is_some()) {
        Route::Key(path) => {
            let object = core.catalogue.open(path).await?;
            let description = Description::Object(Rc::clone(&object));
            Ok((description, Resource::Object(object)))
        }
        Route::Cap { text, name, save } => open_cap(core, &text, name.as_deref(), save).await,
    }
}

async fn open_cap(
    core: &Core,
    text: &str,
    name: Option<&str>,
    save: bool,
) -> Result<(Description, Resource), OpenFailure> {
    let failure = |status, reason| OpenFailure { status, reason };
    if name.is_some_and(|name| name.len() > route::NAME_BYTES_MAX) {
        return Err(failure(
            Status::BadRequest,
            "a file name has at most 255 bytes",
        ));
    }
    let cap = Cap::parse(text).map_err(|error| match error.unsupported() {
        true => failure(
            Status::NotImplemented,
            "only immutable files are served here: URI:CHK and URI:LIT read-caps",
        ),
        false => failure(
            Status::BadRequest,
            "this is not a read-cap: URI:CHK:key:hash:k:n:size or URI:LIT:content",
        ),
    })?;
    let (size, etag, resource) = match cap {
        Cap::Lit(content) => {
            let etag = format!("\"lit-{}\"", tahoe::tag(&sha256d(&[&content])));
            (
                content.len() as u64,
                etag,
                Resource::Literal(content.into()),
            )
        }
        Cap::Chk(cap) => {
            let Some(gateway) = &core.gateway else {
                return Err(failure(Status::NotFound, "no such object"));
            };
            let etag = format!("\"{}-{}\"", cap.storage_index(), tahoe::tag(cap.ueb_hash()));
            let file = gateway.open(core, cap).await?;
            (file.geometry.size(), etag, Resource::File(file))
        }
    };
    let disposition = route::disposition(name, save).map_or(String::new(), |value| {
        format!("Content-Disposition: {value}\r\n")
    });
    let description = Description::Named {
        size,
        etag,
        content_type: route::content_type(name),
        fields: format!("{CAP_FIELDS}{disposition}"),
    };
    Ok((description, resource))
}

impl Resource {
    /// Produces the first part of `wanted` that fits one pool buffer, from what was read `ahead` of it as far as that goes.
    pub async fn produce(
        &self,
        core: &Core,
        wanted: Range<u64>,
        ahead: Option<&Stretch>,
    ) -> Result<Piece, ProduceError> {
        match (self, &core.gateway) {
            (Resource::Object(object), _) => produce::produce(core, object, wanted, ahead).await,
            (Resource::File(file), Some(gateway)) => {
                tahoe::piece::produce(core, gateway, file, wanted).await
            }
            (Resource::Literal(bytes), _) => literal(core, bytes, wanted).await,
            (Resource::File(_), None) => Err(ProduceError::Interrupted),
        }
    }

    /// Does what has to be done before a piece that begins at `start` can be produced, and may take long: the
    /// segment of a grid's file is verified, or waited for while another request has that done.
    pub async fn prepare(&self, core: &Core, start: u64) -> Result<(), ProduceError> {
        if let (Resource::File(file), Some(gateway)) = (self, &core.gateway) {
            let segment = file.geometry.segment_of(start);
            gateway.record(core, file, segment).await?;
        }
        Ok(())
    }

    /// What it is called in a log.
    pub fn name(&self) -> String {
        match self {
            Resource::Object(object) => object.header().key.to_string(),
            Resource::File(file) => format!("storage index {}", file.storage_index),
            Resource::Literal(_) => "a literal file".to_owned(),
        }
    }
}

/// A part of a literal file, as a piece like any other.
async fn literal(core: &Core, bytes: &Bytes, wanted: Range<u64>) -> Result<Piece, ProduceError> {
    let part = &bytes[wanted.start as usize..wanted.end as usize];
    let part = &part[..part.len().min(core.pool.piece_capacity())];
    let (mut windows, _) = core.pool.take().await.carve(std::iter::once(part.len()));
    windows[0].copy_from_slice(part);
    Ok(Piece {
        range: wanted.start..wanted.start + part.len() as u64,
        chunks: windows.into_iter().map(Chunk::Own).collect(),
        slices: vec![Slice {
            window: 0,
            bytes: 0..part.len(),
        }],
    })
}

impl Representation for Description {
    fn size(&self) -> u64 {
        match self {
            Description::Object(object) => object.geometry().size(),
            Description::Named { size, .. } => *size,
        }
    }
    fn etag(&self) -> &str {
        match self {
            Description::Object(object) => object.etag(),
            Description::Named { etag, .. } => etag,
        }
    }
    fn content_type(&self) -> &str {
        match self {
            Description::Object(object) => &object.header().content_type,
            Description::Named { content_type, .. } => content_type,
        }
    }
    fn modified(&self) -> Option<u64> {
        match self {
            Description::Object(object) => Some(object.header().created),
            Description::Named { .. } => None,
        }
    }
    fn fields(&self) -> &str {
        match self {
            Description::Object(_) => "",
            Description::Named { fields, .. } => fields,
        }
    }
}
