//! What is signed: the canonical request, and the string to sign that is made of it.

use sha2::{Digest as _, Sha256};

use super::request::Request;
use super::text::{encode, hex_text};

/// The only algorithm.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What the scope of every credential ends with.
pub(super) const SCOPE_END: &str = "aws4_request";

/// SHA-256 of nothing, in hexadecimal: the hash of the body of every GET and HEAD.
pub(super) const EMPTY_HASH: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Says that the body's hash is not signed.
pub(super) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// A request with this path as it is signed.
pub(super) fn request(
    request: &Request<'_>,
    path: &str,
    signed_fields: &str,
    payload: &str,
) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut put = |part: &[u8]| text.extend_from_slice(part);
    put(request.method.as_bytes());
    put(b"\n");
    put(path.as_bytes());
    put(b"\n");
    put(query(request).as_bytes());
    put(b"\n");
    for name in signed_fields.split(';') {
        put(name.as_bytes());
        put(b":");
        for (at, value) in request.values(name).enumerate() {
            if at > 0 {
                put(b",");
            }
            // Blanks are trimmed, and several become one.
            let words = value.split(|&byte| byte == b' ' || byte == b'\t');
            let words = words.filter(|word| !word.is_empty());
            for (at, word) in words.enumerate() {
                if at > 0 {
                    put(b" ");
                }
                put(word);
            }
        }
        put(b"\n");
    }
    put(b"\n");
    put(signed_fields.as_bytes());
    put(b"\n");
    put(payload.as_bytes());
    text
}

/// The query, decoded, encoded and sorted, without the signature itself.
fn query(request: &Request<'_>) -> String {
    let mut pairs: Vec<(String, String)> = request
        .parameters()
        .filter(|(name, _)| **name != *b"X-Amz-Signature")
        .map(|(name, value)| (encode(&name), encode(&value)))
        .collect();
    pairs.sort_unstable();
    let mut text = String::with_capacity(request.query.len() + 16);
    for (name, value) in &pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

/// What is signed of a canonical request.
pub(super) fn string_to_sign(
    timestamp: &str,
    date: &str,
    region: &str,
    canonical_request: &[u8],
) -> String {
    let hash = hex_text(&Sha256::digest(canonical_request));
    format!("{ALGORITHM}\n{timestamp}\n{date}/{region}/s3/{SCOPE_END}\n{hash}")
}
