//! One page of a listing, from the keys that a window has.

use std::borrow::Cow;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use super::buckets::{ListQuery, token};
use super::sigv4;
use super::window::{Entry, Window};
use super::xml::Document;
use crate::config::bucket::Bucket;

/// What comes of looking for a page in a window.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The document.
    Page(Vec<u8>),
    /// The window doesn't have what comes behind this place.
    Beyond(String),
}

/// A key or a common prefix.
#[derive(Debug)]
struct Item<'a> {
    /// Its name in the bucket, as it is written.
    name: Cow<'a, str>,
    /// What there is of a key.
    entry: Option<&'a Entry>,
}

/// What an item takes in a document beside its name: its elements, a date, a digest, a size.
const ITEM_BYTES: usize = 280;
/// What its owner adds.
const OWNER_BYTES: usize = 70;
/// What a document takes beside its items, and beside what it repeats of the request.
const DOCUMENT_BYTES: usize = 1024;
/// What the longest request has repeated, each byte escaped.
const REPEATED_BYTES: usize = 6 * crate::memory::limits::TARGET_BYTES_MAX;
/// The least that a document with one item takes.
pub const PAGE_BYTES_LEAST: usize = 64 << 10;

const _: () = assert!(
    DOCUMENT_BYTES + REPEATED_BYTES + ITEM_BYTES + OWNER_BYTES + 6 * 1024 <= PAGE_BYTES_LEAST
);

/// Makes a page, of `bytes_max` at most. It may have fewer keys than were asked for, and then says so.
pub fn page(window: &Window, bucket: &Bucket, query: &ListQuery, bytes_max: usize) -> Outcome {
    let prefix = format!("{}{}", bucket.prefix, query.prefix);
    let start = start(bucket, query, &prefix);
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut next = None;
    let room_all = bytes_max.saturating_sub(DOCUMENT_BYTES + REPEATED_BYTES);
    let mut room = room_all;
    if query.max_keys > 0 {
        if !window.covers(start.position()) {
            return Outcome::Beyond(start.position().to_owned());
        }
        match collect(
            window, bucket, query, &prefix, &start, &mut room, &mut items,
        ) {
            End::Last => {}
            End::Truncated(last) => next = Some(last),
            End::Cut(None) => return Outcome::Beyond(start.position().to_owned()),
            End::Cut(last) => next = last,
        }
    }
    // All of it at once: one that grows would take twice its length, and more while it does.
    let bytes = bytes_max.saturating_sub(room_all) + (room_all - room);
    Outcome::Page(document(bucket, query, &items, next.as_deref(), bytes))
}

/// The place behind which a page begins.
pub fn position(bucket: &Bucket, query: &ListQuery) -> String {
    let prefix = format!("{}{}", bucket.prefix, query.prefix);
    start(bucket, query, &prefix).position().to_owned()
}

/// Where a page begins.
enum Start {
    At(String),
    Behind(String),
}

impl Start {
    fn position(&self) -> &str {
        let (Start::At(position) | Start::Behind(position)) = self;
        position
    }

    fn bound(&self) -> Bound<&str> {
        match self {
            Start::At(position) => Bound::Included(position),
            Start::Behind(position) => Bound::Excluded(position),
        }
    }
}

fn start(bucket: &Bucket, query: &ListQuery, prefix: &str) -> Start {
    let after = format!("{}{}", bucket.prefix, query.after);
    if query.after.is_empty() || *after < *prefix {
        return Start::At(prefix.to_owned());
    }
    match common_prefix(&after, prefix, &query.delimiter) {
        // The last page ended with it, so nothing that begins like it comes again.
        Some(common) if common == after => Start::Behind(behind(common)),
        _ => Start::Behind(after),
    }
}

/// A place behind most of what begins like this.
fn behind(common: &str) -> String {
    format!("{common}{}", char::MAX)
}

/// What a key is shown as, if it has the delimiter behind the prefix.
fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Why a page ends.
enum End {
    /// There is no more.
    Last,
    /// There is more, behind this name.
    Truncated(String),
    /// The window has no more than this name, or nothing.
    Cut(Option<String>),
}

fn collect<'a>(
    window: &'a Window,
    bucket: &Bucket,
    query: &ListQuery,
    prefix: &str,
    start: &Start,
    room: &mut usize,
    items: &mut Vec<Item<'a>>,
) -> End {
    let mut common_last: Option<&'a str> = None;
    let skipped = start
        .position()
        .strip_suffix(char::MAX)
        .filter(|_| !query.delimiter.is_empty());
    let mut last: Option<&'a str> = None;
    let mut range = window.range(start.bound());
    while let Some((key, entry)) = range.next() {
        let key: &str = key;
        if !key.starts_with(prefix) {
            return End::Last;
        }
        let passed = |common: &str| key.starts_with(common);
        let name = &key[bucket.prefix.len()..];
        if name.is_empty() || common_last.is_some_and(passed) || skipped.is_some_and(passed) {
            continue;
        }
        let common = common_prefix(key, prefix, &query.delimiter);
        let shown = common.map_or(name, |common| &common[bucket.prefix.len()..]);
        let written = encoded(shown, query.url);
        let escapes = written.bytes().filter(|byte| b"<>&'\"".contains(byte));
        let owner_bytes = if query.owner { OWNER_BYTES } else { 0 };
        let bytes = ITEM_BYTES + owner_bytes + written.len() + 5 * escapes.count();
        if items.len() == query.max_keys || bytes > *room {
            return End::Truncated(last.unwrap_or_default().to_owned());
        }
        *room -= bytes;
        last = Some(shown);
        items.push(Item {
            name: written,
            entry: common.is_none().then_some(entry),
        });
        if let Some(common) = common {
            common_last = Some(common);
            range = window.range(Bound::Excluded(&behind(common)));
        }
    }
    match window.is_cut() {
        true => End::Cut(last.map(str::to_owned)),
        false => End::Last,
    }
}

fn encoded(text: &str, url: bool) -> Cow<'_, str> {
    match url {
        true => Cow::Owned(sigv4::encode_path(text)),
        false => Cow::Borrowed(text),
    }
}

fn document(
    bucket: &Bucket,
    query: &ListQuery,
    items: &[Item<'_>],
    next: Option<&str>,
    bytes: usize,
) -> Vec<u8> {
    const ROOT: &str = "ListBucketResult";
    let shown = |text: &str| encoded(text, query.url).into_owned();
    let mut document = Document::new(ROOT, true, bytes);
    document.text("Name", &bucket.name);
    document.text("Prefix", &shown(&query.prefix));
    if query.v2 {
        document.text("KeyCount", &items.len().to_string());
        if let Some(token) = &query.token {
            document.text("ContinuationToken", token);
        }
        if let Some(start_after) = &query.start_after {
            document.text("StartAfter", &shown(start_after));
        }
        if let Some(next) = next {
            document.text("NextContinuationToken", &token(next));
        }
    } else {
        document.text("Marker", &shown(&query.after));
        if let Some(next) = next {
            document.text("NextMarker", &shown(next));
        }
    }
    document.text("MaxKeys", &query.max_keys.to_string());
    if !query.delimiter.is_empty() {
        document.text("Delimiter", &shown(&query.delimiter));
    }
    if query.url {
        document.text("EncodingType", "url");
    }
    document.text("IsTruncated", if next.is_some() { "true" } else { "false" });
    for item in items {
        if let Some(entry) = item.entry {
            let created = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.created));
            let created = created
                .filter(|_| entry.created < YEAR_10000)
                .unwrap_or(SystemTime::UNIX_EPOCH);
            document.open("Contents").text("Key", &item.name);
            document.text(
                "LastModified",
                &humantime::format_rfc3339_millis(created).to_string(),
            );
            document.text("ETag", &format!("\"{}\"", entry.digest));
            document.text("Size", &entry.size.to_string());
            if query.owner {
                document.owner();
            }
            document.text("StorageClass", "STANDARD").close("Contents");
        }
    }
    for item in items.iter().filter(|item| item.entry.is_none()) {
        document.open("CommonPrefixes").text("Prefix", &item.name);
        document.close("CommonPrefixes");
    }
    document.finish(ROOT)
}

/// In seconds since 1970: no date has more than four digits for its year.
const YEAR_10000: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::window::tests::entry;
    use super::*;

    const ALL: usize = 512 << 10;

    fn window(keys: &[&str], bytes_max: usize) -> Window {
        let mut window = Window::new(String::new(), bytes_max, Instant::now());
        for key in keys {
            window.offer(key, entry(5));
        }
        window
    }

    fn bucket(text: &str) -> Bucket {
        text.parse().unwrap()
    }

    fn values(text: &str, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let parts = text.split(&open).skip(1);
        parts
            .map(|part| part.split(&close).next().unwrap().to_owned())
            .collect()
    }

    /// The keys and common prefixes of a page, and what the next one begins behind.
    fn items(
        window: &Window,
        bucket: &Bucket,
        query: &ListQuery,
    ) -> Result<(Vec<String>, Option<String>), String> {
        match page(window, bucket, query, ALL) {
            Outcome::Beyond(position) => Err(position),
            Outcome::Page(bytes) => {
                let text = String::from_utf8(bytes).unwrap();
                let mut items = values(&text, "Key");
                items.extend(
                    values(&text, "CommonPrefixes")
                        .iter()
                        .map(|part| values(part, "Prefix")[0].clone()),
                );
                items.sort();
                let next = values(&text, "NextMarker").pop();
                assert_eq!(values(&text, "IsTruncated"), [next.is_some().to_string()]);
                Ok((items, next))
            }
        }
    }

    fn query(prefix: &str, delimiter: &str, max_keys: usize) -> ListQuery {
        ListQuery {
            prefix: prefix.into(),
            delimiter: delimiter.into(),
            max_keys,
            ..ListQuery::default()
        }
    }

    const KEYS: &[&str] = &[
        "media/a.txt",
        "media/d/1",
        "media/d/2",
        "media/d/e/3",
        "media/z",
        "other",
        "mediax",
    ];

    #[test]
    fn directories_are_common_prefixes() {
        let window = window(KEYS, 1 << 20);
        let media = bucket("media");
        let list = |prefix, delimiter| {
            items(&window, &media, &query(prefix, delimiter, 1000))
                .unwrap()
                .0
        };
        assert_eq!(list("", "/"), ["a.txt", "d/", "z"]);
        assert_eq!(list("d/", "/"), ["d/1", "d/2", "d/e/"]);
        assert_eq!(list("d", "/"), ["d/"]);
        assert_eq!(list("", ""), ["a.txt", "d/1", "d/2", "d/e/3", "z"]);
        assert_eq!(list("x", "/"), [""; 0]);
        let all = items(&window, &bucket("all="), &query("media", "", 1000))
            .unwrap()
            .0;
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn the_document() {
        let window = window(&["media/a&b c"], 1 << 20);
        let query = ListQuery {
            v2: true,
            ..query("a", "", 2)
        };
        let Outcome::Page(bytes) = page(&window, &bucket("media"), &query, ALL) else {
            panic!()
        };
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <Name>media</Name><Prefix>a</Prefix><KeyCount>1</KeyCount><MaxKeys>2</MaxKeys><IsTruncated>false</IsTruncated>\
                 <Contents><Key>a&amp;b c</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>",
                "07".repeat(32)
            )
        );
        let url = ListQuery { url: true, ..query };
        let Outcome::Page(bytes) = page(&window, &bucket("media"), &url, ALL) else {
            panic!()
        };
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(values(&text, "Key"), ["a%26b%20c"]);
        assert_eq!(values(&text, "EncodingType"), ["url"]);
        let owner = ListQuery { owner: true, ..url };
        let Outcome::Page(bytes) = page(&window, &bucket("media"), &owner, ALL) else {
            panic!()
        };
        let text = String::from_utf8(bytes).unwrap();
        let contents = &values(&text, "Contents")[0];
        assert_eq!(
            values(contents, "Owner"),
            ["<ID>penstock</ID><DisplayName>penstock</DisplayName>"]
        );
    }

    #[test]
    fn a_page_is_never_longer_than_it_may_be() {
        for (name_bytes, owner) in [(1000, false), (1000, true), (0, false), (0, true)] {
            no_page_is_longer_than_it_may_be(name_bytes, owner);
        }
    }

    fn no_page_is_longer_than_it_may_be(name_bytes: usize, owner: bool) {
        let keys: Vec<String> = (0..1000)
            .map(|i| format!("media/{i:04}{}", "&".repeat(name_bytes)))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let window = window(&keys, 8 << 20);
        let (mut after, mut seen) = (String::new(), 0);
        loop {
            let query = ListQuery {
                after,
                owner,
                ..query("", "", 1000)
            };
            let Outcome::Page(bytes) = page(&window, &bucket("media"), &query, PAGE_BYTES_LEAST)
            else {
                panic!()
            };
            assert!(bytes.capacity() <= PAGE_BYTES_LEAST, "{}", bytes.capacity());
            let text = String::from_utf8(bytes).unwrap().replace("&amp;", "&");
            seen += values(&text, "Key").len();
            match values(&text, "NextMarker").pop() {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(seen, 1000);
    }

    proptest! {
        #[test]
        fn pages_join(
            keys in prop::collection::btree_set("media/[ab! /é]{1,5}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in "[/b]?",
            max_keys in 1usize..5,
            // With room for one, the next window would hold what the last page ended with, and no more.
            room in 2usize..50,
            url in any::<bool>(),
        ) {
            let decoded = |text: &String| match url {
                true => percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned(),
                false => text.clone(),
            };
            let media = bucket("media");
            let mut right: Vec<String> = keys
                .iter()
                .map(|key| &key["media/".len()..])
                .filter(|key| key.starts_with(&prefix))
                .map(|key| common_prefix(key, &prefix, &delimiter).unwrap_or(key).to_owned())
                .collect();
            right.sort();
            right.dedup();
            let make = |from: String| {
                let mut window = Window::new(from, room * 300, Instant::now());
                for key in &keys {
                    window.offer(key, entry(1));
                }
                window
            };
            let mut window = make(String::new());
            let (mut found, mut after) = (Vec::new(), String::new());
            for _ in 0..400 {
                let query = ListQuery { after: after.clone(), url, ..query(&prefix, &delimiter, max_keys) };
                match items(&window, &media, &query) {
                    Err(position) => window = make(position),
                    Ok((page, next)) => {
                        prop_assert!(page.len() <= max_keys);
                        let mut page: Vec<String> = page.iter().map(decoded).collect();
                        page.sort();
                        found.extend(page);
                        match next.as_ref().map(decoded) {
                            Some(next) => after = next,
                            None => {
                                prop_assert_eq!(found, right);
                                return Ok(());
                            }
                        }
                    }
                }
            }
            prop_assert!(false, "it has no end");
        }
    }
}
