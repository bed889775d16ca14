//! What can be told of a head that may be incomplete or wrong, for the answer that refuses it.

use super::target;
use crate::memory::limits::TARGET_BYTES_MAX;
use crate::s3::sigv4;

/// The path of a head that is complete or not, right or wrong, as [`Request::path`] if it can be understood.
pub(super) fn path(bytes: &[u8]) -> Option<String> {
    let line = bytes[leading_lines(bytes)..]
        .split(|&b| b == b'\n')
        .next()?;
    let target = line.split(|&b| b == b' ').nth(1)?;
    let target = str::from_utf8(target).ok()?;
    let target = target.get(..target.len().min(TARGET_BYTES_MAX))?;
    target::parse(target).map(|target| target.path).or_else(|| {
        // One that is not understood is shown as it came.
        let path = target.strip_prefix('/')?.split('?').next()?;
        Some(path.to_owned())
    })
}

/// Whether a head that is complete or not, right or wrong, claims to be signed.
pub(super) fn is_signed(bytes: &[u8]) -> bool {
    let mut lines = bytes[leading_lines(bytes)..].split(|&b| b == b'\n');
    let line = str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let query = line.split(' ').nth(1).and_then(|it| it.split_once('?'));
    query.is_some_and(|(_, query)| sigv4::claims_signature(query))
        || lines.any(|line| {
            let colon = line.iter().position(|&b| b == b':');
            let (name, value) = line.split_at(colon.unwrap_or(line.len()));
            let value = value.strip_prefix(b":").unwrap_or_default();
            str::from_utf8(name)
                .is_ok_and(|name| sigv4::is_authorization(name, value.trim_ascii_start()))
        })
}

/// Whether a head that is complete or not, right or wrong, begins with the method HEAD.
pub(super) fn is_head(bytes: &[u8]) -> bool {
    bytes[leading_lines(bytes)..].starts_with(b"HEAD ")
}

/// Bytes of the empty lines that may come before a request line (RFC 9112 section 2.2).
pub(super) fn leading_lines(bytes: &[u8]) -> usize {
    let start = bytes.iter().position(|&b| b != b'\r' && b != b'\n');
    start.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_as_far_as_they_are_understood() {
        for (head, expected) in [
            ("GET /a%20b/../c?x HTTP/9", Some("c")),
            ("\r\nGET http://h/a", Some("a")),
            ("GET /a%zz/..?x", Some("a%zz/..")),
            ("GET a%zz", None),
            ("GET", None),
            ("", None),
        ] {
            assert_eq!(path(head.as_bytes()).as_deref(), expected, "{head}");
        }
    }

    #[test]
    fn what_claims_to_be_signed() {
        for (head, expected) in [
            ("PUT /b?X-Amz-Signature=x HTTP/1.1\r\n\r\n", true),
            (
                "PUT /b HTTP/1.1\r\nauthorization:AWS4-HMAC-SHA256 x\r\n\r\n",
                true,
            ),
            (
                "PUT /b HTTP/1.1\r\nAuthorization: \t AWS4-HMAC-SHA256 x\r\n\r\n",
                true,
            ),
            ("PUT /b HTTP/1.1\r\nAuthorization: Basic x\r\n\r\n", false),
            ("PUT /b?a=X-Amz-Signature HTTP/1.1\r\nX: AWS\r\n\r\n", false),
            ("\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_signed(head.as_bytes()), expected, "{head}");
        }
    }
}
