//! Cross-origin requests: which pages of other origins may read responses (Fetch standard, section 3.2, "CORS protocol").
//!
//! Responses never depend on cookies, so credentials are never allowed.

use super::field;
use crate::config::origin::Origin;

/// The longest list of field names that a preflight's answer repeats.
const NAMES_BYTES_MAX: usize = 512;
/// How long a browser may remember the answer to a preflight, in seconds: what the usual ones allow at most.
pub const MAX_AGE_SECONDS: u32 = 7200;
/// Fields that scripts may see besides those that they always may.
pub const EXPOSED: &str = "Accept-Ranges, Content-Encoding, Content-Range, Date, ETag, Repr-Digest, Retry-After, X-Request-Id";

/// The origins whose pages may read responses. By default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    any: bool,
    origins: Vec<Origin>,
}

impl Cors {
    /// These origins.
    pub fn new(origins: Vec<Origin>) -> Cors {
        Cors {
            any: origins.iter().any(Origin::is_any),
            origins,
        }
    }

    /// Whether responses differ between origins, so that caches must know it (`Vary`).
    pub fn varies(&self) -> bool {
        !self.any && !self.origins.is_empty()
    }

    /// The value of `Access-Control-Allow-Origin` for a page of this origin, if it may read responses.
    pub fn allowed<'a>(&self, origin: &'a str) -> Option<&'a str> {
        if self.any {
            return Some("*");
        }
        let mut allowed = self.origins.iter();
        allowed.any(|allowed| allowed.is(origin)).then_some(origin)
    }
}

/// What a page of another origin says of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrossOrigin {
    /// `Origin`, as it was sent.
    pub origin: String,
    /// Whether this is a preflight: an OPTIONS with `Access-Control-Request-Method`.
    pub preflight: bool,
    /// `Access-Control-Request-Headers`: the fields that the page wants to send.
    pub names: String,
}

impl CrossOrigin {
    /// The fields that it may send: the wanted ones, since none has power here. `None` if they are no list of names.
    pub fn allowed_names(&self) -> Option<&str> {
        let names = self.names.as_str();
        let are_names = field::list(names).all(field::is_token);
        (!names.is_empty() && names.len() <= NAMES_BYTES_MAX && are_names).then_some(names)
    }

    /// Bytes on the heap, and of this itself.
    pub fn held_bytes(&self) -> usize {
        size_of::<CrossOrigin>() + self.origin.capacity() + self.names.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors::new(origins.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn origins_that_were_named() {
        let cors = cors(&["https://Example.org", "http://localhost:3000"]);
        assert!(cors.varies());
        let origin = "https://example.org";
        assert_eq!(cors.allowed(origin), Some(origin));
        assert_eq!(cors.allowed("http://example.org"), None);
    }

    #[test]
    fn any_origin_and_none() {
        let any = cors(&["*"]);
        assert_eq!(any.allowed("null"), Some("*"));
        assert!(!any.varies());
        let none = Cors::default();
        assert_eq!(none.allowed("https://example.org"), None);
        assert!(!none.varies());
    }

    #[test]
    fn names_that_a_page_may_send() {
        let names = |names: &str| {
            let request = CrossOrigin {
                names: names.into(),
                ..CrossOrigin::default()
            };
            request.allowed_names().map(str::to_owned)
        };
        assert_eq!(names("range, If-Match").as_deref(), Some("range, If-Match"));
        for bad in ["", "a b", "a:b", "a\"b", &"a,".repeat(300)] {
            assert_eq!(names(bad), None, "{bad}");
        }
    }
}
