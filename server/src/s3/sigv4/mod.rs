//! AWS Signature Version 4, as S3 has it: in the query of a link (presigned), or in the `Authorization` field.
//!
//! Written after "Authenticating Requests: Using Query Parameters" and "Using the Authorization Header" of the Amazon S3
//! API Reference. The clock is an argument.
//!
//! ```text
//! canonical request = method \n path \n query \n fields \n \n names of signed fields \n hash of the body
//! string to sign    = AWS4-HMAC-SHA256 \n time \n date/region/s3/aws4_request \n SHA-256(canonical request)
//! signature         = HMAC(HMAC(HMAC(HMAC(HMAC(AWS4 secret, date), region), s3), aws4_request), string to sign)
//! ```

mod canonical;
mod field;
mod key;
mod link;
mod parts;
mod query;
mod request;
mod signature;
#[cfg(test)]
mod tests;
mod text;

use super::error::{Code, Error};

pub use link::Link;
pub use query::EXPIRES_SECONDS_MAX;
pub use request::{Request, claims_signature, is_authorization, with_head};
pub use signature::Signature;
pub use text::encode_path;

/// Reads the signature of a request; `None` if it has none.
///
/// # Errors
/// If it has several, or one that can't count whatever the secret is.
pub fn read(request: &Request<'_>) -> Result<Option<Signature>, Error> {
    let in_query = claims_signature(request.query);
    let mut fields = request.values("authorization");
    let given = fields.find(|value| value.starts_with(b"AWS"));
    let signature = match (in_query, given) {
        (false, None) => return Ok(None),
        (true, Some(_)) => {
            return Err(Error::new(
                Code::InvalidArgument,
                "a request is signed either in its query or in its Authorization field, not in both",
            ));
        }
        (true, None) => query::read(request)?,
        (false, Some(given)) if request.values("authorization").count() == 1 => {
            field::read(request, given)?
        }
        (false, Some(_)) => return Err(parts::malformed("there are several Authorization fields")),
    };
    let has_token = request.values("x-amz-security-token").next().is_some()
        || request
            .parameters()
            .any(|(name, _)| name.eq_ignore_ascii_case(b"x-amz-security-token"));
    if has_token {
        return Err(Error::new(
            Code::InvalidToken,
            "temporary credentials with a security token are unknown here: sign with a key pair alone",
        ));
    }
    signature.check_fields(request)?;
    Ok(Some(signature))
}
