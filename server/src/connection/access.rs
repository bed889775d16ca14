//! Who may have what: the signature of a request, compared with the key pairs.

use std::time::SystemTime;

use super::core::Core;
use crate::http::request::Request;
use crate::http::site::Site;
use crate::http::target;
use crate::s3::error::{Code, Error};
use crate::s3::overrides::Overrides;
use crate::s3::sigv4::{self, Signature};

/// What a request may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// How the keys begin that it opens; `None` if it opens all.
    prefix: Option<std::sync::Arc<str>>,
    /// The most bytes per second that its link allows.
    pub rate: Option<u64>,
    /// Whether it is signed in its fields, as clients of S3 do, and not by a link.
    pub of_client: bool,
}

impl Grant {
    /// Whether it opens the object with this key, or all whose keys begin like this.
    pub fn opens(&self, key: &str) -> bool {
        let prefix = self.prefix.as_deref();
        prefix.is_none_or(|prefix| key.starts_with(prefix))
    }

    /// Whether it opens some of the objects whose keys begin like this.
    pub fn opens_some(&self, begin: &str) -> bool {
        let prefix = self.prefix.as_deref();
        self.opens(begin) || prefix.is_some_and(|prefix| prefix.starts_with(begin))
    }
}

/// What a signed request says of its response; only a signed one may.
///
/// # Errors
/// If it is not as it should be.
pub fn overrides(request: &Request, site: &Site) -> Result<Option<Overrides>, Error> {
    match request.signed {
        Some(_) => Overrides::read(&request.query),
        // For others than S3's clients the parameters of a query mean nothing.
        None if !site.is_s3(request) => Ok(None),
        None => match Overrides::read(&request.query)? {
            None => Ok(None),
            Some(_) => Err(Error::new(
                Code::InvalidRequest,
                "response- parameters are for signed requests only",
            )),
        },
    }
}

/// What it is refused with that the signature doesn't open.
pub const NOT_OPENED: Error = Error {
    code: Code::AccessDenied,
    message: std::borrow::Cow::Borrowed(
        "the key that the request is signed with does not open this",
    ),
    region: None,
};

/// What the signature of a request allows. A request without one may do everything, unless all must be signed; `has_cap`
/// says that it names its object by a secret, which is as good. A signature that is wrong is refused also where none was
/// needed.
///
/// # Errors
/// If the request is refused.
pub fn check(core: &Core, request: &Request, site: &Site, has_cap: bool) -> Result<Grant, Error> {
    let Some(head) = &request.signed else {
        return match site.require_signature && !has_cap {
            true => Err(Error::new(
                Code::AccessDenied,
                "requests must be signed here (AWS Signature Version 4)",
            )),
            false => Ok(Grant::default()),
        };
    };
    let unreadable = || Error::new(Code::InvalidRequest, "the request can't be read once more");
    sigv4::with_head(head, |signed| {
        let Some(signature) = sigv4::read(signed)? else {
            return Err(Error::new(
                Code::AccessDenied,
                "the signature can't be read",
            ));
        };
        // Keys of S3 are literal, so signers sign dots as they stand. Removed afterwards, they would make another key of it.
        let path = percent_encoding::percent_decode_str(signed.path).decode_utf8_lossy();
        if target::has_dot_segments(&path) {
            return Err(Error::new(
                Code::InvalidURI,
                "a path that is signed has no segments `.` and `..`",
            ));
        }
        check_region(&signature, site)?;
        let now = SystemTime::now();
        signature.check_time(now)?;
        let keys = core.signing.keys.get();
        let key = keys.find(&signature.key_id).filter(|key| key.is_valid(now));
        let key = key.ok_or(Error::new(
            Code::InvalidAccessKeyId,
            "the key id that the request is signed with is unknown here",
        ))?;
        signature.verify(signed, key.secret())?;
        Ok(Grant {
            prefix: key.prefix().cloned(),
            rate: signature.rate,
            of_client: signature.expires.is_none(),
        })
    })
    .ok_or_else(unreadable)?
}

fn check_region(signature: &Signature, site: &Site) -> Result<(), Error> {
    match site.buckets.region_wanted() {
        Some(region) if signature.region != region => Err(Error {
            code: match signature.expires {
                Some(_) => Code::AuthorizationQueryParametersError,
                None => Code::AuthorizationHeaderMalformed,
            },
            message: format!("the region of the signature is wrong; expecting '{region}'").into(),
            region: Some(region.to_owned()),
        }),
        _ => Ok(()),
    }
}
