//! Texts as signatures have them: escaped, times, and hexadecimal digits.

use std::borrow::Cow;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// What a signature does not escape (RFC 3986 section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The same in a path.
const ESCAPED_IN_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// `+` is a space, as in forms.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()).collect()),
        false => percent_decode(text.as_bytes()).into(),
    }
}

/// Encodes a path as signatures have it.
pub fn encode_path(path: &str) -> String {
    percent_encode(path.as_bytes(), ESCAPED_IN_PATH).to_string()
}

/// Encodes a text as signatures have it.
pub(super) fn encode(text: &[u8]) -> String {
    percent_encode(text, ESCAPED).to_string()
}

/// A path of a request as S3 signs it: decoded, and encoded once.
pub(super) fn reencode_path(path: &str) -> String {
    let decoded: Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
    percent_encode(&decoded, ESCAPED_IN_PATH).to_string()
}

/// A time as signatures have it, such as 20130524T000000Z.
pub(super) fn timestamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(['-', ':'], "")
}

/// Reads one.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(part)
    };
    if text.len() != 16 || text.as_bytes()[8] != b'T' || text.as_bytes()[15] != b'Z' {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(4, 6)?, digits(6, 8)?);
    let (hour, minute, second) = (digits(9, 11)?, digits(11, 13)?, digits(13, 15)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    humantime::parse_rfc3339(&text).ok()
}

/// Hexadecimal digits in lower case.
pub(super) fn hex_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let pairs = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    pairs.collect()
}
