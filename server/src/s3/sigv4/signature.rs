//! A signature that was read of a request: what must be signed, when it counts, and whether it is right.

use std::time::{Duration, SystemTime};

use super::super::error::{Code, Error};
use super::canonical;
use super::key::SigningKey;
use super::parts::{malformed, wrong_query};
use super::request::Request;
use super::text::reencode_path;

/// How far a client's clock may be from ours.
pub(super) const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// The signature of a request, taken apart and not yet compared with anything but the clock's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it is.
    pub key_id: String,
    /// The day of the credential's scope, such as 20130524.
    pub date: String,
    /// The region of the scope.
    pub region: String,
    /// When it was made, as text,
    pub(super) timestamp: String,
    /// and as a time.
    pub time: SystemTime,
    /// How long it counts; `None` for one in a field.
    pub expires: Option<Duration>,
    /// Names of the signed fields, in lower case, as they were given.
    pub(super) signed_fields: String,
    /// What stands for the body.
    pub(super) payload: &'static str,
    pub(super) signature: [u8; 32],
    /// What a link allows, beside reading.
    pub rate: Option<u64>,
}

impl Signature {
    /// `Host` and all that is Amazon's must be signed, or anybody could change it.
    pub(super) fn check_fields(&self, request: &Request<'_>) -> Result<(), Error> {
        let signed = |name: &str| {
            self.signed_fields
                .split(';')
                .any(|signed| signed.eq_ignore_ascii_case(name))
        };
        let amazon = |name: &str| {
            let start = name.get(..6);
            start.is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
        };
        let mut names = request.fields.iter().map(|(name, _)| *name);
        if !signed("host") || names.any(|name| amazon(name) && !signed(name)) {
            return Err(Error::new(
                Code::AccessDenied,
                "there are fields in the request that must be signed and are not: Host, and all that begin with x-amz-",
            ));
        }
        Ok(())
    }

    /// Whether it counts at this time.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_time(&self, now: SystemTime) -> Result<(), Error> {
        if !self.timestamp.starts_with(&self.date) {
            const OTHER_DATE: &str = "the date in the credential is not that of the request";
            return Err(match self.expires {
                Some(_) => wrong_query(OTHER_DATE),
                None => malformed(OTHER_DATE),
            });
        }
        let early = self.time > now + SKEW_MAX;
        let end = self.time + self.expires.unwrap_or(SKEW_MAX);
        match self.expires {
            Some(_) if early => Err(Error::new(
                Code::AccessDenied,
                "Request is not valid yet: the link was made by a clock that is ahead",
            )),
            Some(_) if now > end => Err(Error::new(Code::AccessDenied, "Request has expired")),
            None if early || now > end => Err(Error::new(
                Code::RequestTimeTooSkewed,
                "the difference between the request's time and this server's is too large",
            )),
            _ => Ok(()),
        }
    }

    /// Compares it, in constant time, with what this secret makes of the request. Paths are signed as S3 has them:
    /// decoded and encoded once. Some clients sign them as they send them, which is the same path.
    ///
    /// # Errors
    /// If it is another one.
    pub fn verify(&self, request: &Request<'_>, secret: &str) -> Result<(), Error> {
        let key = SigningKey::new(secret, &self.date, &self.region);
        let encoded = reencode_path(request.path);
        for path in [&encoded, request.path] {
            if key.verifies(&self.string_to_sign(request, path), &self.signature) {
                return Ok(());
            }
            if path == request.path {
                break;
            }
        }
        Err(Error::new(
            Code::SignatureDoesNotMatch,
            "the signature is not the one that the secret of this key makes of the request; check the secret, and that \
             method, path, query and Host arrive as they were signed",
        ))
    }

    fn string_to_sign(&self, request: &Request<'_>, path: &str) -> String {
        let canonical = canonical::request(request, path, &self.signed_fields, self.payload);
        canonical::string_to_sign(&self.timestamp, &self.date, &self.region, &canonical)
    }
}
