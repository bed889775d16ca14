//! What a put may say of an object beside its content type: when it expires, a checksum of the whole, and header fields
//! that a server sends with it.
//!
//! The fields lie in the header page, one after the other, in this order: by tag, and those with a name of their own by
//! name. So there is one way to write them, and none occurs twice.
//!
//! ```text
//!  bytes  what (integers little-endian)
//!    1    tag: 1 Content-Disposition, 2 Cache-Control, 3 Content-Encoding, 4 Content-Language, 5 a name of its own
//!    2    length of the value, 1 and more
//!    1    length of the name, 3..=128; only with tag 5
//!    …    the name, lower case; only with tag 5
//!    …    the value
//! ```
//!
//! A value is printable ASCII without a space at either end: a field value of RFC 9110 section 5.5, less tabs and what
//! is obsolete. So no value can end its line, and whoever writes a share can't add a line to a response.

use std::fmt;
use std::num::NonZeroU64;

use super::Hex;

/// The most bytes that all fields take together, as they are stored.
pub const FIELDS_BYTES_MAX: usize = 2680;
/// The longest name of a field, in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 128;

/// The fields that are known by a tag, which is their place here and one more.
const KNOWN: [&str; 4] = [
    "Content-Disposition",
    "Cache-Control",
    "Content-Encoding",
    "Content-Language",
];
/// The tag of a field with a name of its own.
const NAMED: u8 = KNOWN.len() as u8 + 1;

/// Names that begin like this are for this server and for those in front of it, except for those of [`ALLOWED`]:
/// `x-accel-` has nginx send files of its own, `x-amz-` is what S3 says of an object.
const RESERVED_PREFIXES: [&str; 3] = ["x-accel-", "x-amz-", "x-penstock-"];
/// What users of S3 give their objects.
const ALLOWED: &str = "x-amz-meta-";
/// The same for whole names.
const RESERVED: [&str; 4] = [
    "x-content-type-options",
    "x-lighttpd-send-file",
    "x-request-id",
    "x-sendfile",
];

/// What a put said of an object, beside its content type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// CRC-64/NVME of the whole object.
    pub crc64nvme: Option<u64>,
    /// When it expires, in seconds since 1970: from then on it is as if it were not there.
    pub expires: Option<NonZeroU64>,
    /// Header fields.
    pub fields: Fields,
}

impl Metadata {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Metadata::default()
    }

    /// Whether the object has expired at this time, in seconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires.get() <= now)
    }

    /// The CRC-64/NVME as it is printed: 16 hexadecimal digits.
    pub fn crc64nvme_text(&self) -> Option<String> {
        self.crc64nvme
            .map(|crc| Hex(&crc.to_be_bytes()).to_string())
    }
}

/// Header fields that a server sends with an object: each a good name and a good value, no name twice.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Fields {
    /// As they are stored.
    encoded: Box<[u8]>,
}

/// Why a field can't be stored, or what is stored is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Neither a known field nor one that begins with `x-`.
    #[error(
        "field name {0:?}: it must be Content-Disposition, Cache-Control, Content-Encoding, Content-Language, or begin \
         with x-"
    )]
    Unknown(String),
    /// Not a token of RFC 9110 section 5.6.2, or too long.
    #[error(
        "field name {0:?}: it must be 3 to {FIELD_NAME_BYTES_MAX} letters, digits and -_.~!#$%&'*+^`|"
    )]
    Name(String),
    /// A name that servers use themselves.
    #[error("field name {0:?} is reserved: servers act on it, or set it themselves")]
    Reserved(String),
    /// Empty, not printable ASCII, or with a space at an end.
    #[error("field {name}: {value:?} is not printable ASCII without a space at either end")]
    Value {
        /// The field's name.
        name: String,
        /// The value.
        value: String,
    },
    /// A name that occurs again.
    #[error("field {0} is given twice")]
    Twice(String),
    /// More than there is room for.
    #[error("the fields take {bytes} bytes together; the most is {FIELDS_BYTES_MAX}")]
    TooLong {
        /// What they take.
        bytes: usize,
    },
    /// What is stored ends within a field.
    #[error("the stored fields end in the middle of one")]
    Truncated,
    /// What is stored has a tag that means nothing.
    #[error("the stored fields have the unknown tag {0}")]
    Tag(u8),
    /// What is stored is not in order.
    #[error("the stored field {0} is not where it belongs")]
    Order(String),
}

/// One field while it is read or written. Ordered as they are stored.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Field<'a> {
    tag: u8,
    name: &'a str,
    value: &'a str,
}

impl<'a> Field<'a> {
    /// Reads the field at the start of `bytes`, and what is behind it.
    fn read(bytes: &'a [u8]) -> Result<(Field<'a>, &'a [u8]), FieldError> {
        let cut =
            |bytes: &'a [u8], len: usize| bytes.split_at_checked(len).ok_or(FieldError::Truncated);
        let (head, bytes) = cut(bytes, 3)?;
        let (tag, value_len) = (head[0], u16::from_le_bytes([head[1], head[2]]));
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (name, bytes) = match tag {
            NAMED => {
                let (len, bytes) = cut(bytes, 1)?;
                let (name, bytes) = cut(bytes, len[0].into())?;
                let name = str::from_utf8(name).map_err(|_| FieldError::Name(lossy(name)))?;
                check_name(name)?;
                (name, bytes)
            }
            1..NAMED => (KNOWN[usize::from(tag) - 1], bytes),
            _ => return Err(FieldError::Tag(tag)),
        };
        let (value, rest) = cut(bytes, value_len.into())?;
        let wrong = || FieldError::Value {
            name: name.to_owned(),
            value: lossy(value),
        };
        let value = str::from_utf8(value).map_err(|_| wrong())?;
        check_value(name, value)?;
        Ok((Field { tag, name, value }, rest))
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.push(self.tag);
        to.extend((self.value.len() as u16).to_le_bytes());
        if self.tag == NAMED {
            to.push(self.name.len() as u8);
            to.extend(self.name.as_bytes());
        }
        to.extend(self.value.as_bytes());
    }
}

/// Whether this is a name that fields may have besides the known ones: lower case, and not reserved.
fn check_name(name: &str) -> Result<(), FieldError> {
    if !name.starts_with("x-") {
        return Err(FieldError::Unknown(name.to_owned()));
    }
    let good =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"-_.~!#$%&'*+^`|".contains(&byte);
    if !(3..=FIELD_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(good) {
        return Err(FieldError::Name(name.to_owned()));
    }
    let reserved = RESERVED_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix));
    if RESERVED.contains(&name) || reserved && !name.starts_with(ALLOWED) {
        return Err(FieldError::Reserved(name.to_owned()));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), FieldError> {
    let printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if value.is_empty() || !printable || value.trim() != value {
        return Err(FieldError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(())
}

impl Fields {
    /// The fields with these names and values, in any order. Names may be written in capitals.
    ///
    /// # Errors
    /// The first that can't be stored, or what all take together.
    pub fn new<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Fields, FieldError> {
        let mut named: Vec<(u8, String, &str)> = Vec::new();
        for (name, value) in fields {
            let known = KNOWN
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name));
            let (tag, name) = match known {
                Some(place) => (place as u8 + 1, KNOWN[place].to_owned()),
                None => (NAMED, name.to_ascii_lowercase()),
            };
            if tag == NAMED {
                check_name(&name)?;
            }
            check_value(&name, value)?;
            if named.iter().any(|(_, other, _)| *other == name) {
                return Err(FieldError::Twice(name));
            }
            named.push((tag, name, value));
        }
        named.sort();
        let bytes = named.iter().map(|(tag, name, value)| match *tag {
            NAMED => 4 + name.len() + value.len(),
            _ => 3 + value.len(),
        });
        let bytes = bytes.sum();
        if bytes > FIELDS_BYTES_MAX {
            return Err(FieldError::TooLong { bytes });
        }
        let mut encoded = Vec::with_capacity(bytes);
        for (tag, name, value) in &named {
            let (tag, name) = (*tag, name.as_str());
            Field { tag, name, value }.write(&mut encoded);
        }
        Ok(Fields {
            encoded: encoded.into(),
        })
    }

    /// Reads stored fields, trusting nothing in them.
    pub(super) fn decode(encoded: &[u8]) -> Result<Fields, FieldError> {
        if encoded.len() > FIELDS_BYTES_MAX {
            return Err(FieldError::TooLong {
                bytes: encoded.len(),
            });
        }
        let (mut rest, mut last) = (encoded, None);
        while !rest.is_empty() {
            let (field, behind) = Field::read(rest)?;
            let place = (field.tag, field.name);
            if last.is_some_and(|last| last >= place) {
                return Err(FieldError::Order(field.name.to_owned()));
            }
            (rest, last) = (behind, Some(place));
        }
        Ok(Fields {
            encoded: encoded.into(),
        })
    }

    /// As they are stored.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Bytes that they take.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Names and values, in their order. Names of their own are in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.encoded[..];
        std::iter::from_fn(move || {
            // They were checked when they were made.
            let (field, behind) = Field::read(rest).ok()?;
            rest = behind;
            Some((field.name, field.value))
        })
    }

    /// The value of a field, by its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.iter();
        fields
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_stored_in_order_whatever_order_they_are_given_in() {
        let given = [
            ("X-Zone", "9"),
            ("cache-control", "no-cache"),
            ("x-amz-meta-mtime", "1.5"),
            ("CONTENT-DISPOSITION", "inline"),
        ];
        let fields = Fields::new(given).unwrap();
        let found: Vec<_> = fields.iter().collect();
        let expected = [
            ("Content-Disposition", "inline"),
            ("Cache-Control", "no-cache"),
            ("x-amz-meta-mtime", "1.5"),
            ("x-zone", "9"),
        ];
        assert_eq!(found, expected);
        assert_eq!(fields.get("X-ZONE"), Some("9"));
        assert_eq!(fields.get("x-zon"), None);
        let mut backwards = given;
        backwards.reverse();
        assert_eq!(Fields::new(backwards).unwrap(), fields);
        assert_eq!(Fields::decode(fields.encoded()).unwrap(), fields);
    }

    #[test]
    fn they_are_laid_out_as_documented() {
        let fields = Fields::new([("X-a", "v"), ("Content-Language", "en")]).unwrap();
        assert_eq!(fields.encoded(), b"\x04\x02\x00en\x05\x01\x00\x03x-av");
    }

    #[test]
    fn what_would_harm_a_response_is_refused() {
        let refused = |name, value| Fields::new([(name, value)]).unwrap_err();
        for value in ["", " a", "a ", "a\r\nX-Evil: 1", "a\nb", "a\0", "é", "a\tb"] {
            assert!(
                matches!(refused("X-A", value), FieldError::Value { .. }),
                "{value:?}"
            );
        }
        for name in ["Set-Cookie", "Content-Length", "", "y-a", "Content-Type"] {
            assert!(matches!(refused(name, "v"), FieldError::Unknown(_)));
        }
        for name in ["x-", "x-a b", "x-a:", "x-a\r\n", "x-é"] {
            assert!(
                matches!(refused(name, "v"), FieldError::Name(_)),
                "{name:?}"
            );
        }
        for name in [
            "X-Accel-Redirect",
            "x-amz-checksum-crc64nvme",
            "X-Content-Type-Options",
            "x-penstock-rate",
        ] {
            assert!(matches!(refused(name, "v"), FieldError::Reserved(_)));
        }
        let long = "x-".to_owned() + &"a".repeat(FIELD_NAME_BYTES_MAX - 1);
        assert!(matches!(refused(&long, "v"), FieldError::Name(_)));
        assert!(Fields::new([(&long[1..], "v")]).is_err());
        let twice = Fields::new([("X-A", "1"), ("x-a", "2")]).unwrap_err();
        assert_eq!(twice, FieldError::Twice("x-a".into()));
        let full = "v".repeat(FIELDS_BYTES_MAX - 7);
        assert_eq!(Fields::new([("x-a", &*full)]).unwrap().len(), 2680);
        assert!(matches!(
            refused("x-aa", &full),
            FieldError::TooLong { bytes: 2681 }
        ));
    }

    #[test]
    fn stored_fields_are_not_trusted() {
        let refused = |bytes: &[u8]| Fields::decode(bytes).unwrap_err();
        assert_eq!(refused(b"\x01"), FieldError::Truncated);
        assert_eq!(refused(b"\x01\x02\x00a"), FieldError::Truncated);
        assert_eq!(refused(b"\x05\x01\x00\xffx-a"), FieldError::Truncated);
        assert_eq!(refused(b"\x00\x01\x00a"), FieldError::Tag(0));
        assert_eq!(refused(b"\x06\x01\x00a"), FieldError::Tag(6));
        for value in [
            &b"\x01\x00\x00"[..],
            b"\x01\x02\x00\r\n",
            b"\x01\x01\x00\xff",
        ] {
            assert!(matches!(refused(value), FieldError::Value { .. }));
        }
        assert!(matches!(
            refused(b"\x05\x01\x00\x03X-av"),
            FieldError::Unknown(_)
        ));
        assert!(matches!(
            refused(b"\x05\x01\x00\x03x-Av"),
            FieldError::Name(_)
        ));
        assert!(matches!(
            refused(b"\x05\x01\x00\x03x-\xffv"),
            FieldError::Name(_)
        ));
        for twice in [&b"\x01\x01\x00a"[..], b"\x05\x01\x00\x03x-av"] {
            assert!(matches!(
                refused(&[twice, twice].concat()),
                FieldError::Order(_)
            ));
        }
        assert!(matches!(
            refused(b"\x02\x01\x00a\x01\x01\x00a"),
            FieldError::Order(_)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_mean_one_thing(
            bytes in prop::collection::vec(prop::sample::select(b"\x01\x02\x05\0\0\x03x-a".to_vec()), 0..24),
        ) {
            if let Ok(fields) = Fields::decode(&bytes) {
                let again = Fields::new(fields.iter()).unwrap();
                prop_assert_eq!(again.encoded(), &bytes[..]);
            }
        }
    }
}
