//! What a request is answered with: an object of the stores, a file of a grid, or the content of a cap.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use decode_kernel::sha256::sha256d;
use decode_kernel::tahoe::Cap;

use crate::core::Core;
use crate::http::parse::Request;
use crate::http::respond::{Entity, Status};
use crate::http::route::{self, Route};
use crate::object::{Object, OpenFailure};
use crate::plan::Slice;
use crate::produce::{self, Piece, ProduceError};
use crate::tahoe;

/// Something that can be served.
pub enum Resource {
    /// An object of the stores.
    Object(Rc<Object>),
    /// What a cap stands for, as this request names it.
    Cap(Box<Named>),
}

/// What a cap stands for, under a name.
pub struct Named {
    content: Content,
    etag: String,
    content_type: String,
    fields: String,
}

enum Content {
    File(Rc<tahoe::file::File>),
    Literal(Bytes),
}

/// Fields of every response that shows what a cap stands for. The address is the secret that opens the
/// file, so it goes nowhere else; the bytes never change.
const CAP_FIELDS: &str = "Referrer-Policy: no-referrer\r\n\
    Cache-Control: private, max-age=31536000, immutable\r\n\
    X-Content-Type-Options: nosniff\r\n";

/// Finds what a request asks for.
pub async fn open(core: &Core, request: &Request) -> Result<Resource, OpenFailure> {
    match route::route(request, core.gateway.is_some()) {
        Route::Key(path) => core.catalogue.open(path).await.map(Resource::Object),
        Route::Cap { text, name, save } => {
            let named = open_cap(core, &text, name.as_deref(), save).await?;
            Ok(Resource::Cap(Box::new(named)))
        }
    }
}

async fn open_cap(
    core: &Core,
    text: &str,
    name: Option<&str>,
    save: bool,
) -> Result<Named, OpenFailure> {
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
    let (content, etag) = match cap {
        Cap::Lit(content) => {
            let hash = sha256d(&[&content]);
            let etag = format!("\"lit-{}\"", tahoe::tag(&hash));
            (Content::Literal(content.into()), etag)
        }
        Cap::Chk(cap) => {
            let Some(gateway) = &core.gateway else {
                return Err(failure(Status::NotFound, "no such object"));
            };
            let file = gateway.open(core, cap).await?;
            let etag = file.etag.clone();
            (Content::File(file), etag)
        }
    };
    let disposition = route::disposition(name, save).map_or(String::new(), |value| {
        format!("Content-Disposition: {value}\r\n")
    });
    Ok(Named {
        content,
        etag,
        content_type: route::content_type(name),
        fields: format!("{CAP_FIELDS}{disposition}"),
    })
}

impl Resource {
    /// Produces the first part of `wanted` that fits one pool buffer.
    pub async fn produce(&self, core: &Core, wanted: Range<u64>) -> Result<Piece, ProduceError> {
        match self {
            Resource::Object(object) => produce::produce(core, object, wanted).await,
            Resource::Cap(named) => match (&named.content, &core.gateway) {
                (Content::File(file), Some(gateway)) => {
                    tahoe::piece::produce(core, gateway, file, wanted).await
                }
                (Content::Literal(bytes), _) => literal(core, bytes, wanted).await,
                (Content::File(_), None) => Err(ProduceError::Interrupted),
            },
        }
    }

    /// What it is called in a log.
    pub fn name(&self) -> String {
        match self {
            Resource::Object(object) => object.header().key.to_string(),
            Resource::Cap(named) => match &named.content {
                Content::File(file) => format!("storage index {}", file.storage_index),
                Content::Literal(_) => "a literal file".to_owned(),
            },
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
        windows,
        slices: vec![Slice {
            window: 0,
            bytes: 0..part.len(),
        }],
    })
}

impl Entity for Resource {
    fn size(&self) -> u64 {
        match self {
            Resource::Object(object) => object.size(),
            Resource::Cap(named) => match &named.content {
                Content::File(file) => file.geometry.size(),
                Content::Literal(bytes) => bytes.len() as u64,
            },
        }
    }
    fn etag(&self) -> &str {
        match self {
            Resource::Object(object) => object.etag(),
            Resource::Cap(named) => &named.etag,
        }
    }
    fn content_type(&self) -> &str {
        match self {
            Resource::Object(object) => object.content_type(),
            Resource::Cap(named) => &named.content_type,
        }
    }
    fn modified(&self) -> Option<u64> {
        match self {
            Resource::Object(object) => object.modified(),
            Resource::Cap(_) => None,
        }
    }
    fn fields(&self) -> &str {
        match self {
            Resource::Object(_) => "",
            Resource::Cap(named) => &named.fields,
        }
    }
}
