//! Opens what a request asks for, and describes it for the response's head.

use std::num::NonZeroU64;
use std::rc::Rc;

use bytes::Bytes;

use super::access::{self, Grant};
use super::answers::{self, Answer};
use super::core::Core;
use crate::body::{Body, Resource, Sources};
use crate::http::method::Method;
use crate::http::request::Request;
use crate::http::response::{Context, Representation};
use crate::http::route::{self, Route};
use crate::http::status::Status;
use crate::memory::budget::{Allowance, Claim};
use crate::objects::Object;
use crate::objects::lines::Lines;
use crate::s3;
use crate::s3::buckets::Operation;
use crate::s3::error::Code;
use crate::s3::overrides::Overrides;
use crate::s3::xml;

/// What a response's head says of a resource.
pub enum Description {
    /// An object's own.
    Object(Rc<Object>),
    /// An object's own, but for what the request says.
    Overridden {
        /// The object.
        object: Rc<Object>,
        /// What the request says.
        overrides: Overrides,
        /// The fields of the content.
        content_fields: String,
    },
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

/// What a request asks for, open.
pub enum Opened {
    /// An object, or what a cap stands for.
    Object(Description, Body),
    /// A document that was made for the request.
    Document {
        /// Bytes.
        length: u64,
        /// Further fields of the head.
        fields: String,
        /// Where its bytes come from.
        body: Body,
    },
}

/// Why a request is refused.
pub enum Refused {
    /// By the state of what it asks for.
    Answer(Answer),
    /// By who asks, or as S3 has it.
    S3(s3::error::Error),
}

impl From<Answer> for Refused {
    fn from(answer: Answer) -> Refused {
        Refused::Answer(answer)
    }
}

impl From<s3::error::Error> for Refused {
    fn from(error: s3::error::Error) -> Refused {
        Refused::S3(error)
    }
}

/// Opens what a request asks for, and says how many bytes per second it may be sent at most, if its link limits them. The
/// error is what it is answered with.
pub async fn open(
    core: &Core,
    request: &Request,
    context: &Context,
) -> Result<(Opened, Option<u64>), Refused> {
    let site = &context.site;
    if site.is_s3(request) {
        let grant = access::check(core, request, site, false)?;
        let opened = Box::pin(open_s3(core, request, context, &grant)).await?;
        return Ok((opened, grant.rate));
    }
    let route = route::route(request, core.sources.resources.gateway.is_some(), site);
    let grant = access::check(core, request, site, matches!(route, Route::Cap { .. }))?;
    let opened = match route {
        Route::Key(key) if !grant.opens(&key) => return Err(access::NOT_OPENED.into()),
        Route::Key(key) => match open_object(core, &key, false, request, context).await {
            // Signed in its fields, it is a request of S3's, and whoever made it took this for a bucket.
            Err(Refused::Answer((Status::NotFound, _)))
                if grant.of_client && !site.buckets.all().is_empty() =>
            {
                let reason = "there is no bucket with this name, nor an object with this key";
                return Err(s3::error::Error::new(Code::NoSuchBucket, reason).into());
            }
            opened => opened?,
        },
        Route::Cap { text, name, save } => {
            let opened = Box::pin(open_cap(&core.sources, &text, name.as_deref(), save));
            let (description, body) = opened.await?;
            Opened::Object(description, body)
        }
    };
    Ok((opened, grant.rate))
}

async fn open_object(
    core: &Core,
    key: &str,
    is_part: bool,
    request: &Request,
    context: &Context,
) -> Result<Opened, Refused> {
    let mut overrides = access::overrides(request, &context.site)?;
    if is_part {
        overrides.get_or_insert_default().is_part = true;
    }
    let opened = core
        .sources
        .resources
        .catalogue
        .open(key, context.now)
        .await;
    let (handle, object) = opened.map_err(|error| answers::for_lookup(&error))?;
    let description = match overrides {
        None => Description::Object(Rc::clone(&object)),
        Some(overrides) => Description::Overridden {
            object: Rc::clone(&object),
            content_fields: overrides.replace(object.lines().fields()),
            overrides,
        },
    };
    Ok(Opened::Object(
        description,
        Body::new(Resource::Object(handle)),
    ))
}

/// Opens what a request of S3 asks for.
async fn open_s3(
    core: &Core,
    request: &Request,
    context: &Context,
    grant: &Grant,
) -> Result<Opened, Refused> {
    let site = &context.site;
    let is_head = request.method == Method::Head;
    let operation = site
        .buckets
        .operation(is_head, &request.path, &request.query);
    let refused = || Refused::S3(access::NOT_OPENED);
    let document = match operation.ok_or_else(refused)?? {
        Operation::Object { key, .. } if !grant.opens(&key) => return Err(refused()),
        Operation::Object { is_part: true, .. } if request.ranges.is_some() => {
            return Err(Refused::S3(s3::error::Error::new(
                Code::InvalidRequest,
                "a request asks for a Range or for a partNumber, not for both",
            )));
        }
        Operation::Object { key, is_part } => {
            return open_object(core, &key, is_part, request, context).await;
        }
        Operation::ListBuckets => {
            let all = site.buckets.all().iter();
            xml::buckets(all.filter(|bucket| grant.opens_some(&bucket.prefix)))
        }
        Operation::Location(bucket) | Operation::HeadBucket(bucket)
            if !grant.opens_some(&bucket.prefix) =>
        {
            return Err(refused());
        }
        Operation::Location(_) => xml::location(site.buckets.region()),
        Operation::HeadBucket(_) => {
            return Ok(Opened::Document {
                length: 0,
                fields: format!("x-amz-bucket-region: {}\r\n", site.buckets.region()),
                body: Body::new(Resource::Literal(Bytes::new())),
            });
        }
        Operation::List(bucket, query) => {
            if !grant.opens(&format!("{}{}", bucket.prefix, query.prefix)) {
                return Err(refused());
            }
            let (page, claim) = core.signing.lister.list(bucket, *query).await?;
            return Ok(made(page, claim));
        }
    };
    let mut claim = Claim::empty(core.lender.budget());
    match claim.resize(document.capacity() as u64, Allowance::Eighth) {
        true => Ok(made(document, claim)),
        false => Err(Refused::S3(s3::error::Error::new(
            Code::SlowDown,
            "this server is short of memory",
        ))),
    }
}

fn made(document: Vec<u8>, claim: Claim) -> Opened {
    Opened::Document {
        length: document.len() as u64,
        fields: String::new(),
        body: Body::new(Resource::Document(document.into(), claim)),
    }
}

async fn open_cap(
    sources: &Sources,
    text: &str,
    name: Option<&str>,
    save: bool,
) -> Result<(Description, Body), Answer> {
    if name.is_some_and(|name| name.len() > route::NAME_BYTES_MAX) {
        return Err(answers::NAME_TOO_LONG);
    }
    let opened = sources.resources.open_cap(&sources.engine, text).await;
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
            Description::Object(object) | Description::Overridden { object, .. } => {
                object.geometry().size()
            }
            Description::Named { size, .. } => *size,
        }
    }
    fn etag(&self) -> &str {
        match self {
            Description::Object(object) | Description::Overridden { object, .. } => object.etag(),
            Description::Named { etag, .. } => etag,
        }
    }
    fn content_type(&self) -> &str {
        match self {
            Description::Overridden {
                overrides:
                    Overrides {
                        content_type: Some(content_type),
                        ..
                    },
                ..
            } => content_type,
            Description::Object(object) | Description::Overridden { object, .. } => {
                &object.header().content_type
            }
            Description::Named { content_type, .. } => content_type,
        }
    }
    fn modified(&self) -> Option<u64> {
        match self {
            Description::Object(object) | Description::Overridden { object, .. } => {
                Some(object.header().created)
            }
            Description::Named { .. } => None,
        }
    }
    fn fields(&self) -> &str {
        match self {
            Description::Object(_) => "",
            Description::Overridden { overrides, .. } => {
                overrides.expires.as_deref().unwrap_or_default()
            }
            Description::Named { fields, .. } => fields,
        }
    }
    fn is_part(&self) -> bool {
        matches!(self, Description::Overridden { overrides, .. } if overrides.is_part)
    }
    fn content_fields(&self) -> &str {
        match self {
            Description::Overridden { content_fields, .. } => content_fields,
            _ => self.lines().map_or("", Lines::fields),
        }
    }
    fn digest(&self) -> &str {
        self.lines().map_or("", Lines::digest)
    }
    fn checksum(&self) -> &str {
        self.lines().map_or("", Lines::checksum)
    }
    fn cache_control(&self) -> Option<&str> {
        let own = self.lines().and_then(Lines::cache_control);
        match self {
            Description::Overridden { overrides, .. } => overrides.cache_control.as_deref().or(own),
            _ => own,
        }
    }
    fn expires(&self) -> Option<u64> {
        match self {
            Description::Object(object) | Description::Overridden { object, .. } => {
                object.header().metadata.expires.map(NonZeroU64::get)
            }
            Description::Named { .. } => None,
        }
    }
}

impl Description {
    /// The lines of an object. Of what a cap stands for, no digest is known: its hashes are those of ciphertext.
    fn lines(&self) -> Option<&Lines> {
        match self {
            Description::Object(object) | Description::Overridden { object, .. } => {
                Some(object.lines())
            }
            Description::Named { .. } => None,
        }
    }
}
