//! Opens what a request asks for, and describes it for the response's head.

use std::num::NonZeroU64;
use std::rc::Rc;

use super::answers::{self, Answer};
use crate::body::{Body, Resource, Sources};
use crate::http::head::{Context, Representation};
use crate::http::parse::Request;
use crate::http::route::{self, Route};
use crate::objects::Object;
use crate::objects::lines::Lines;

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
    Cache-Control: private, max-age=31536000, immutable\r\n";

/// Opens what a request asks for. The error is what it is answered with.
pub async fn open(
    sources: &Sources,
    request: &Request,
    context: &Context,
) -> Result<(Description, Body), Answer> {
    let resources = &sources.resources;
    let (text, name, save) = match route::route(request, resources.gateway.is_some(), &context.site)
    {
        Route::Key(path) => {
            let opened = resources.catalogue.open(&path, context.now).await;
            let object = opened.map_err(|error| answers::for_lookup(&error))?;
            let description = Description::Object(Rc::clone(&object));
            return Ok((description, Body::new(Resource::Object(object))));
        }
        Route::Cap { text, name, save } => (text, name, save),
    };
    let name = name.as_deref();
    if name.is_some_and(|name| name.len() > route::NAME_BYTES_MAX) {
        return Err(answers::NAME_TOO_LONG);
    }
    let opened = resources.open_cap(&sources.engine, &text).await;
    let content = opened.map_err(|error| answers::for_cap(&error))?;
    let disposition = route::disposition(name, save).map_or(String::new(), |value| {
        format!("Content-Disposition: {value}\r\n")
    });
    let description = Description::Named {
        size: content.size,
        etag: content.etag,
        content_type: route::content_type(name),
        fields: format!("{CAP_FIELDS}{disposition}"),
    };
    Ok((description, Body::new(content.resource)))
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
    fn content_fields(&self) -> &str {
        self.lines().map_or("", Lines::fields)
    }
    fn digest(&self) -> &str {
        self.lines().map_or("", Lines::digest)
    }
    fn checksum(&self) -> &str {
        self.lines().map_or("", Lines::checksum)
    }
    fn cache_control(&self) -> Option<&str> {
        self.lines().and_then(Lines::cache_control)
    }
    fn expires(&self) -> Option<u64> {
        match self {
            Description::Object(object) => object.header().metadata.expires.map(NonZeroU64::get),
            Description::Named { .. } => None,
        }
    }
}

impl Description {
    /// The lines of an object. Of what a cap stands for, no digest is known: its hashes are those of ciphertext.
    fn lines(&self) -> Option<&Lines> {
        match self {
            Description::Object(object) => Some(object.lines()),
            Description::Named { .. } => None,
        }
    }
}
