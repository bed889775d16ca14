//! What a request says of digests and checksums.
//!
//! `Want-Repr-Digest`: whether a client wants to be told the digest of the whole object (RFC 9530 section 4).
//!
//! It is sent unless the client says no: it takes 70 bytes, nothing has to be computed for it, and a client that keeps
//! the file can check it later. SHA-256 is what there is, so what is said of other algorithms doesn't matter.

use std::convert::Infallible;

use sfv::visitor::{DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor};
use sfv::{BareItemFromInput, KeyRef, Parser};

/// What a request wants to be told of the whole object's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Its digest.
    pub digest: WantDigest,
    /// Its checksum in the words of S3 (`x-amz-checksum-mode`).
    pub checksum: bool,
}

/// What a request says of the digest, in one or more lines of the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantDigest {
    /// The preference for SHA-256, 0 to 10; 0 is no.
    sha256: Option<i64>,
    /// A line was no dictionary: then all of the field is as if absent (RFC 9651 section 4.2).
    malformed: bool,
}

impl WantDigest {
    /// Takes a line of the field. Of what is said twice the last counts.
    pub fn take(&mut self, line: &str) {
        let parser = Parser::new(line);
        match parser.parse_dictionary_with_visitor(Preferences(self.sha256)) {
            Ok(sha256) => self.sha256 = sha256,
            Err(_) => self.malformed = true,
        }
    }

    /// Whether the digest is to be sent.
    pub fn wanted(self) -> bool {
        self.malformed || self.sha256 != Some(0)
    }
}

/// The preference for SHA-256 in a dictionary.
struct Preferences(Option<i64>);

impl<'a> DictionaryVisitor<'a> for Preferences {
    type Out = Option<i64>;
    type Error = Infallible;

    fn entry(&mut self, key: &'a KeyRef) -> Result<impl EntryVisitor<'a>, Infallible> {
        let sha256 = key.as_str() == "sha-256";
        Ok(sha256.then_some(Preference(&mut self.0)))
    }

    fn finish(self) -> Result<Option<i64>, Infallible> {
        Ok(self.0)
    }
}

struct Preference<'p>(&'p mut Option<i64>);

impl<'a> EntryVisitor<'a> for Preference<'_> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'a>, Infallible> {
        Ok(|value: BareItemFromInput<'a>| {
            // What is no integer is no preference.
            *self.0 = value.as_integer().map(i64::from);
            Ok::<_, Infallible>(Ignored)
        })
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'a>, Infallible> {
        *self.0 = None;
        Ok(Ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(lines: &[&str]) -> bool {
        let mut want = WantDigest::default();
        lines.iter().for_each(|line| want.take(line));
        want.wanted()
    }

    #[test]
    fn only_a_no_is_a_no() {
        for yes in [
            &[][..],
            &["sha-256=10"],
            &["sha-512=3, sha-256=1, unixsum=0"],
            &["sha-512=0"],
            &["sha-256=0, sha-256=1"],
            &["sha-256=0", "sha-256=2"],
            &["sha-256"],
            &["sha-256=?0"],
            &["sha-256=(0 0)"],
            &["SHA-256=0"],
            &[""],
        ] {
            assert!(wanted(yes), "{yes:?}");
        }
        for no in [
            &["sha-256=0"][..],
            &["sha-256=0;a=b"],
            &["sha-512=10,\tsha-256=0 "],
            &["sha-256=1", "sha-512=1", "sha-256=0"],
            &["a=\"b, sha-256=1\", sha-256=0, c=(1 2);d"],
        ] {
            assert!(!wanted(no), "{no:?}");
        }
    }

    #[test]
    fn what_is_malformed_is_as_if_absent() {
        for malformed in [
            "sha-256=0,",
            "sha-256=",
            "sha-256=0 x",
            "=",
            "sha-256=0;",
            "é=1",
        ] {
            assert!(wanted(&[malformed]), "{malformed:?}");
            assert!(wanted(&["sha-256=0", malformed]), "{malformed:?}");
            assert!(wanted(&[malformed, "sha-256=0"]), "{malformed:?}");
        }
    }
}
