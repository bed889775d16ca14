//! What a request is for: its target (RFC 9112 section 3.2) and its host (RFC 9110 section 7.2).

use std::borrow::Cow;
use std::net::Ipv6Addr;

use percent_encoding::percent_decode;

use super::field;

/// The path and the query of a request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path, percent-decoded, without dot segments and without its leading slash.
    pub path: String,
    /// The query behind the path's `?`, not decoded.
    pub query: String,
}

/// Reads a target in origin form or absolute form. `None`: it is neither, has broken escapes, or doesn't
/// decode to UTF-8.
pub fn parse(target: &str) -> Option<Target> {
    let target = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // An http URL without a host is invalid (RFC 9110 section 4.2.1).
        if authority.is_empty() || !is_host(authority.as_bytes()) {
            return None;
        }
        path
    };
    // A target has no fragment (RFC 9112 section 3.2): what judges it in front of us may take `#` for a part of the path.
    if target.as_bytes().contains(&b'#') {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Target {
        path: decode(path)?,
        query: query.to_owned(),
    })
}

/// Decodes an absolute path, removes its dot segments and its leading slash. `..` never leads above the root (RFC 3986
/// section 5.2.4), and `%2E` means a dot (section 6.2.2.2). But `%2F` is no slash to whatever looks at the path before us:
/// with it no dot segment may come up that was none before.
fn decode(path: &str) -> Option<String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    // The usual case: nothing to decode, and no segment that begins with a dot.
    let bytes = path.as_bytes();
    if !bytes.starts_with(b".")
        && !bytes.contains(&b'%')
        && !field::has_pair(bytes, |one, next| one == b'/' && next == b'.')
    {
        return Some(path.to_owned());
    }
    if has_broken_escape(bytes) {
        return None;
    }
    let mut kept: Vec<Cow<'_, str>> = Vec::new();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let segment = percent_decode(segment.as_bytes()).decode_utf8().ok()?;
        let is_last = segments.peek().is_none();
        match &*segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            text if has_dot_segments(text) => return None,
            _ => {
                kept.push(segment);
                continue;
            }
        }
        // What ends in a dot segment names a directory.
        if is_last {
            kept.push(Cow::Borrowed(""));
        }
    }
    Some(kept.join("/"))
}

/// Whether there is a `%` without two hex digits behind it (RFC 3986 section 2.1). Some take it for itself, others don't.
fn has_broken_escape(path: &[u8]) -> bool {
    path.iter().enumerate().any(|(at, &b)| {
        let digits = path.get(at + 1..at + 3);
        b == b'%' && !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether a decoded path has segments `.` or `..`.
pub fn has_dot_segments(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Whether this can be a `Host`: empty, or a host, perhaps with a port, as RFC 3986 section 3.2 writes them. There is no
/// user before it.
pub fn is_host(value: &[u8]) -> bool {
    let (name, port) = if let Some(rest) = value.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&b| b == b']') else {
            return false;
        };
        let literal = str::from_utf8(&rest[..end]).unwrap_or_default();
        if literal.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        (&[][..], &rest[end + 1..])
    } else {
        let end = value.iter().position(|&b| b == b':');
        value.split_at(end.unwrap_or(value.len()))
    };
    is_registered_name(name)
        && match port {
            [] => true,
            [b':', digits @ ..] => is_port(digits),
            _ => false,
        }
}

/// A port may be empty (RFC 3986 section 3.2.3).
fn is_port(digits: &[u8]) -> bool {
    let port = digits.iter().try_fold(0_u16, |port, &b| {
        let digit = b.is_ascii_digit().then(|| u16::from(b - b'0'))?;
        port.checked_mul(10)?.checked_add(digit)
    });
    port.is_some()
}

/// The bytes that a `reg-name` may have as they are: unreserved ones and sub-delims.
static NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < table.len() {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// `reg-name` of RFC 3986 section 3.2.2; IPv4 addresses look like one.
fn is_registered_name(name: &[u8]) -> bool {
    // The usual case: nothing is encoded.
    if name.iter().all(|b| NAME_BYTES[usize::from(*b)]) {
        return true;
    }
    let mut rest = name;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [b, rest @ ..] if NAME_BYTES[usize::from(*b)] => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Option<String> {
        parse(target).map(|target| target.path)
    }

    /// apt asks a flat repository for `/flat/./Packages`, and got 404.
    #[test]
    fn dot_segments_are_removed() {
        for (target, expected) in [
            ("/flat/./Packages", "flat/Packages"),
            ("/./a", "a"),
            ("/a/b/../c", "a/c"),
            ("/a/../../../c", "c"),
            ("/..", ""),
            ("/.", ""),
            ("/a/b/..", "a/"),
            ("/a/b/.", "a/b/"),
            ("/a/%2e%2E/b", "b"),
            ("/a//../b", "a/b"),
            ("/a.b/..c/.d/e..", "a.b/..c/.d/e.."),
            ("/a/%252e/b", "a/%2e/b"),
            ("/a/...", "a/..."),
        ] {
            assert_eq!(path(target).as_deref(), Some(expected), "{target}");
        }
    }

    #[test]
    fn forms_of_a_target() {
        let target = parse("/a%20b/c%C3%A9?x=%31").unwrap();
        assert_eq!((&*target.path, &*target.query), ("a b/cé", "x=%31"));
        assert_eq!(path("http://h:80/x").as_deref(), Some("x"));
        assert_eq!(path("HTTPS://[::1]/x").as_deref(), Some("x"));
        assert_eq!(path("http://h").as_deref(), Some(""));
        assert_eq!(path("http://h?a/b").as_deref(), Some(""));
        for bad in [
            "x",
            "*",
            "",
            "ftp://h/x",
            "http:///x",
            "http://u@h/x",
            "http://:80x/",
            "/%ff",
            "/%",
            "/a%4",
            "/a%zz/b",
            "/a%u0041",
            "/a%+1",
            "/x#f",
            "http://h#/x",
            "/a/..%2fb",
            "/a/%2e%2e%2fb",
            "/a%2f.",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for good in [
            "",
            "h",
            "example.org",
            "example.org:",
            "example.org:80",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:443",
            "a_b.example",
            "%41.example",
            "x:65535",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "a/b", "a@b", "a/b@c", "[::1", "::1", "[::1]x", "[x]", "x:y", "x:-1", "x:65536",
            "x:1:2", "a b", "a,b c", "%4", "%zz", "a?b", "a#b", "é", "a\tb",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
