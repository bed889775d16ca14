//! Signatures in the query of a link (presigned).

use std::time::Duration;

use super::super::error::{Code, Error};
use super::canonical::{ALGORITHM, UNSIGNED_PAYLOAD};
use super::parts::{OLD_SIGNATURE, hex, payload_of, scope, wrong_query};
use super::request::Request;
use super::signature::Signature;
use super::text::parse_timestamp;

/// How long a link may be valid, in seconds: a week.
pub const EXPIRES_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Reads the signature of a link.
///
/// # Errors
/// If it can't count whatever the secret is.
pub(super) fn read(request: &Request<'_>) -> Result<Signature, Error> {
    const WANTED: &str = "X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-SignedHeaders and \
                          X-Amz-Signature must each be in the query, once";
    let one = |wanted: &str| -> Result<Option<String>, Error> {
        let mut found = request
            .parameters()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((name, value)), None) if *name == *wanted.as_bytes() => {
                let value = String::from_utf8(value.into_owned());
                value.map(Some).map_err(|_| wrong_query(WANTED))
            }
            _ => Err(wrong_query(WANTED)),
        }
    };
    let needed = |name| one(name)?.ok_or(wrong_query(WANTED));
    let Some(algorithm) = one("X-Amz-Algorithm")? else {
        // Version 2 has an expiry and a signature, and no algorithm.
        return Err(match one("AWSAccessKeyId")? {
            Some(_) => OLD_SIGNATURE,
            None => wrong_query(WANTED),
        });
    };
    if algorithm != ALGORITHM {
        return Err(OLD_SIGNATURE);
    }
    let (key_id, date, region) = scope(&needed("X-Amz-Credential")?).ok_or(wrong_query(
        "X-Amz-Credential must be key-id/YYYYMMDD/region/s3/aws4_request",
    ))?;
    let timestamp = needed("X-Amz-Date")?;
    let time = parse_timestamp(&timestamp).ok_or(wrong_query(
        "X-Amz-Date must be a time such as 20130524T000000Z",
    ))?;
    let expires = needed("X-Amz-Expires")?;
    let digits = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.then(|| expires.parse().unwrap_or(u64::MAX));
    let seconds = seconds
        .filter(|seconds| (1..=EXPIRES_SECONDS_MAX).contains(seconds))
        .ok_or(wrong_query(
            "X-Amz-Expires must be a number of seconds from 1 to 604800",
        ))?;
    let payload = match one("X-Amz-Content-Sha256")? {
        Some(payload) => payload_of(&payload)?,
        None => match request.value("x-amz-content-sha256") {
            Some(payload) => payload_of(payload)?,
            None => UNSIGNED_PAYLOAD,
        },
    };
    let rate = match one("x-penstock-rate")? {
        Some(rate) => Some(parse_rate(&rate)?),
        None => None,
    };
    Ok(Signature {
        key_id,
        date,
        region,
        timestamp,
        time,
        expires: Some(Duration::from_secs(seconds)),
        signed_fields: needed("X-Amz-SignedHeaders")?,
        payload,
        signature: hex(&needed("X-Amz-Signature")?)?,
        rate,
    })
}

/// Reads a rate in bytes per second: a number, or a size such as `2MiB`.
fn parse_rate(text: &str) -> Result<u64, Error> {
    let rate: Option<bytesize::ByteSize> = text.parse().ok();
    rate.map(|rate| rate.0).filter(|&rate| rate > 0).ok_or({
        Error::new(
            Code::InvalidArgument,
            "x-penstock-rate must be bytes per second: a number, or a size such as 2MiB",
        )
    })
}
