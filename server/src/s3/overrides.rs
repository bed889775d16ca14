//! Fields that a signed request gives its response: `response-content-type` and the others of GetObject. They are signed
//! with the request, so nobody who has a link can choose them.

use std::borrow::Cow;

use super::error::{Code, Error};

/// What is said instead of what the object's put said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The media type.
    pub content_type: Option<String>,
    /// The value of `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, as a whole line.
    pub expires: Option<String>,
    /// Whether the object is asked for as its only part: that is answered as a range is.
    pub is_part: bool,
    /// Names and values of other fields.
    fields: Vec<(&'static str, String)>,
}

/// The longest value.
const VALUE_BYTES_MAX: usize = 1024;

impl Overrides {
    /// Those in a query; `None` if there are none.
    ///
    /// # Errors
    /// If one can't be a field's value, or is given twice.
    pub fn read(query: &str) -> Result<Option<Overrides>, Error> {
        // Hardly any query has one.
        if !query.contains("response-") {
            return Ok(None);
        }
        let mut overrides = Overrides::default();
        // Of a date that is none clients know that it is past (RFC 9111 section 5.3).
        let mut expires = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*name {
                "response-content-disposition" => "Content-Disposition",
                "response-content-encoding" => "Content-Encoding",
                "response-content-language" => "Content-Language",
                "response-content-type" => {
                    put(&mut overrides.content_type, &value)?;
                    continue;
                }
                "response-cache-control" => {
                    put(&mut overrides.cache_control, &value)?;
                    continue;
                }
                "response-expires" => {
                    put(&mut expires, &value)?;
                    continue;
                }
                _ => continue,
            };
            if overrides.fields.iter().any(|(other, _)| *other == field) {
                return Err(WRONG);
            }
            let mut slot = None;
            put(&mut slot, &value)?;
            overrides.fields.extend(slot.map(|value| (field, value)));
        }
        overrides.expires = expires.map(|date| format!("Expires: {date}\r\n"));
        Ok((overrides != Overrides::default()).then_some(overrides))
    }

    /// These fields, and those of `lines` that they don't replace; whole lines, each with its CRLF.
    pub fn replace(&self, lines: &str) -> String {
        let replaced = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default();
            let mut names = self.fields.iter().map(|(name, _)| name);
            names.any(|other| other.eq_ignore_ascii_case(name))
        };
        let kept = lines.split_inclusive("\r\n").filter(|line| !replaced(line));
        let mut text: String = kept.collect();
        for (name, value) in &self.fields {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        text
    }
}

const WRONG: Error = Error {
    code: Code::InvalidArgument,
    message: Cow::Borrowed(
        "a response- parameter must be given once, as printable ASCII without a space at either end, 1024 bytes at most",
    ),
    region: None,
};

fn put(slot: &mut Option<String>, value: &str) -> Result<(), Error> {
    let printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let right = printable && !value.is_empty() && value.trim() == value;
    match right && value.len() <= VALUE_BYTES_MAX && slot.is_none() {
        true => {
            *slot = Some(value.to_owned());
            Ok(())
        }
        false => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_take_the_place_of_what_was_put() {
        let read = |query: &str| Overrides::read(query).unwrap();
        assert_eq!(read("a=b&X-Amz-Signature=c"), None);
        let date = "Sun%2C%2006%20Nov%201994%2008%3A49%3A37%20GMT";
        let expires = read(&format!("response-expires={date}")).unwrap().expires;
        assert_eq!(
            expires.as_deref(),
            Some("Expires: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
        );
        let twice = format!("response-expires={date}&response-expires={date}");
        assert_eq!(Overrides::read(&twice), Err(WRONG));
        let some = read(
            "response-content-type=a%2Fb&response-cache-control=no-store\
             &response-content-disposition=attachment%3B+filename%3D%22a+b%22",
        )
        .unwrap();
        assert_eq!(some.content_type.as_deref(), Some("a/b"));
        assert_eq!(some.cache_control.as_deref(), Some("no-store"));
        assert_eq!(
            some.replace("content-disposition: inline\r\nX-A: 1\r\n"),
            "X-A: 1\r\nContent-Disposition: attachment; filename=\"a b\"\r\n"
        );
        assert_eq!(Overrides::default().replace("X-A: 1\r\n"), "X-A: 1\r\n");
    }

    #[test]
    fn none_can_begin_another_line() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for value in [
            "",
            "a%0D%0Ab",
            "a%0Ab",
            "%20a",
            "%C3%BC",
            "a&response-content-type=b",
            &long,
        ] {
            for name in [
                "content-type",
                "cache-control",
                "content-language",
                "expires",
            ] {
                let query = format!("response-{name}={value}&response-{name}=c");
                assert_eq!(Overrides::read(&query), Err(WRONG), "{query}");
            }
        }
    }
}
