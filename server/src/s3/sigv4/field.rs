//! Signatures in the `Authorization` field.

use super::super::error::{Code, Error};
use super::canonical::{ALGORITHM, EMPTY_HASH};
use super::parts::{OLD_SIGNATURE, hex, malformed, payload_of, scope};
use super::request::Request;
use super::signature::Signature;
use super::text::{parse_timestamp, timestamp};

/// Reads the signature in this field of a request.
///
/// # Errors
/// If it can't count whatever the secret is.
pub(super) fn read(request: &Request<'_>, field: &[u8]) -> Result<Signature, Error> {
    const WANTED: &str =
        "Authorization must be: AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…";
    let field = std::str::from_utf8(field).map_err(|_| malformed(WANTED))?;
    let (algorithm, rest) = field.split_once([' ', '\t']).unwrap_or((field, ""));
    if algorithm != ALGORITHM {
        return Err(OLD_SIGNATURE);
    }
    let (mut credential, mut signed_fields, mut signature) = (None, None, None);
    for part in rest.split(',') {
        let (name, value) = part.trim().split_once('=').ok_or(malformed(WANTED))?;
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_fields,
            "Signature" => &mut signature,
            _ => return Err(malformed(WANTED)),
        };
        if slot.replace(value).is_some() {
            return Err(malformed(WANTED));
        }
    }
    let (Some(credential), Some(signed_fields), Some(signature)) =
        (credential, signed_fields, signature)
    else {
        return Err(malformed(WANTED));
    };
    let (key_id, date, region) = scope(credential).ok_or(malformed(
        "the Credential must be key-id/YYYYMMDD/region/s3/aws4_request",
    ))?;
    const NO_TIME: &str =
        "a signed request needs its time in x-amz-date, such as 20130524T000000Z, or in Date";
    let time = match request.value("x-amz-date") {
        Some(text) => parse_timestamp(text),
        None => request
            .value("date")
            .and_then(|text| parse_timestamp(text).or(httpdate::parse_http_date(text).ok())),
    };
    let time = time.ok_or(Error::new(Code::AccessDenied, NO_TIME))?;
    let payload = match request.value("x-amz-content-sha256") {
        Some(payload) => payload_of(payload)?,
        // There is no body here that it could be the hash of.
        None => EMPTY_HASH,
    };
    Ok(Signature {
        key_id,
        date,
        region,
        timestamp: timestamp(time),
        time,
        expires: None,
        signed_fields: signed_fields.to_owned(),
        payload,
        signature: hex(signature)?,
        rate: None,
    })
}
