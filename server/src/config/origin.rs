//! Web origins (RFC 6454): whose pages may read responses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// The longest origin: a host name has 253 bytes at most.
const ORIGIN_BYTES_MAX: usize = 300;

/// An origin, `https://example.org` or `http://localhost:3000`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin: write `*`, or a scheme and a host without a path, as in `https://example.org` or \
     `http://localhost:3000`"
)]
pub struct OriginError(String);

impl Origin {
    /// Whether any page is meant.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Whether a request's `Origin` is this one.
    pub fn is(&self, origin: &str) -> bool {
        self.0.eq_ignore_ascii_case(origin)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Origin, OriginError> {
        let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
            let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
            !scheme.is_empty()
                && scheme.bytes().all(is_scheme)
                && !host.is_empty()
                && host.bytes().all(is_host)
        });
        match text == "*" || is_origin && text.len() <= ORIGIN_BYTES_MAX {
            true => Ok(Origin(text.to_ascii_lowercase())),
            false => Err(OriginError(text.to_owned())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Origin, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for bad in [
            "",
            "example.org",
            "https://",
            "https://a/",
            "https://a/b",
            "://a",
            "https://u@a",
            "null",
            "https://a b",
            "https://a\r\nX: y",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
        let origin: Origin = "https://Example.org:8443".parse().unwrap();
        assert!(origin.is("https://example.org:8443") && !origin.is_any());
        for other in [
            "http://example.org:8443",
            "https://example.org",
            "https://example.org:8443.evil",
            "null",
            "",
        ] {
            assert!(!origin.is(other), "{other}");
        }
        assert!("*".parse::<Origin>().unwrap().is_any());
    }
}
