//! What caches are told of an object that expires: they must not have it for longer than it is there (RFC 9111).

use std::fmt::Write as _;

/// What an object that expires says where its put said nothing: caches ask every time, and get a 304 until it has
/// expired. Left to themselves they would keep it for a part of its age.
const UNSAID: &str = "no-cache";

/// The directives that let a cache use what it has for so many seconds (RFC 9111 section 5.2.2),
const LIFETIMES: [&str; 2] = ["max-age", "s-maxage"];
/// and those that let it use it for so many seconds more (RFC 5861).
const STALE: [&str; 2] = ["stale-while-revalidate", "stale-if-error"];
/// Those that say how long, or that it is not to be used unasked.
const SAYING: [&str; 3] = ["max-age", "no-cache", "no-store"];

/// The `Cache-Control` of an object that expires in so many seconds, and whose put said this: no lifetime in it is longer
/// than what is left. A stale object's time comes after its lifetime, so none is left for it.
pub fn until(said: Option<&str>, seconds_left: u64) -> String {
    let Some(said) = said else {
        return UNSAID.to_owned();
    };
    let mut text = String::with_capacity(said.len() + 16);
    let mut says = false;
    for directive in directives(said) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (directive, None),
        };
        let is_in = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
        says |= is_in(&SAYING);
        text.push_str(if text.is_empty() { "" } else { ", " });
        let most = match () {
            () if is_in(&LIFETIMES) => seconds_left,
            () if is_in(&STALE) => 0,
            () => {
                text.push_str(directive);
                continue;
            }
        };
        let value = value.unwrap_or_default().trim_matches('"');
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = match digits {
            // A number beyond 64 bits is longer than anything.
            true => value.parse().unwrap_or(u64::MAX).min(most),
            false => 0,
        };
        // Writing to a String does not fail.
        let _ = write!(text, "{name}={seconds}");
    }
    if !says {
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str("max-age=0");
    }
    text
}

/// The parts of a list, without blanks around them and without empty ones; a comma in quotes separates nothing.
fn directives(list: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = list.split(move |character| {
        let plain = !std::mem::take(&mut escaped);
        match character {
            '"' if plain => quoted = !quoted,
            '\\' if plain && quoted => escaped = true,
            ',' if !quoted => return true,
            _ => {}
        }
        false
    });
    let parts = parts.map(|part| part.trim_matches([' ', '\t']));
    parts.filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lifetime_outlives_the_object() {
        for (said, left, told) in [
            ("max-age=60", 100, "max-age=60"),
            ("max-age=600", 100, "max-age=100"),
            (
                "public,Max-Age=600 , s-maxage=\"700\"",
                9,
                "public, Max-Age=9, s-maxage=9",
            ),
            (
                "max-age=99999999999999999999999, immutable",
                9,
                "max-age=9, immutable",
            ),
            (
                "max-age=5, stale-while-revalidate=60, stale-if-error=9",
                50,
                "max-age=5, stale-while-revalidate=0, stale-if-error=0",
            ),
            (
                "no-cache=\"a, max-age=9\", max-age=9",
                1,
                "no-cache=\"a, max-age=9\", max-age=1",
            ),
            ("no-store", 1, "no-store"),
            (
                "x=\"\\\",max-age=7\", max-age=7",
                1,
                "x=\"\\\",max-age=7\", max-age=1",
            ),
            // What says nothing of a private cache's time.
            ("public", 9, "public, max-age=0"),
            (
                "s-maxage=60, must-revalidate",
                9,
                "s-maxage=9, must-revalidate, max-age=0",
            ),
            // What no put accepts.
            ("max-age", 9, "max-age=0"),
            ("max-age=-1", 9, "max-age=0"),
            ("max-age=1e9", 9, "max-age=0"),
            (",", 9, "max-age=0"),
            ("\"max-age=9", 1, "\"max-age=9, max-age=0"),
        ] {
            assert_eq!(until(Some(said), left), told, "{said}");
        }
        assert_eq!(until(None, 9), "no-cache");
    }
}
