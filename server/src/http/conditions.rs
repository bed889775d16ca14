//! Conditional requests (RFC 9110 section 13): `If-None-Match`, `If-Modified-Since` and `If-Range`.

use std::time::SystemTime;

/// The condition fields of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The raw list of `If-None-Match`, if there was one.
    pub if_none_match: Option<String>,
    /// `If-Modified-Since`, if it was a valid date.
    pub if_modified_since: Option<SystemTime>,
    /// `If-Range`, if there was one.
    pub if_range: Option<IfRange>,
}

/// The condition of `If-Range` (RFC 9110 section 13.1.5): the range counts only if it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfRange {
    /// An entity tag, quotes included. A weak one never matches.
    Tag(String),
    /// A `Last-Modified` date, compared for equality.
    Date(SystemTime),
}

impl Conditions {
    /// Whether a client that sent these already has the object with this entity tag and date. `If-None-Match`
    /// decides alone when it is there (RFC 9110 section 13.2.2).
    pub fn not_modified(&self, etag: &str, modified: Option<SystemTime>) -> bool {
        match &self.if_none_match {
            Some(list) => list.trim() == "*" || tags(list).any(|tag| tag == etag),
            None => modified
                .zip(self.if_modified_since)
                .is_some_and(|(modified, since)| modified <= since),
        }
    }

    /// Whether a `Range` field counts: `If-Range` is absent or holds.
    pub fn range_counts(&self, etag: &str, modified: Option<SystemTime>) -> bool {
        match &self.if_range {
            None => true,
            Some(IfRange::Tag(tag)) => tag == etag,
            Some(IfRange::Date(date)) => Some(*date) == modified,
        }
    }
}

/// The opaque parts of a list of entity tags. Weak comparison ignores the `W/` (RFC 9110 section 8.8.3.2).
fn tags(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|tag| {
        let tag = tag.trim();
        tag.strip_prefix("W/").unwrap_or(tag)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ETAG: &str = "\"abc\"";
    const MODIFIED: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_a_client_already_has() {
        let not_modified = |c: &Conditions| c.not_modified(ETAG, Some(at(MODIFIED)));
        let tag = |tag: &str| Conditions {
            if_none_match: Some(tag.into()),
            ..Conditions::default()
        };
        assert!(not_modified(&tag("\"abc\"")));
        assert!(not_modified(&tag("\"x\", W/\"abc\"")));
        assert!(not_modified(&tag("*")));
        assert!(!not_modified(&tag("\"abcd\"")));
        let since = |seconds| Conditions {
            if_modified_since: Some(at(seconds)),
            ..Conditions::default()
        };
        assert!(not_modified(&since(MODIFIED)));
        assert!(!not_modified(&since(MODIFIED - 1)));
        assert!(!since(MODIFIED).not_modified(ETAG, None));
        assert!(!not_modified(&Conditions {
            if_none_match: Some("\"x\"".into()),
            ..since(u32::MAX.into())
        }));
    }

    #[test]
    fn when_a_range_counts() {
        let counts = |if_range| {
            Conditions {
                if_range,
                ..Conditions::default()
            }
            .range_counts(ETAG, Some(at(MODIFIED)))
        };
        assert!(counts(None));
        assert!(counts(Some(IfRange::Tag("\"abc\"".into()))));
        assert!(!counts(Some(IfRange::Tag("W/\"abc\"".into()))));
        assert!(counts(Some(IfRange::Date(at(MODIFIED)))));
        assert!(!counts(Some(IfRange::Date(at(MODIFIED + 1)))));
    }
}
