//! Conditional requests (RFC 9110 section 13), for GET and HEAD, in the order of section 13.2.2.

use std::time::{Duration, SystemTime};

use super::field;

/// The condition fields of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The raw list of `If-Match`, if there was one.
    pub if_match: Option<String>,
    /// The raw list of `If-None-Match`, if there was one.
    pub if_none_match: Option<String>,
    /// `If-Modified-Since`, if it was a valid date.
    pub if_modified_since: Option<SystemTime>,
    /// `If-Unmodified-Since`, if it was a valid date.
    pub if_unmodified_since: Option<SystemTime>,
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
    /// Neither: it doesn't hold.
    Malformed,
}

impl IfRange {
    /// Reads the field's value.
    pub fn parse(text: &str) -> IfRange {
        if text.starts_with('"') || text.starts_with("W/") {
            return IfRange::Tag(text.to_owned());
        }
        httpdate::parse_http_date(text).map_or(IfRange::Malformed, IfRange::Date)
    }
}

/// What identifies an object's bytes, for conditions to be compared with.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// The entity tag, quotes included; strong.
    pub etag: &'a str,
    /// The date of `Last-Modified`, in whole seconds, if there is one.
    pub modified: Option<SystemTime>,
    /// The date of `Date`, in whole seconds.
    pub date: SystemTime,
}

/// What follows from a request's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They hold: answer as if there were none.
    Proceed,
    /// The client has the object already: 304.
    NotModified,
    /// The object isn't the one that the client means: 412.
    Failed,
}

impl Conditions {
    /// Judges all but `If-Range`, for an object with these validators (RFC 9110 section 13.2.2).
    pub fn evaluate(&self, object: &Validators<'_>) -> Outcome {
        let expected = match (&self.if_match, self.if_unmodified_since) {
            (Some(list), _) => any_tag(list, |tag| tag == object.etag),
            (None, Some(since)) => object.modified.is_none_or(|modified| modified <= since),
            (None, None) => true,
        };
        if !expected {
            return Outcome::Failed;
        }
        let known = match (&self.if_none_match, self.if_modified_since) {
            // Weak comparison ignores the `W/` (RFC 9110 section 8.8.3.2).
            (Some(list), _) => any_tag(list, |tag| {
                tag.strip_prefix("W/").unwrap_or(tag) == object.etag
            }),
            (None, Some(since)) => object.modified.is_some_and(|modified| modified <= since),
            (None, None) => false,
        };
        match known {
            true => Outcome::NotModified,
            false => Outcome::Proceed,
        }
    }

    /// Whether a `Range` field counts: `If-Range` is absent or holds. A date does only if it is a strong validator: at
    /// least a second older than the response (RFC 9110 section 8.8.2.2).
    pub fn range_counts(&self, object: &Validators<'_>) -> bool {
        match &self.if_range {
            None => true,
            Some(IfRange::Tag(tag)) => tag == object.etag,
            Some(IfRange::Date(date)) => {
                Some(*date) == object.modified && *date + Duration::from_secs(1) <= object.date
            }
            Some(IfRange::Malformed) => false,
        }
    }

    /// Gives back what the lists have room for beyond what they hold.
    pub fn shrink(&mut self) {
        for list in [&mut self.if_match, &mut self.if_none_match]
            .into_iter()
            .flatten()
        {
            list.shrink_to_fit();
        }
    }

    /// Bytes on the heap.
    pub fn held_bytes(&self) -> usize {
        let list = |list: &Option<String>| list.as_ref().map_or(0, String::capacity);
        let tag = match &self.if_range {
            Some(IfRange::Tag(tag)) => tag.capacity(),
            _ => 0,
        };
        list(&self.if_match) + list(&self.if_none_match) + tag
    }
}

/// Whether a list of entity tags is `*` or has one that `matches`; tags come with their quotes, weak ones with `W/`.
fn any_tag(list: &str, matches: impl FnMut(&str) -> bool) -> bool {
    field::trim(list) == "*" || tags(list).any(matches)
}

/// The entity tags of a list (RFC 9110 section 8.8.3), up to what is none. A comma in quotes is part of a tag.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let opaque = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
        let end = rest.len() - opaque.len() + opaque.find('"')? + 1;
        let (tag, after) = rest.split_at(end);
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            // Something that is no tag follows without a comma.
            rest = "";
        }
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";
    const MODIFIED: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn object() -> Validators<'static> {
        Validators {
            etag: ETAG,
            modified: Some(at(MODIFIED)),
            date: at(MODIFIED + 1),
        }
    }

    fn without_date() -> Validators<'static> {
        Validators {
            modified: None,
            ..object()
        }
    }

    fn if_match(list: &str) -> Conditions {
        Conditions {
            if_match: Some(list.into()),
            ..Conditions::default()
        }
    }

    fn if_none_match(list: &str) -> Conditions {
        Conditions {
            if_none_match: Some(list.into()),
            ..Conditions::default()
        }
    }

    fn modified_since(seconds: u64) -> Conditions {
        Conditions {
            if_modified_since: Some(at(seconds)),
            ..Conditions::default()
        }
    }

    fn unmodified_since(seconds: u64) -> Conditions {
        Conditions {
            if_unmodified_since: Some(at(seconds)),
            ..Conditions::default()
        }
    }

    #[test]
    fn what_a_client_already_has() {
        for list in [
            "\"abc\"",
            "\"x\", W/\"abc\"",
            "*",
            " * ",
            "\"x\",\"abc\"",
            "\"a,b\" , \"abc\"",
            ",,\"abc\",",
        ] {
            let outcome = if_none_match(list).evaluate(&object());
            assert_eq!(outcome, Outcome::NotModified, "{list}");
        }
        // The tag in quotes of another, without quotes, broken off, behind what is no tag.
        for list in [
            "\"abcd\"",
            "abc",
            "\"x,\"abc\"",
            "\"abc",
            "w/\"abc\"",
            "\"x\" \"abc\"",
            "\"x\", *",
            "",
        ] {
            let outcome = if_none_match(list).evaluate(&object());
            assert_eq!(outcome, Outcome::Proceed, "{list}");
        }
        let since = |seconds| modified_since(seconds).evaluate(&object());
        assert_eq!(since(MODIFIED), Outcome::NotModified);
        assert_eq!(since(MODIFIED - 1), Outcome::Proceed);
        let outcome = modified_since(MODIFIED).evaluate(&without_date());
        assert_eq!(outcome, Outcome::Proceed);
    }

    /// A client that goes on with a download by `If-Match` or `If-Unmodified-Since` got a part of the new object.
    #[test]
    fn what_a_client_means() {
        for list in ["\"abc\"", "*", "\"x\", \"abc\""] {
            assert_eq!(if_match(list).evaluate(&object()), Outcome::Proceed);
        }
        // Comparison is strong: a weak tag never matches.
        for list in ["\"x\"", "W/\"abc\"", "abc", ""] {
            assert_eq!(if_match(list).evaluate(&object()), Outcome::Failed);
        }
        let since = |seconds| unmodified_since(seconds).evaluate(&object());
        assert_eq!(since(MODIFIED), Outcome::Proceed);
        assert_eq!(since(MODIFIED - 1), Outcome::Failed);
        let outcome = unmodified_since(0).evaluate(&without_date());
        assert_eq!(outcome, Outcome::Proceed, "there is no date to compare");
    }

    /// Section 13.2.2: tags before dates, and what must hold before what is known.
    #[test]
    fn the_order_of_conditions() {
        let all = |if_match: &str, unmodified, if_none_match: &str, modified| {
            Conditions {
                if_match: Some(if_match.into()),
                if_unmodified_since: Some(at(unmodified)),
                if_none_match: Some(if_none_match.into()),
                if_modified_since: Some(at(modified)),
                if_range: None,
            }
            .evaluate(&object())
        };
        // The dates say the contrary, and aren't heard.
        assert_eq!(all(ETAG, 0, "\"x\"", MODIFIED), Outcome::Proceed);
        assert_eq!(all(ETAG, 0, ETAG, 0), Outcome::NotModified);
        assert_eq!(all("\"x\"", MODIFIED, ETAG, 0), Outcome::Failed);
        let both = Conditions {
            if_unmodified_since: Some(at(0)),
            ..if_none_match(ETAG)
        };
        assert_eq!(both.evaluate(&object()), Outcome::Failed);
    }

    #[test]
    fn when_a_range_counts() {
        let counts = |text: &str, object: &Validators<'_>| {
            Conditions {
                if_range: Some(IfRange::parse(text)),
                ..Conditions::default()
            }
            .range_counts(object)
        };
        assert!(Conditions::default().range_counts(&object()));
        assert!(counts("\"abc\"", &object()));
        assert!(!counts("W/\"abc\"", &object()));
        assert!(!counts("abc", &object()));
        let date = httpdate::fmt_http_date(at(MODIFIED));
        assert!(counts(&date, &object()));
        assert!(!counts(
            &httpdate::fmt_http_date(at(MODIFIED + 1)),
            &object()
        ));
        assert!(!counts(&date, &without_date()));
        // In the second in which it was put it may be replaced again.
        let young = Validators {
            date: at(MODIFIED),
            ..object()
        };
        assert!(!counts(&date, &young));
    }
}
