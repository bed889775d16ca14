//! A bucket: the name by which S3 clients see the objects whose keys begin in one way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// A bucket (`--s3-bucket`), written `NAME` or `NAME=PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The first segment of its paths.
    pub name: String,
    /// How the keys of its objects begin. Without a prefix of its own it is the name and a slash: `/NAME/x` then is the
    /// same object for S3 clients and for all others.
    pub prefix: String,
}

/// A text that is no [`Bucket`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a bucket: NAME or NAME=PREFIX, where NAME has 3 to 63 of the characters a-z, 0-9, `-` and `.`, a letter or digit at \
     both ends, and is not `uri`, `file` or `named`, and PREFIX is how keys begin: no slash first, at most 1024 bytes"
)]
pub struct BucketError;

impl FromStr for Bucket {
    type Err = BucketError;

    fn from_str(text: &str) -> Result<Bucket, BucketError> {
        let (name, prefix) = match text.split_once('=') {
            Some((name, prefix)) => (name, prefix.to_owned()),
            None => (text, format!("{text}/")),
        };
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = [name.as_bytes().first(), name.as_bytes().last()];
        let right = (3..=63).contains(&name.len())
            && name
                .bytes()
                .all(|byte| plain(&byte) || b"-.".contains(&byte))
            && ends.into_iter().flatten().all(plain)
            // Paths of Tahoe-LAFS.
            && !["uri", "file", "named"].contains(&name);
        let begins =
            prefix.len() <= 1024 && !prefix.starts_with('/') && !prefix.contains(char::is_control);
        match right && begins {
            true => Ok(Bucket {
                name: name.to_owned(),
                prefix,
            }),
            false => Err(BucketError),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Bucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bucket, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms() {
        let bucket = |text: &str| text.parse::<Bucket>();
        let of = |name: &str, prefix: &str| Bucket {
            name: name.into(),
            prefix: prefix.into(),
        };
        assert_eq!(bucket("media"), Ok(of("media", "media/")));
        assert_eq!(
            bucket("logs=archive/logs/"),
            Ok(of("logs", "archive/logs/"))
        );
        assert_eq!(bucket("all="), Ok(of("all", "")));
        assert_eq!(bucket("a.b-1=x=y"), Ok(of("a.b-1", "x=y")));
        assert_eq!(of("all", "").to_string().parse(), Ok(of("all", "")));
        for wrong in [
            "", "ab", "Media", "a_b", "-ab", "ab.", "a/b", "uri", "med=/x", "med=a\nb",
        ] {
            assert_eq!(bucket(wrong), Err(BucketError), "{wrong}");
        }
    }
}
