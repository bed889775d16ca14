//! The header page: everything about an object that a reader needs, in each of its shares.
//!
//! ```text
//!  offset bytes  what (integers little-endian)
//!     0     8    magic "PENSTOCK"
//!     8     2    version: 1, or 2 where one of the parts marked * is used
//!    10     1    code: 1 rs8, 2 rs16
//!    11     1    leaf checksum: 1 CRC-64/NVME
//!    12     1    digest algorithm: 1 SHA-256
//!    13     3    reserved, 0
//!    16     2    k: shares needed
//!    18     2    n: shares in all
//!    20     2    number of this share, 0..n
//!    22     2    reserved, 0
//!    24     4    block_bytes
//!    28     4    leaf_bytes
//!    32     8    size of the object, bytes
//!    40     8    created, seconds since 1970
//!    48    16    generation: u64 nanoseconds since 1970, big-endian; 8 random bytes
//!    64    32    digest of the whole object
//!    96     2    length of the key, 1..=1024
//!    98     1    length of the content type, 1..=255
//!    99     1  * 1 if the object's CRC-64/NVME is known
//!   100     4    reserved, 0
//!   104     8  * CRC-64/NVME of the whole object, or 0
//!   112     8  * when the object expires, seconds since 1970; 0 never
//!   120     2  * length of the fields, 0..=2680
//!   122     6    reserved, 0
//!   128  1024    key, UTF-8; the rest 0
//!  1152   255    content type, printable ASCII; the rest 0
//!  1407     1    reserved, 0
//!  1408  2680  * header fields, metadata.rs draws them; the rest 0
//!  4088     8    CRC-64/NVME of bytes 0..4088
//!  4096
//! ```
//!
//! Magic, version and checksum keep their offsets in every version, so that a reader can tell a
//! damaged header from one of a newer version. A reserved byte that is not 0 is refused, since its
//! meaning is unknown to this reader. In version 1 the parts marked * are reserved: readers of that version alone read
//! every object that does without them.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;

use super::{
    FIELDS_BYTES_MAX, FieldError, Fields, Generation, Geometry, GeometryError, Hex, KEY_BYTES_MAX,
    Key, KeyError, LeafChecksum, Metadata, PAGE_BYTES, page_checksum,
};
use crate::code::CodeKind;

const MAGIC: &[u8; 8] = b"PENSTOCK";
/// The version of shares whose objects have no metadata,
const PLAIN: u16 = 1;
/// and of those whose objects have some.
const WITH_METADATA: u16 = 2;
/// Longest content type, in bytes: its length is one byte.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// rs8 numbers its shares by the elements of GF(2^8).
const RS8_SHARES_MAX: u16 = 256;

const KEY: Range<usize> = 128..128 + KEY_BYTES_MAX;
const CONTENT_TYPE: Range<usize> = KEY.end..KEY.end + CONTENT_TYPE_BYTES_MAX;
/// The first byte after the content type stays free, so that the fields begin at a multiple of 8.
const FIELDS: Range<usize> = CONTENT_TYPE.end + 1..CHECKSUM.start;
const CHECKSUM: Range<usize> = PAGE_BYTES - 8..PAGE_BYTES;
/// Where nothing is, in any version.
const RESERVED: [Range<usize>; 5] = [
    13..16,
    22..24,
    100..104,
    122..KEY.start,
    CONTENT_TYPE.end..FIELDS.start,
];
/// Where metadata is, or nothing.
const METADATA: [Range<usize>; 3] = [99..100, 104..122, FIELDS];

const _: () = assert!(FIELDS.end - FIELDS.start == FIELDS_BYTES_MAX);

/// The digest algorithm of the whole object. The header names it, so that others can be added.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DigestAlgorithm {
    /// SHA-256.
    Sha256 = 1,
}

/// The digest of the whole object. Displays as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest {
    /// The algorithm.
    pub algorithm: DigestAlgorithm,
    /// Its value.
    pub bytes: [u8; 32],
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.bytes).fmt(f)
    }
}

/// The header's fields: a share's description of itself and its object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The object's name.
    pub key: Key,
    /// Its media type, as [`check_content_type`] allows.
    pub content_type: String,
    /// Size, k, n, block and leaf lengths.
    pub geometry: Geometry,
    /// The code that made the parity shares.
    pub code: CodeKind,
    /// The share's number, 0..n; below k it holds data, else parity.
    pub number: u16,
    /// The checksum of leaves.
    pub leaf_checksum: LeafChecksum,
    /// Digest of the object.
    pub digest: Digest,
    /// The put that made it.
    pub generation: Generation,
    /// The time of that put, in seconds since 1970.
    pub created: u64,
    /// What else it said of the object.
    pub metadata: Metadata,
}

/// Why a page is no valid header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not [`PAGE_BYTES`] bytes.
    #[error("a header is {PAGE_BYTES} bytes, not {len}")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// Not a share file.
    #[error("not a Penstock share: the magic bytes are missing")]
    Magic,
    /// The header is damaged.
    #[error("the header is damaged: its checksum does not match")]
    Checksum,
    /// Written by a later version of Penstock.
    #[error(
        "share format version {version} is unknown; this program reads versions {PLAIN} and {WITH_METADATA}"
    )]
    Version {
        /// The version found.
        version: u16,
    },
    /// A code, checksum or digest of a later version.
    #[error("unknown {what} {value} in the header")]
    Unknown {
        /// Which algorithm.
        what: &'static str,
        /// The number that names it.
        value: u8,
    },
    /// A reserved byte is not 0.
    #[error("reserved byte {offset} of the header is not 0")]
    Reserved {
        /// Its offset in the page.
        offset: usize,
    },
    /// Numbers out of bounds.
    #[error("the header's numbers are out of bounds: {0}")]
    Geometry(#[from] GeometryError),
    /// More shares than rs8 can number.
    #[error("code rs8 with n={n} shares: it has at most {RS8_SHARES_MAX}")]
    Rs8Shares {
        /// Shares in all.
        n: u16,
    },
    /// A share number of n or more.
    #[error("share number {number} of n={n}")]
    Number {
        /// This share's number.
        number: u16,
        /// Shares in all.
        n: u16,
    },
    /// Not a key.
    #[error("bad key in the header: {0}")]
    Key(#[from] KeyError),
    /// Too long, not UTF-8, or with bytes after its end.
    #[error("the {what} in the header is not properly stored: {why}")]
    Text {
        /// Key, content type or fields.
        what: &'static str,
        /// The problem.
        why: &'static str,
    },
    /// A flag that is neither 0 nor 1, or a checksum where the flag says that there is none.
    #[error("the checksum of the whole object is not properly stored")]
    ObjectChecksum,
    /// Version 2 without what makes it version 2.
    #[error("the header is of version {WITH_METADATA}, but has no metadata")]
    NoMetadata,
    /// Header fields that can't be sent.
    #[error("bad header fields in the header: {0}")]
    Fields(#[from] FieldError),
    /// Not 1..=255 printable ASCII characters.
    #[error("content type {0:?} is not 1..={CONTENT_TYPE_BYTES_MAX} printable ASCII characters")]
    ContentType(String),
}

/// Whether `text` can be stored, and sent in a response head: 1..=255 printable ASCII characters,
/// no space at either end.
pub fn check_content_type(text: &str) -> Result<(), HeaderError> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.is_empty() || text.len() > CONTENT_TYPE_BYTES_MAX || !printable || text.trim() != text {
        return Err(HeaderError::ContentType(text.to_owned()));
    }
    Ok(())
}

impl Header {
    /// Encodes the header as a page.
    ///
    /// # Panics
    /// If a field was set to what [`Header::decode`] would refuse: the number not below n,
    /// more shares than the code has, or a content type that [`check_content_type`] refuses.
    pub fn encode(&self) -> Box<[u8; PAGE_BYTES]> {
        self.check()
            .expect("a header is checked before it is written");
        let mut page = Box::new([0; PAGE_BYTES]);
        let geometry = &self.geometry;
        let key = self.key.as_str().as_bytes();
        let content_type = self.content_type.as_bytes();
        page[0..8].copy_from_slice(MAGIC);
        let version = match self.metadata.is_empty() {
            true => PLAIN,
            false => WITH_METADATA,
        };
        page[8..10].copy_from_slice(&version.to_le_bytes());
        page[10] = self.code as u8;
        page[11] = self.leaf_checksum as u8;
        page[12] = self.digest.algorithm as u8;
        page[16..18].copy_from_slice(&geometry.k().to_le_bytes());
        page[18..20].copy_from_slice(&geometry.n().to_le_bytes());
        page[20..22].copy_from_slice(&self.number.to_le_bytes());
        page[24..28].copy_from_slice(&geometry.block_bytes().to_le_bytes());
        page[28..32].copy_from_slice(&geometry.leaf_bytes().to_le_bytes());
        page[32..40].copy_from_slice(&geometry.size().to_le_bytes());
        page[40..48].copy_from_slice(&self.created.to_le_bytes());
        page[48..64].copy_from_slice(self.generation.as_bytes());
        page[64..96].copy_from_slice(&self.digest.bytes);
        page[96..98].copy_from_slice(&(key.len() as u16).to_le_bytes());
        page[98] = content_type.len() as u8;
        let Metadata {
            crc64nvme,
            expires,
            fields,
        } = &self.metadata;
        page[99] = u8::from(crc64nvme.is_some());
        page[104..112].copy_from_slice(&crc64nvme.unwrap_or(0).to_le_bytes());
        page[112..120].copy_from_slice(&expires.map_or(0, NonZeroU64::get).to_le_bytes());
        page[120..122].copy_from_slice(&(fields.len() as u16).to_le_bytes());
        page[FIELDS][..fields.len()].copy_from_slice(fields.encoded());
        page[KEY][..key.len()].copy_from_slice(key);
        page[CONTENT_TYPE][..content_type.len()].copy_from_slice(content_type);
        let sum = page_checksum(&[&page[..CHECKSUM.start]]);
        page[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Decodes a header page, trusting nothing in it.
    pub fn decode(page: &[u8]) -> Result<Header, HeaderError> {
        let Ok(page) = <&[u8; PAGE_BYTES]>::try_from(page) else {
            return Err(HeaderError::Length { len: page.len() });
        };
        if &page[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if page[CHECKSUM] != page_checksum(&[&page[..CHECKSUM.start]]).to_le_bytes() {
            return Err(HeaderError::Checksum);
        }
        let version = u16_at(page, 8);
        if version != PLAIN && version != WITH_METADATA {
            return Err(HeaderError::Version { version });
        }
        let unknown = |what, value| HeaderError::Unknown { what, value };
        let code = CodeKind::try_from(page[10]).map_err(|_| unknown("code", page[10]))?;
        let leaf_checksum =
            LeafChecksum::from_byte(page[11]).ok_or(unknown("leaf checksum", page[11]))?;
        if page[12] != DigestAlgorithm::Sha256 as u8 {
            return Err(unknown("digest algorithm", page[12]));
        }
        let mut reserved = RESERVED.to_vec();
        if version == PLAIN {
            reserved.extend(METADATA);
        }
        let mut reserved = reserved.into_iter().flatten();
        if let Some(offset) = reserved.find(|&offset| page[offset] != 0) {
            return Err(HeaderError::Reserved { offset });
        }
        let geometry = Geometry::new(
            u64_at(page, 32),
            u16_at(page, 16),
            u16_at(page, 18),
            u32_at(page, 24),
            u32_at(page, 28),
        )?;
        let header = Header {
            key: Key::new(text("key", &page[KEY], u16_at(page, 96).into())?)?,
            content_type: text("content type", &page[CONTENT_TYPE], page[98].into())?.to_owned(),
            geometry,
            code,
            number: u16_at(page, 20),
            leaf_checksum,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: page[64..96].try_into().expect("32 bytes"),
            },
            generation: Generation::from_bytes(page[48..64].try_into().expect("16 bytes")),
            created: u64_at(page, 40),
            metadata: metadata(page)?,
        };
        if version == WITH_METADATA && header.metadata.is_empty() {
            return Err(HeaderError::NoMetadata);
        }
        header.check()?;
        Ok(header)
    }

    /// Whether `other` is a share of the same put of the same object: equal in all but the number.
    pub fn same_object(&self, other: &Header) -> bool {
        // All fields are named, so that a field added later is not forgotten here.
        let Header {
            key,
            content_type,
            geometry,
            code,
            number: _,
            leaf_checksum,
            digest,
            generation,
            created,
            metadata,
        } = self;
        *generation == other.generation
            && *key == other.key
            && *geometry == other.geometry
            && *code == other.code
            && *leaf_checksum == other.leaf_checksum
            && *digest == other.digest
            && *created == other.created
            && *content_type == other.content_type
            && *metadata == other.metadata
    }

    /// Checks what the types of the fields do not guarantee.
    fn check(&self) -> Result<(), HeaderError> {
        let n = self.geometry.n();
        if self.number >= n {
            return Err(HeaderError::Number {
                number: self.number,
                n,
            });
        }
        if self.code == CodeKind::Rs8 && n > RS8_SHARES_MAX {
            return Err(HeaderError::Rs8Shares { n });
        }
        check_content_type(&self.content_type)
    }
}

/// The metadata in a page; none in one of version 1, where its bytes are 0.
fn metadata(page: &[u8; PAGE_BYTES]) -> Result<Metadata, HeaderError> {
    let crc64nvme = match (page[99], u64_at(page, 104)) {
        (0, 0) => None,
        (1, crc) => Some(crc),
        _ => return Err(HeaderError::ObjectChecksum),
    };
    let encoded = filled("list of fields", &page[FIELDS], u16_at(page, 120).into())?;
    Ok(Metadata {
        crc64nvme,
        expires: NonZeroU64::new(u64_at(page, 112)),
        fields: Fields::decode(encoded)?,
    })
}

/// The text of `len` bytes in a zero-filled field.
fn text<'a>(what: &'static str, field: &'a [u8], len: usize) -> Result<&'a str, HeaderError> {
    let why = "it is not UTF-8";
    std::str::from_utf8(filled(what, field, len)?).map_err(|_| HeaderError::Text { what, why })
}

/// The first `len` bytes of a field whose rest is 0.
fn filled<'a>(what: &'static str, field: &'a [u8], len: usize) -> Result<&'a [u8], HeaderError> {
    let wrong = |why| HeaderError::Text { what, why };
    let (bytes, rest) = field
        .split_at_checked(len)
        .ok_or(wrong("its length is too large"))?;
    match rest.iter().all(|&byte| byte == 0) {
        true => Ok(bytes),
        false => Err(wrong("there are bytes after its end")),
    }
}

fn u16_at(page: &[u8; PAGE_BYTES], at: usize) -> u16 {
    u16::from_le_bytes(page[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(page: &[u8; PAGE_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(page: &[u8; PAGE_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            key: Key::new("films/a.mp4").unwrap(),
            content_type: "video/mp4".into(),
            geometry: Geometry::new(1_000_003, 4, 6, 65536, 4096).unwrap(),
            code: CodeKind::Rs8,
            number: 5,
            leaf_checksum: LeafChecksum::Crc64Nvme,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: [0xab; 32],
            },
            generation: Generation::new(1_700_000_000_000_000_000, *b"random!!"),
            created: 1_700_000_000,
            metadata: Metadata::default(),
        }
    }

    fn with_metadata() -> Header {
        let fields = [("Cache-Control", "no-store"), ("X-Zone", "9")];
        let metadata = Metadata {
            crc64nvme: Some(0x0102_0304_0506_0708),
            expires: NonZeroU64::new(2_000_000_000),
            fields: Fields::new(fields).unwrap(),
        };
        Header {
            metadata,
            ..header()
        }
    }

    /// `page` with some bytes replaced and a correct checksum, so that only the later checks can
    /// refuse it.
    fn forged(at: usize, bytes: &[u8]) -> Result<Header, HeaderError> {
        forged_of(&header(), at, bytes)
    }

    fn forged_of(header: &Header, at: usize, bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut page = header.encode();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = page_checksum(&[&page[..CHECKSUM.start]]);
        page[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        Header::decode(&page[..])
    }

    #[test]
    fn a_header_is_laid_out_as_documented() {
        let page = header().encode();
        assert_eq!(&page[..8], b"PENSTOCK");
        assert_eq!(&page[8..16], &[1, 0, 1, 1, 1, 0, 0, 0]);
        assert_eq!(&page[16..24], &[4, 0, 6, 0, 5, 0, 0, 0]);
        assert_eq!(&page[32..40], &1_000_003u64.to_le_bytes());
        assert_eq!(&page[56..64], b"random!!");
        assert_eq!(&page[96..99], &[11, 0, 9]);
        assert_eq!(&page[128..140], b"films/a.mp4\0");
        assert_eq!(&page[1152..1162], b"video/mp4\0");
    }

    #[test]
    fn metadata_makes_version_2_and_nothing_else_does() {
        let page = with_metadata().encode();
        assert_eq!(&page[8..10], &[2, 0]);
        assert_eq!(&page[99..112], &[1, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&page[112..120], &2_000_000_000u64.to_le_bytes());
        assert_eq!(&page[120..124], &[22, 0, 0, 0]);
        let fields = b"\x02\x08\x00no-store\x05\x01\x00\x06x-zone9\0";
        assert_eq!(&page[1408..][..fields.len()], fields);
        assert_eq!(Header::decode(&page[..]).unwrap(), with_metadata());
        // What was written before there was metadata.
        let mut old = header().encode();
        assert_eq!(old[8], 1);
        old[8] = 2;
        let sum = page_checksum(&[&old[..CHECKSUM.start]]);
        old[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&old[..]), Err(HeaderError::NoMetadata));
    }

    #[test]
    fn bad_metadata_is_refused() {
        use HeaderError::*;
        let is = |at, bytes: &[u8]| forged_of(&with_metadata(), at, bytes).unwrap_err();
        assert_eq!(is(99, &[0]), ObjectChecksum);
        assert_eq!(is(99, &[2]), ObjectChecksum);
        for offset in [100, 103, 122, 127, 1407] {
            assert_eq!(is(offset, &[1]), Reserved { offset });
        }
        for length in [21u16, 2681, u16::MAX] {
            let what = "list of fields";
            let error = is(120, &length.to_le_bytes());
            assert!(
                matches!(error, Text { what: w, .. } if w == what),
                "{error}"
            );
        }
        assert_eq!(is(120, &[23]), Fields(FieldError::Truncated));
        assert!(matches!(
            is(1411, b"\r\n"),
            Fields(FieldError::Value { .. })
        ));
        assert!(matches!(is(1423, b"y"), Fields(FieldError::Unknown(_))));
        assert_eq!(is(4087, &[1]), is(1431, &[1]));
        // Without metadata all of it is reserved.
        for offset in [99, 104, 112, 121, 1408, 4087] {
            assert_eq!(forged(offset, &[1]), Err(Reserved { offset }));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let page = with_metadata().encode();
        for at in 0..PAGE_BYTES {
            for bit in 0..8 {
                let mut page = page.clone();
                page[at] ^= 1 << bit;
                assert!(Header::decode(&page[..]).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn bad_fields_are_refused_despite_a_right_checksum() {
        use HeaderError::*;
        let is = |result: Result<Header, HeaderError>| result.unwrap_err();
        assert_eq!(is(forged(0, b"X")), Magic);
        assert_eq!(is(forged(8, &[3])), Version { version: 3 });
        assert_eq!(
            is(forged(10, &[9])),
            Unknown {
                what: "code",
                value: 9
            }
        );
        assert_eq!(
            is(forged(11, &[0])),
            Unknown {
                what: "leaf checksum",
                value: 0
            }
        );
        assert_eq!(
            is(forged(12, &[2])),
            Unknown {
                what: "digest algorithm",
                value: 2
            }
        );
        for offset in [13, 15, 22, 23, 99, 127, 1407, 4087] {
            assert_eq!(is(forged(offset, &[1])), Reserved { offset });
        }
        assert_eq!(is(forged(20, &[6])), Number { number: 6, n: 6 });
        assert!(matches!(
            is(forged(16, &[7])),
            Geometry(GeometryError::Shares { k: 7, n: 6 })
        ));
        assert_eq!(is(forged(18, &[1, 1])), Rs8Shares { n: 257 });
        assert!(matches!(
            is(forged(32, &[255; 8])),
            Geometry(GeometryError::Size { .. })
        ));
        assert!(matches!(is(forged(96, &[0, 0])), Text { what: "key", .. }));
        assert!(matches!(
            is(forged(96, &[12, 0])),
            Key(KeyError::Control { at: 11, .. })
        ));
        assert!(matches!(is(forged(96, &[1, 4])), Text { what: "key", .. }));
        assert!(matches!(is(forged(128, &[0xff])), Text { what: "key", .. }));
        assert!(matches!(
            is(forged(128, b"/")),
            Key(KeyError::Component { .. })
        ));
        assert!(matches!(is(forged(1152, b"\r\n")), ContentType(_)));
        assert!(matches!(is(forged(1152, b" ")), ContentType(_)));
        assert_eq!(is(Header::decode(&[0; 4095])), Length { len: 4095 });
    }

    #[test]
    fn same_object_compares_all_fields_but_the_number() {
        let mut other = header();
        other.number = 0;
        assert!(header().same_object(&other));
        other.digest.bytes[0] ^= 1;
        assert!(!header().same_object(&other));
        let other = Header {
            created: 1,
            ..header()
        };
        assert!(!header().same_object(&other));
        assert!(!header().same_object(&with_metadata()));
    }

    proptest! {
        #[test]
        fn headers_come_back(
            key in "[a-zA-Zäß☂ .]{1,30}x/[a-z]{1,300}",
            content_type in "[a-z]{1,20}/[a-z+.]{1,30}(; charset=[a-z]{1,9})?",
            size in 0..1u64 << 60,
            (n, k) in (1..=1024u16).prop_flat_map(|n| (Just(n), 1..=n)),
            blocks in 1..=4096u32,
            number: u16,
            digest: [u8; 32],
            generation: [u8; 16],
            created: u64,
            crc64nvme: Option<u64>,
            expires: u64,
            fields in prop::collection::btree_map("x-b[a-z0-9-]{1,60}", "[!-~]{1,200}", 0..8),
        ) {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let metadata = Metadata {
                crc64nvme,
                expires: NonZeroU64::new(expires),
                fields: Fields::new(fields).unwrap(),
            };
            let header = Header {
                key: Key::new(&key).unwrap(),
                content_type,
                geometry: Geometry::new(size, k, n, blocks * 4096, 512).unwrap(),
                code: if n > 256 { CodeKind::Rs16 } else { CodeKind::Rs8 },
                number: number % n,
                leaf_checksum: LeafChecksum::Crc64Nvme,
                digest: Digest { algorithm: DigestAlgorithm::Sha256, bytes: digest },
                generation: Generation::from_bytes(generation),
                created,
                metadata,
            };
            prop_assert_eq!(Header::decode(&header.encode()[..]).unwrap(), header);
        }

        /// Any bytes with a correct magic, version and checksum: an error, or a header that encodes
        /// to the same bytes.
        #[test]
        fn any_page_is_refused_or_encodes_to_the_same(
            edits in prop::collection::vec((8..CHECKSUM.start, any::<u8>()), 0..40),
            plain: bool,
        ) {
            let mut page = if plain { header() } else { with_metadata() }.encode();
            for (at, byte) in edits {
                page[at] = byte;
            }
            let sum = page_checksum(&[&page[..CHECKSUM.start]]);
            page[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            if let Ok(header) = Header::decode(&page[..]) {
                prop_assert_eq!(&header.encode()[..], &page[..]);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }
}
