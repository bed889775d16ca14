//! Whether what a put says of an object is written as HTTP wants it, so that clients understand it (RFC 9110, 6266, 9111).
//!
//! The share format makes sure that a value harms no response; this catches what was mistyped.

use decode_kernel::share::{Fields, check_content_type};

use super::error::PutError;

/// Checks a content type: `type/subtype`, and parameters (RFC 9110 section 8.3.1).
///
/// # Errors
/// [`PutError::ContentType`] or [`PutError::Syntax`].
pub(super) fn check_type(text: &str) -> Result<(), PutError> {
    check_content_type(text)?;
    let mut rest = Rest(text);
    let good = rest.token() && rest.take('/') && rest.token() && rest.parameters();
    match good && rest.0.is_empty() {
        true => Ok(()),
        false => Err(wrong("content type", text, "text/html; charset=utf-8")),
    }
}

/// Checks the values of the fields whose syntax is known.
///
/// # Errors
/// [`PutError::Syntax`] for the first that is wrong.
pub(super) fn check_fields(fields: &Fields) -> Result<(), PutError> {
    for (name, value) in fields.iter() {
        let mut rest = Rest(value);
        let (good, example) = match name {
            "Content-Disposition" => (
                rest.token() && rest.parameters(),
                "attachment; filename=\"report.pdf\"",
            ),
            "Cache-Control" => (rest.list(Rest::directive), "public, max-age=86400"),
            "Content-Encoding" => (rest.list(Rest::token) && !is_no_coding(value), "gzip"),
            "Content-Language" => (rest.list(Rest::language), "de, en-GB"),
            _ => continue,
        };
        if !good || !rest.0.is_empty() {
            return Err(wrong(name, value, example));
        }
    }
    Ok(())
}

/// Whether a list names what is no coding of the content: `identity` says that there is none, and must not be said (RFC 9110
/// section 8.4.1), `chunked` is a coding of the transfer.
fn is_no_coding(list: &str) -> bool {
    let mut codings = list.split(',').map(str::trim);
    codings.any(|coding| {
        let is = |other| coding.eq_ignore_ascii_case(other);
        is("identity") || is("chunked")
    })
}

fn wrong(what: &str, text: &str, example: &'static str) -> PutError {
    PutError::Syntax {
        what: what.to_owned(),
        text: text.to_owned(),
        example,
    }
}

/// What is left of a value. Each method takes what it is named after, and says whether it was there.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn take(&mut self, character: char) -> bool {
        let rest = self.0.strip_prefix(character);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let length = self.0.bytes().take_while(|byte| wanted(*byte)).count();
        self.0 = &self.0[length..];
        length
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> bool {
        let sign = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
        self.take_while(|byte| byte.is_ascii_alphanumeric() || sign(byte)) > 0
    }

    fn spaces(&mut self) {
        self.take_while(|byte| byte == b' ' || byte == b'\t');
    }

    /// RFC 9110 section 5.6.4.
    fn quoted(&mut self) -> bool {
        if !self.take('"') {
            return false;
        }
        loop {
            self.take_while(|byte| byte != b'"' && byte != b'\\');
            if self.take('"') {
                return true;
            }
            // A backslash and what it quotes, or the end.
            if !self.take('\\') || self.0.is_empty() {
                return false;
            }
            self.0 = &self.0[self.0.chars().next().map_or(0, char::len_utf8)..];
        }
    }

    /// RFC 9110 section 5.6.6, without the empty ones.
    fn parameters(&mut self) -> bool {
        while !self.0.is_empty() {
            self.spaces();
            if !self.take(';') {
                return false;
            }
            self.spaces();
            let good = self.token() && self.take('=') && (self.quoted() || self.token());
            if !good {
                return false;
            }
        }
        true
    }

    /// RFC 9111 section 5.2.
    fn directive(&mut self) -> bool {
        self.token() && (!self.take('=') || self.quoted() || self.token())
    }

    /// A language tag, as far as its form goes (RFC 5646 section 2.1).
    fn language(&mut self) -> bool {
        loop {
            let length = self.take_while(|byte| byte.is_ascii_alphanumeric());
            if !(1..=8).contains(&length) {
                return false;
            }
            if !self.take('-') {
                return true;
            }
        }
    }

    /// A comma-separated list without empty elements (RFC 9110 section 5.6.1).
    fn list(&mut self, element: impl Fn(&mut Self) -> bool) -> bool {
        loop {
            if !element(self) {
                return false;
            }
            self.spaces();
            if !self.take(',') {
                return true;
            }
            self.spaces();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for good in [
            "text/html",
            "text/html; charset=utf-8",
            "text/html;charset=\"utf-8\"",
            "application/vnd.oci.image.manifest.v1+json",
            "multipart/form-data; boundary=\"a;b\\\"c\"; x=y",
        ] {
            check_type(good).unwrap();
        }
        for bad in [
            "text",
            "text/",
            "/html",
            "text/html;",
            "text/html; charset",
            "text/html; charset=",
            "text/html; charset=\"utf-8",
            "text/html charset=utf-8",
            "text/html; a=b c",
            "text /html",
            "text/html, text/plain",
            "",
            "a/\"b\"",
        ] {
            assert!(check_type(bad).is_err(), "{bad:?}");
        }
        let error = check_type("text").unwrap_err().to_string();
        assert!(error.contains("charset=utf-8"), "{error}");
    }

    #[test]
    fn fields() {
        let check = |name, value| check_fields(&Fields::new([(name, value)]).unwrap());
        for (name, value) in [
            ("Content-Disposition", "attachment"),
            (
                "Content-Disposition",
                "attachment; filename=\"a \\\" b.pdf\"; filename*=UTF-8''%c3%a4",
            ),
            ("Cache-Control", "no-cache"),
            ("Cache-Control", "public, max-age=1 ,no-cache=\"a, b\""),
            ("Content-Encoding", "gzip, br"),
            ("Content-Language", "de, en-GB,zh-Hans-CN"),
            ("X-Anything", "\"{;,=="),
        ] {
            check(name, value).unwrap_or_else(|error| panic!("{value}: {error}"));
        }
        for (name, value) in [
            ("Content-Disposition", "attachment; filename=a b"),
            ("Content-Disposition", "; filename=a"),
            ("Content-Disposition", "a; b=\"\\"),
            ("Cache-Control", "max-age 5"),
            ("Cache-Control", "max-age=5,"),
            ("Cache-Control", "max-age="),
            ("Content-Encoding", "gzip br"),
            ("Content-Encoding", "a=b"),
            ("Content-Encoding", "identity"),
            ("Content-Encoding", "gzip, Chunked"),
            ("Content-Language", "germanlanguage"),
            ("Content-Language", "en_GB"),
        ] {
            assert!(check(name, value).is_err(), "{name}: {value}");
        }
    }
}
