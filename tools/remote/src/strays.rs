//! Listings without the names that no file of a store has.
//!
//! `object_store` refuses a whole page of a listing for one name that is no path of its own: with an empty segment, or `..`,
//! or control characters. It also takes the slash off that other tools' markers of folders end with, so that they look like
//! files. Anybody who may write to the bucket could keep it out of all listings with a single key. So such names are taken
//! out of the answer before it is read.

use std::borrow::Cow;

use object_store::path::Path;

/// Elements of a listing, what they are named by, and whether that ends with a slash.
const ELEMENTS: [(&str, &str, bool); 4] = [
    ("Contents", "Key", false),
    ("CommonPrefixes", "Prefix", true),
    // Of Azure.
    ("Blob", "Name", false),
    ("BlobPrefix", "Name", true),
];

/// The answer to a listing without its strays. What is not understood is left as it is.
pub(crate) fn without_strays(listing: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    // All before it was looked at, and all before `copied` is in `kept`.
    let (mut at, mut copied) = (0, 0);
    while let Some(start) = listing.get(at..).and_then(|rest| rest.find('<')) {
        let start = at + start;
        let rest = &listing[start + 1..];
        at = start + 1;
        let Some(&(element, name, is_dir)) = ELEMENTS.iter().find(|(element, ..)| {
            rest.strip_prefix(element)
                .is_some_and(|rest| rest.starts_with(['>', ' ']))
        }) else {
            continue;
        };
        let end = format!("</{element}>");
        // There is no later one either: to look for it again and again would take long.
        let Some(length) = rest.find(&end) else {
            break;
        };
        at = start + 1 + length + end.len();
        if is_stray(&rest[..length], name, is_dir) {
            kept.push_str(&listing[copied..start]);
            copied = at;
        }
    }
    match copied {
        0 => Cow::Borrowed(listing),
        _ => Cow::Owned(kept + &listing[copied..]),
    }
}

fn is_stray(element: &str, name: &str, is_dir: bool) -> bool {
    let value = element.split_once(&format!("<{name}>"));
    let value = value.and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    let Some((value, _)) = value else {
        return false;
    };
    let value = plain(value);
    let path = match is_dir {
        true => value.strip_suffix('/').unwrap_or(&value),
        false => &value,
    };
    path.is_empty() || Path::parse(path).map_or(true, |parsed| parsed.as_ref() != path)
}

/// A text without XML's references.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let reference = after.split_once(';').and_then(|(reference, after)| {
            let number = reference.strip_prefix('#').map(|number| {
                let hex = number.strip_prefix(['x', 'X']);
                hex.map_or_else(|| number.parse(), |hex| u32::from_str_radix(hex, 16))
            });
            let character = match (reference, number) {
                ("amp", _) => '&',
                ("lt", _) => '<',
                ("gt", _) => '>',
                ("quot", _) => '"',
                ("apos", _) => '\'',
                (_, Some(Ok(number))) => char::from_u32(number)?,
                _ => return None,
            };
            Some((character, after))
        });
        let (character, after) = reference.unwrap_or(('&', after));
        plain.push(character);
        rest = after;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(key: &str) -> String {
        format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")
    }

    fn dir(prefix: &str) -> String {
        format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>")
    }

    #[test]
    fn strays_are_taken_out() {
        let good = [
            file("a/b"),
            file("a/&amp;&#98;.share"),
            dir("a/"),
            file("é"),
        ];
        let bad = [
            file("a//b"),
            file("a/../b"),
            file("./b"),
            file("a/b/"),
            file("/a"),
            file("a/&#46;&#x2e;/b"),
            file("a/&#1;b"),
            file(""),
            dir("a//"),
            dir("/"),
            dir("../"),
            "<Blob><Name>a//b</Name></Blob>".to_owned(),
            "<BlobPrefix><Name>a//</Name></BlobPrefix>".to_owned(),
        ];
        let page = |parts: &[&String]| {
            let parts: String = parts.iter().map(|part| part.as_str()).collect();
            format!("<ListBucketResult><Name>b</Name><Prefix>..</Prefix>{parts}</ListBucketResult>")
        };
        let plain = page(&good.iter().collect::<Vec<_>>());
        assert!(matches!(without_strays(&plain), Cow::Borrowed(_)));
        for bad in &bad {
            for at in 0..=good.len() {
                let mut with: Vec<&String> = good.iter().collect();
                with.insert(at, bad);
                with.insert(at, bad);
                assert_eq!(without_strays(&page(&with)), plain, "{bad} at {at}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_too_wild(text in "(<Contents>|</Contents>|<Key>|</Key>|<Blob |</Blob>|&|#x|;|/|[a-zé.]){0,40}") {
            let _ = without_strays(&text);
        }
    }
}
