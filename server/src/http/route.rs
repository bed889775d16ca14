//! What a request's path names: an object in the stores, or a Tahoe-LAFS file by its read-cap.
//!
//! The paths are those of Tahoe-LAFS's own gateway (its `docs/frontends/webapi.rst`), so that links keep
//! working: `/uri/CAP`, `/uri?uri=CAP`, `/file/CAP/@@named=/NAME`, `/named/CAP/NAME`, the first two also with
//! `filename=NAME` and `save=true`. A cap is a secret: nothing here prints one.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::request::Request;
use super::site::Site;

/// What a request asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// An object, by its key.
    Key(Cow<'a, str>),
    /// A file, by its cap.
    Cap {
        /// The cap's text, not yet understood.
        text: Cow<'a, str>,
        /// The file name that the client chose.
        name: Option<Cow<'a, str>>,
        /// Whether the client is to save the file rather than show it.
        save: bool,
    },
}

/// Reads a request's path. Caps are recognised only if there is a `gateway`.
pub fn route<'a>(request: &'a Request, gateway: bool, site: &Site) -> Route<'a> {
    let path = request.path.as_str();
    if !gateway {
        return key(path, site);
    }
    let query = |name: &str| {
        let mut fields = form_urlencoded::parse(request.query.as_bytes());
        fields.find(|(key, _)| key == name).map(|(_, value)| value)
    };
    let filename = || query("filename").filter(|name| !name.is_empty());
    let (text, name) = match path.split_once('/') {
        None if path == "uri" => (query("uri").unwrap_or_default(), filename()),
        Some(("uri", cap)) => (Cow::Borrowed(cap), filename()),
        Some(("file" | "named", rest)) => {
            let (cap, path) = rest.split_once('/').unwrap_or((rest, ""));
            // Tahoe-LAFS takes the last element for the name, whatever is between.
            let name = path.rsplit('/').next().filter(|name| !name.is_empty());
            (Cow::Borrowed(cap), name.map(Cow::Borrowed))
        }
        _ => return key(path, site),
    };
    let save = query("save").is_some_and(|value| is_true(&value));
    Route::Cap { text, name, save }
}

/// The key that a path means. A directory's is its index file's, if there are such.
fn key<'a>(path: &'a str, site: &Site) -> Route<'a> {
    match &site.index {
        Some(index) if path.is_empty() || path.ends_with('/') => {
            Route::Key(Cow::Owned(format!("{path}{index}")))
        }
        _ => Route::Key(Cow::Borrowed(path)),
    }
}

/// Reads a flag in a query as Tahoe-LAFS does.
fn is_true(value: &str) -> bool {
    ["true", "t", "1", "on", "yes"].contains(&value.to_ascii_lowercase().as_str())
}

/// The longest file name in bytes: what file systems can store.
pub const NAME_BYTES_MAX: usize = 255;

/// The media type, by the extension of the file's name. Without a name it is text, as in Tahoe-LAFS.
pub fn content_type(name: Option<&str>) -> String {
    match name {
        None => "text/plain".to_owned(),
        Some(name) => mime_guess::from_path(name)
            .first_or_octet_stream()
            .essence_str()
            .to_owned(),
    }
}

/// Characters that an extended value must escape (RFC 8187 section 3.2.1).
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The value of `Content-Disposition` (RFC 6266): the name in ASCII for old clients, and the exact name.
pub fn disposition(name: Option<&str>, save: bool) -> Option<String> {
    let kind = if save { "attachment" } else { "inline" };
    let Some(name) = name else {
        return save.then(|| kind.to_owned());
    };
    let plain: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '%' => '_',
            ' '..='~' => c,
            _ => '_',
        })
        .collect();
    let mut value = format!("{kind}; filename=\"{plain}\"");
    if plain != name {
        // Writing to a String does not fail.
        let _ = write!(
            value,
            "; filename*=UTF-8''{}",
            utf8_percent_encode(name, ATTRIBUTE)
        );
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::parse::{Parsed, parse};
    use super::*;

    fn request(target: &str) -> Request {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        match parse(head.as_bytes()) {
            Parsed::Request(request, _) => *request,
            other => panic!("{target}: {other:?}"),
        }
    }

    /// Cap, name, save.
    fn cap(target: &str) -> (String, Option<String>, bool) {
        match route(&request(target), true, &Site::default()) {
            Route::Cap { text, name, save } => (text.into_owned(), name.map(Cow::into_owned), save),
            Route::Key(key) => panic!("{target} is the key {key}"),
        }
    }

    #[test]
    fn the_ways_to_name_a_file() {
        let plain = ("URI:LIT:aa".to_owned(), None, false);
        for target in [
            "/uri/URI:LIT:aa",
            "/uri/URI%3ALIT%3Aaa",
            "/uri?uri=URI%3ALIT%3Aaa",
            "/uri?x=y&uri=URI:LIT:aa",
            "/file/URI:LIT:aa",
            "/named/URI:LIT:aa/",
        ] {
            assert_eq!(cap(target), plain, "{target}");
        }
        let named = |name: &str, save| ("URI:LIT:aa".to_owned(), Some(name.to_owned()), save);
        assert_eq!(
            cap("/file/URI%3ALIT%3Aaa/@@named=/a%20b.jpg"),
            named("a b.jpg", false)
        );
        assert_eq!(cap("/named/URI:LIT:aa/b/c.txt"), named("c.txt", false));
        assert_eq!(
            cap("/uri/URI:LIT:aa?filename=x+%C3%A9.txt&save=true"),
            named("x é.txt", true)
        );
        assert_eq!(cap("/uri"), (String::new(), None, false));
        assert_eq!(cap("/uri/URI:CHK:a/b").0, "URI:CHK:a/b");
    }

    #[test]
    fn other_paths_are_keys_and_all_are_without_a_gateway() {
        for (target, gateway) in [
            ("/a/uri/b", true),
            ("/urix", true),
            ("/file", true),
            ("/uri/URI:LIT:aa", false),
        ] {
            let request = request(target);
            assert!(
                route(&request, gateway, &Site::default())
                    == Route::Key(Cow::Borrowed(&target[1..])),
                "{target}"
            );
        }
    }

    #[test]
    fn a_directory_is_its_index_file() {
        let site = Site {
            index: Some("index.html".into()),
            ..Site::default()
        };
        for (target, key) in [
            ("/", "index.html"),
            ("/docs/", "docs/index.html"),
            ("/docs/.", "docs/index.html"),
            ("/docs", "docs"),
            ("/a.html", "a.html"),
        ] {
            let request = request(target);
            for gateway in [true, false] {
                let route = route(&request, gateway, &site);
                assert!(route == Route::Key(Cow::Borrowed(key)), "{target}");
            }
        }
    }

    #[test]
    fn names_become_types_and_dispositions() {
        assert_eq!(content_type(None), "text/plain");
        assert_eq!(content_type(Some("a.png")), "image/png");
        assert_eq!(content_type(Some("a")), "application/octet-stream");
        assert_eq!(disposition(None, false), None);
        assert_eq!(disposition(None, true).unwrap(), "attachment");
        assert_eq!(
            disposition(Some("a b.txt"), false).unwrap(),
            "inline; filename=\"a b.txt\""
        );
        assert_eq!(
            disposition(Some("é\"\r\n.txt"), true).unwrap(),
            "attachment; filename=\"____.txt\"; filename*=UTF-8''%C3%A9%22%0D%0A.txt"
        );
    }
}
