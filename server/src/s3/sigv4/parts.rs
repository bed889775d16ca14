//! What a signature in a query and one in a field have in common.

use std::borrow::Cow;

use super::super::error::{Code, Error};
use super::canonical::{EMPTY_HASH, SCOPE_END, UNSIGNED_PAYLOAD};

/// It is none of version 4.
pub(super) const OLD_SIGNATURE: Error = Error {
    code: Code::InvalidRequest,
    message: Cow::Borrowed(
        "this way to sign is not supported: use AWS Signature Version 4 (AWS4-HMAC-SHA256)",
    ),
    region: None,
};

/// Key id, date and region of `key-id/date/region/s3/aws4_request`.
pub(super) fn scope(credential: &str) -> Option<(String, String, String)> {
    let mut parts = credential.rsplitn(5, '/');
    let (end, service) = (parts.next()?, parts.next()?);
    let (region, date, key_id) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
    let right = end == SCOPE_END && service == "s3" && digits && !key_id.is_empty();
    right.then(|| (key_id.to_owned(), date.to_owned(), region.to_owned()))
}

/// What stands for the body, of the two that there can be.
pub(super) fn payload_of(text: &str) -> Result<&'static str, Error> {
    match text {
        UNSIGNED_PAYLOAD => Ok(UNSIGNED_PAYLOAD),
        EMPTY_HASH => Ok(EMPTY_HASH),
        _ => Err(Error::new(
            Code::XAmzContentSHA256Mismatch,
            "x-amz-content-sha256 is not the hash of an empty body, nor UNSIGNED-PAYLOAD",
        )),
    }
}

/// Reads a signature. One that was cut off or changed is a wrong one, as S3 has it.
pub(super) fn hex(text: &str) -> Result<[u8; 32], Error> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = |text: &str| {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(bytes)
    };
    bytes(text).ok_or(Error::new(
        Code::SignatureDoesNotMatch,
        "a signature is 64 hex digits in lower case",
    ))
}

/// The field is not as it has to be.
pub(super) fn malformed(message: &'static str) -> Error {
    Error::new(Code::AuthorizationHeaderMalformed, message)
}

/// The query is not as it has to be.
pub(super) fn wrong_query(message: &'static str) -> Error {
    Error::new(Code::AuthorizationQueryParametersError, message)
}
