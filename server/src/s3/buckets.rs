//! Which paths are S3's, and what a request on them asks for. Paths are `/BUCKET/KEY` (path-style); what only reads is
//! answered, everything else is refused in S3's own form.

use std::borrow::Cow;

use super::error::{Code, Error};
use crate::config::bucket::Bucket;

/// The region that a server says it is in when the operator doesn't say.
pub const REGION_DEFAULT: &str = "us-east-1";

/// The buckets of the server.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    all: Vec<Bucket>,
    region: Option<String>,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// ListBuckets.
    ListBuckets,
    /// GetBucketLocation.
    Location(&'a Bucket),
    /// HeadBucket.
    HeadBucket(&'a Bucket),
    /// ListObjectsV2, or ListObjects.
    List(&'a Bucket, Box<ListQuery>),
    /// GetObject or HeadObject of the object with this key.
    Object {
        /// The key.
        key: String,
        /// Whether it is asked for as a part: every object has one.
        is_part: bool,
    },
}

/// What a listing is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Whether it is ListObjectsV2.
    pub v2: bool,
    /// How the keys begin, in the bucket.
    pub prefix: String,
    /// What ends a common prefix; empty if there are none.
    pub delimiter: String,
    /// The listing begins behind this key or common prefix, in the bucket.
    pub after: String,
    /// `continuation-token` as it was given.
    pub token: Option<String>,
    /// `start-after` as it was given.
    pub start_after: Option<String>,
    /// The most keys and common prefixes.
    pub max_keys: usize,
    /// Whether keys are to be encoded (`encoding-type=url`).
    pub url: bool,
    /// Whether the owner of each object is named (`fetch-owner`).
    pub owner: bool,
}

impl ListQuery {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        let given = [&self.token, &self.start_after].into_iter().flatten();
        let texts = [&self.prefix, &self.delimiter, &self.after].into_iter();
        texts.chain(given).map(String::capacity).sum()
    }
}

/// The most that one answer lists.
const MAX_KEYS: usize = 1000;

/// Parameters that name a part of S3 that is not here.
const ELSEWHERE: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

impl Buckets {
    /// These buckets. With a `region`, requests must be signed for it.
    pub fn new(all: Vec<Bucket>, region: Option<String>) -> Buckets {
        Buckets { all, region }
    }

    /// All of them.
    pub fn all(&self) -> &[Bucket] {
        &self.all
    }

    /// The region that requests must be signed for, if it matters.
    pub fn region_wanted(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The region that the server says it is in.
    pub fn region(&self) -> &str {
        self.region.as_deref().unwrap_or(REGION_DEFAULT)
    }

    /// Whether a path, without its leading slash, is S3's: a bucket, what is in it, or the list of them all.
    pub fn own(&self, path: &str) -> bool {
        !self.all.is_empty() && (path.is_empty() || self.find(path).is_some())
    }

    fn find<'a>(&self, path: &'a str) -> Option<(&Bucket, &'a str)> {
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let bucket = self.all.iter().find(|bucket| bucket.name == name)?;
        Some((bucket, rest))
    }

    /// What a request asks for whose path is S3's; `None` if it is not.
    ///
    /// # Errors
    /// If it is not answered here, or is not as it should be.
    pub fn operation(
        &self,
        is_head: bool,
        path: &str,
        query: &str,
    ) -> Option<Result<Operation<'_>, Error>> {
        if !self.own(path) {
            return None;
        }
        Some(match self.find(path) {
            None => match is_head {
                false => Ok(Operation::ListBuckets),
                true => Err(Error::new(
                    Code::MethodNotAllowed,
                    "a list of buckets is read with GET",
                )),
            },
            Some((bucket, "")) if is_head => Ok(Operation::HeadBucket(bucket)),
            Some((bucket, "")) => bucket_operation(bucket, query),
            Some((bucket, key)) => object_operation(bucket, key, query),
        })
    }
}

/// Names and values of a query, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

fn refuse_elsewhere(query: &str) -> Result<(), Error> {
    for (name, value) in parameters(query) {
        // The version that every object here has.
        if name == "versionId" && value == "null" {
            continue;
        }
        if ELSEWHERE.contains(&&*name) {
            return Err(Error {
                message: format!("objects can only be read and listed here: there is no `{name}`")
                    .into(),
                ..Error::new(Code::NotImplemented, "")
            });
        }
    }
    Ok(())
}

/// The highest number of a part.
const PARTS_MAX: u64 = 10_000;

fn object_operation<'a>(bucket: &Bucket, key: &str, query: &str) -> Result<Operation<'a>, Error> {
    refuse_elsewhere(query)?;
    let mut numbers = parameters(query).filter(|(name, _)| name == "partNumber");
    let number = numbers.next().map(|(_, value)| match numbers.next() {
        None if value.bytes().all(|b| b.is_ascii_digit()) => value.parse().unwrap_or(0),
        _ => 0,
    });
    match number {
        None | Some(1) => Ok(Operation::Object {
            key: format!("{}{key}", bucket.prefix),
            is_part: number.is_some(),
        }),
        Some(2..=PARTS_MAX) => Err(Error::new(
            Code::InvalidPartNumber,
            "every object here was put as one part",
        )),
        Some(_) => Err(Error::new(
            Code::InvalidArgument,
            "partNumber must be a number from 1 to 10000",
        )),
    }
}

/// What a listing hears of its query.
const LIST_PARAMETERS: [&str; 9] = [
    "list-type",
    "prefix",
    "delimiter",
    "start-after",
    "continuation-token",
    "marker",
    "max-keys",
    "encoding-type",
    "fetch-owner",
];

fn bucket_operation<'a>(bucket: &'a Bucket, query: &str) -> Result<Operation<'a>, Error> {
    if parameters(query).any(|(name, _)| name == "location") {
        return Ok(Operation::Location(bucket));
    }
    refuse_elsewhere(query)?;
    let wrong = |message| Error::new(Code::InvalidArgument, message);
    let mut list = ListQuery {
        max_keys: MAX_KEYS,
        ..ListQuery::default()
    };
    let (mut marker, mut type_given) = (None, None);
    let mut seen = Vec::new();
    for (name, value) in parameters(query) {
        // Which of two counts isn't covered by a signature, which sorts them.
        let is_known = LIST_PARAMETERS.contains(&&*name);
        if is_known && seen.contains(&name) {
            return Err(wrong("a parameter of the listing comes twice"));
        }
        if is_known {
            seen.push(name.clone());
        }
        match &*name {
            "list-type" => type_given = Some(value),
            "prefix" => list.prefix = value.into_owned(),
            "delimiter" => list.delimiter = value.into_owned(),
            "start-after" => list.start_after = Some(value.into_owned()),
            "continuation-token" => list.token = Some(value.into_owned()),
            "marker" => marker = Some(value.into_owned()),
            "max-keys" => {
                let number: Option<u64> = value.parse().ok().filter(|_| !value.starts_with('+'));
                let number = number.ok_or(wrong("max-keys must be a number from 0 on"))?;
                list.max_keys = usize::try_from(number).unwrap_or(MAX_KEYS).min(MAX_KEYS);
            }
            "fetch-owner" => list.owner = value == "true",
            "encoding-type" if value == "url" => list.url = true,
            "encoding-type" => return Err(wrong("encoding-type can only be url")),
            _ => {}
        }
    }
    list.v2 = match type_given.as_deref() {
        None => false,
        Some("2") => true,
        Some(_) => return Err(wrong("list-type can only be 2")),
    };
    // ListObjects names it always.
    list.owner |= !list.v2;
    list.after = if !list.v2 {
        marker.unwrap_or_default()
    } else if let Some(token) = &list.token {
        position(token).ok_or(wrong(
            "this continuation-token is not one that was given here",
        ))?
    } else {
        list.start_after.clone().unwrap_or_default()
    };
    Ok(Operation::List(bucket, Box::new(list)))
}

/// The `continuation-token` for what comes behind this key or common prefix.
pub fn token(position: &str) -> String {
    let mut text = String::with_capacity(1 + 2 * position.len());
    text.push('1');
    for byte in position.bytes() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).expect("four bits"));
        }
    }
    text
}

fn position(token: &str) -> Option<String> {
    let digits = token.strip_prefix('1')?.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buckets() -> Buckets {
        let all = ["media", "logs=archive/logs/", "all="];
        Buckets::new(all.iter().map(|text| text.parse().unwrap()).collect(), None)
    }

    fn operation(path: &str, query: &str) -> Result<String, Code> {
        let buckets = buckets();
        let operation = buckets.operation(false, path, query).expect("S3's");
        operation
            .map(|operation| match operation {
                Operation::ListBuckets => "buckets".into(),
                Operation::Location(bucket) => format!("location of {}", bucket.name),
                Operation::HeadBucket(bucket) => format!("head of {}", bucket.name),
                Operation::List(bucket, _) => format!("list of {}", bucket.name),
                Operation::Object { key, is_part } => key + if is_part { " as a part" } else { "" },
            })
            .map_err(|error| error.code)
    }

    /// Their order isn't covered by a signature: whoever holds a link could have the other one count.
    #[test]
    fn a_parameter_that_comes_twice_is_refused() {
        for query in ["prefix=a&prefix=b", "list-type=2&max-keys=1&max-keys=2"] {
            assert_eq!(
                operation("media", query),
                Err(Code::InvalidArgument),
                "{query}"
            );
        }
        assert!(operation("media", "x=1&x=2&prefix=a").is_ok());
    }

    #[test]
    fn paths_are_buckets_and_keys() {
        for (path, query, expected) in [
            ("", "", "buckets"),
            ("media", "location", "location of media"),
            ("media/", "location=", "location of media"),
            ("media", "", "list of media"),
            ("media/", "list-type=2&prefix=a", "list of media"),
            ("media/a/b", "x-id=GetObject", "media/a/b"),
            ("media/a/b", "versionId=null", "media/a/b"),
            ("media/a/b", "partNumber=1", "media/a/b as a part"),
            ("media/a/b", "response-expires=x", "media/a/b"),
            ("logs/2026.txt", "", "archive/logs/2026.txt"),
            ("all/media/x", "", "media/x"),
        ] {
            assert_eq!(
                operation(path, query),
                Ok(expected.into()),
                "{path}?{query}"
            );
        }
        for (path, query) in [
            ("media", "acl"),
            ("media", "versions"),
            ("media/x", "tagging"),
            ("media/x", "versionId=1"),
        ] {
            assert_eq!(
                operation(path, query),
                Err(Code::NotImplemented),
                "{path}?{query}"
            );
        }
        for query in [
            "max-keys=-1",
            "max-keys=+1",
            "max-keys=x",
            "encoding-type=x",
            "list-type=1",
            "list-type=2&continuation-token=x",
        ] {
            assert_eq!(
                operation("media", query),
                Err(Code::InvalidArgument),
                "{query}"
            );
        }
        for (number, code) in [
            ("2", Code::InvalidPartNumber),
            ("10000", Code::InvalidPartNumber),
            ("0", Code::InvalidArgument),
            ("10001", Code::InvalidArgument),
            ("+1", Code::InvalidArgument),
            ("", Code::InvalidArgument),
            ("99999999999999999999", Code::InvalidArgument),
            ("1&partNumber=1", Code::InvalidArgument),
        ] {
            let query = format!("partNumber={number}");
            assert_eq!(operation("media/x", &query), Err(code), "{query}");
        }
        for path in ["medi", "other/x", "Media/x"] {
            assert_eq!(buckets().operation(false, path, ""), None, "{path}");
        }
        let none = Buckets::default();
        assert_eq!(none.operation(false, "", ""), None);
        let buckets = buckets();
        let head = |path| buckets.operation(true, path, "").unwrap();
        assert!(matches!(head("media"), Ok(Operation::HeadBucket(_))));
        assert!(head("").is_err());
    }

    #[test]
    fn what_a_listing_is_to_show() {
        let buckets = buckets();
        let list = |query: &str| match buckets.operation(false, "media", query) {
            Some(Ok(Operation::List(_, list))) => *list,
            other => panic!("{query}: {other:?}"),
        };
        let one = list(
            "list-type=2&prefix=a%2Fb+c&delimiter=%2F&start-after=a&max-keys=2000&encoding-type=url",
        );
        assert!(one.v2 && one.url);
        assert_eq!(
            (&*one.prefix, &*one.delimiter, &*one.after),
            ("a/b c", "/", "a")
        );
        assert_eq!(one.max_keys, 1000);
        let next = list(&format!(
            "list-type=2&start-after=a&continuation-token={}",
            token("b/ü")
        ));
        assert_eq!(next.after, "b/ü");
        let first = list("marker=x&max-keys=7");
        assert_eq!((first.v2, &*first.after, first.max_keys), (false, "x", 7));
        let with_owner = |query: &str| list(query).owner;
        assert!(with_owner("") && with_owner("list-type=2&fetch-owner=true"));
        assert!(!with_owner("list-type=2") && !with_owner("list-type=2&fetch-owner=false"));
    }

    proptest! {
        #[test]
        fn tokens_come_back(text in ".*") {
            prop_assert_eq!(position(&token(&text)), Some(text));
        }

        #[test]
        fn any_token_is_read_or_refused(text in ".*") {
            let _ = position(&text);
        }
    }
}
