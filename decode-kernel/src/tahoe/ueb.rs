//! The URI extension block (UEB): the file's parameters and root hashes, whose own hash is in the cap.
//!
//! ```text
//!  for each key, in ascending order:  key ":" <decimal length> ":" <value> ","
//! ```
//!
//! Keys are letters, `_` and `-`; numbers are ASCII decimals; hashes are 32 bytes. `segment_size`,
//! `crypttext_root_hash` and `share_root_hash` are required. `size`, `needed_shares`, `total_shares`, `num_segments`,
//! `codec_name`, `codec_params` and `tail_codec_params` follow from those and the cap. As for Tahoe, they may be
//! missing, but they must not contradict. `crypttext_hash`, if present, must be a hash. Other keys (hashes of plaintext
//! in old files) are ignored.
//!
//! The order of keys is not checked, since nothing depends on it. A key must occur only once, since everything depends
//! on that.

use super::cap::ChkCap;
use super::geometry::{Geometry, GeometryError};
use super::hash::{Hash, ueb_hash};
use super::{DecimalError, decimal};

/// Why bytes are not the UEB of a cap's file, or why the file is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UebError {
    /// Its hash is not the one in the cap: it is damaged, or belongs to another file or encoding. All other errors are
    /// the uploader's, and every share has them.
    #[error("the UEB's hash is not the one in the cap")]
    Hash,
    /// The syntax is not the one above.
    #[error("the UEB is malformed at byte {at}")]
    Syntax {
        /// The offset of the first invalid entry.
        at: usize,
    },
    /// A key occurs twice.
    #[error("the UEB has a key twice, the second time at byte {at}")]
    Twice {
        /// The offset of the second entry.
        at: usize,
    },
    /// A required key is missing.
    #[error("the UEB has no {key}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is not a number.
    #[error("the UEB's {key} {fault}")]
    Number {
        /// Its key.
        key: &'static str,
        /// The problem.
        fault: DecimalError,
    },
    /// A value is not a hash.
    #[error("the UEB's {key} has {len} bytes, not 32")]
    HashLength {
        /// Its key.
        key: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Another code than Tahoe's only one.
    #[error("the UEB's codec_name is not crs")]
    Codec,
    /// It contradicts the cap, or itself.
    #[error("the UEB's {key} contradicts the cap")]
    Contradiction {
        /// The key of the contradicting value.
        key: &'static str,
    },
    /// The segment length is not accepted.
    #[error("the UEB's segment_size: {0}")]
    Geometry(#[from] GeometryError),
}

impl UebError {
    /// Whether another share may have a better UEB. If not, the file is refused: its UEB is the one with the cap's
    /// hash.
    pub fn of_this_share_only(&self) -> bool {
        matches!(self, UebError::Hash)
    }
}

/// A UEB with the cap's hash that does not contradict the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ueb {
    /// From its segment length and the cap.
    pub geometry: Geometry,
    /// The root of the share hash tree.
    pub share_root: Hash,
    /// The root of the ciphertext hash tree.
    pub ciphertext_root: Hash,
}

impl Ueb {
    /// Checks `bytes` against `cap`; segments of up to `segment_max` bytes are accepted.
    pub fn check(bytes: &[u8], cap: &ChkCap, segment_max: u64) -> Result<Ueb, UebError> {
        if ueb_hash(bytes) != *cap.ueb_hash() {
            return Err(UebError::Hash);
        }
        Ueb::parse(bytes, cap, segment_max)
    }

    /// As [`Ueb::check`], without checking the hash.
    fn parse(bytes: &[u8], cap: &ChkCap, segment_max: u64) -> Result<Ueb, UebError> {
        // A first pass checks all entries, so that the look-ups below cannot fail on syntax.
        for entry in Ueb::entries(bytes) {
            let (at, key, _) = entry?;
            let same =
                |entry: &UebEntry<'_>| entry.as_ref().is_ok_and(|&(_, other, _)| other == key);
            if Ueb::entries(&bytes[..at]).any(|entry| same(&entry)) {
                return Err(UebError::Twice { at });
            }
        }
        let find = |key: &'static str| {
            let mut entries = Ueb::entries(bytes).flatten();
            entries.find_map(|(_, name, value)| (name == key.as_bytes()).then_some(value))
        };
        let number = |key: &'static str| {
            let read = |text| decimal(text).map_err(|fault| UebError::Number { key, fault });
            find(key).map(read).transpose()
        };
        let hash = |key: &'static str| {
            let wrong = |value: &[u8]| UebError::HashLength {
                key,
                len: value.len(),
            };
            find(key)
                .map(|value| Hash::try_from(value).map_err(|_| wrong(value)))
                .transpose()
        };
        let agrees = |key, wanted: u64| match number(key)? {
            Some(found) if found != wanted => Err(UebError::Contradiction { key }),
            _ => Ok(()),
        };
        if find("codec_name").is_some_and(|name| name != b"crs") {
            return Err(UebError::Codec);
        }
        let missing = |key| UebError::Missing { key };
        let segment_size = number("segment_size")?.ok_or(missing("segment_size"))?;
        let share_root = hash("share_root_hash")?.ok_or(missing("share_root_hash"))?;
        let ciphertext_root = hash("crypttext_root_hash")?.ok_or(missing("crypttext_root_hash"))?;
        hash("crypttext_hash")?;
        agrees("size", cap.size())?;
        agrees("needed_shares", cap.k().into())?;
        agrees("total_shares", cap.n().into())?;
        let geometry = Geometry::new(cap.k(), cap.n(), cap.size(), segment_size, segment_max)?;
        agrees("num_segments", geometry.segments())?;
        let params = |key, segment: u64| {
            let expected = format!("{segment}-{}-{}", cap.k(), cap.n());
            match find(key) {
                Some(found) if found != expected.as_bytes() => Err(UebError::Contradiction { key }),
                _ => Ok(()),
            }
        };
        params("codec_params", segment_size)?;
        // No overflow: the tail's blocks together exceed the tail, a u64, by less than k.
        let padded_tail = geometry.tail_block_bytes().saturating_mul(cap.k().into());
        params("tail_codec_params", padded_tail)?;
        Ok(Ueb {
            geometry,
            share_root,
            ciphertext_root,
        })
    }

    /// The entries of any UEB, for display: the offset, key and value of each. Ends after the first invalid entry.
    pub fn entries(bytes: &[u8]) -> impl Iterator<Item = UebEntry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let start = at;
            let Some((key, value, len)) = entry(rest) else {
                at = bytes.len();
                return Some(Err(UebError::Syntax { at: start }));
            };
            at += len;
            Some(Ok((start, key, value)))
        })
    }
}

/// The offset, key and value of an entry; or the first syntax error.
pub type UebEntry<'a> = Result<(usize, &'a [u8], &'a [u8]), UebError>;

/// The first entry of `bytes`: key, value, and the entry's length.
fn entry(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let key_len = bytes.iter().position(|&byte| byte == b':')?;
    let (key, rest) = (&bytes[..key_len], &bytes[key_len + 1..]);
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-');
    if key.is_empty() || !key.iter().all(letter) {
        return None;
    }
    let digits = rest.iter().position(|&byte| byte == b':')?;
    if digits > 1 && rest[0] == b'0' {
        return None; // netstrings have no leading zeros
    }
    let value_len = usize::try_from(decimal(&rest[..digits]).ok()?).ok()?;
    let value = rest.get(digits + 1..)?;
    let (value, comma) = (value.get(..value_len)?, value.get(value_len)?);
    (*comma == b',').then_some((key, value, key_len + 1 + digits + 1 + value_len + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A UEB with these entries, and a 3-of-10 cap of 300,000 bytes that has its hash.
    fn ueb(entries: &[(&str, &[u8])]) -> (Vec<u8>, ChkCap) {
        let mut bytes = Vec::new();
        for (key, value) in entries {
            bytes.extend(format!("{key}:{}:", value.len()).as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b',');
        }
        let cap = ChkCap::new([7; 16], ueb_hash(&bytes), 3, 10, 300_000).unwrap();
        (bytes, cap)
    }

    const GOOD: &[(&str, &[u8])] = &[
        ("codec_name", b"crs"),
        ("codec_params", b"131073-3-10"),
        ("crypttext_hash", &[b':'; 32]),
        ("crypttext_root_hash", &[b','; 32]),
        ("needed_shares", b"3"),
        ("num_segments", b"3"),
        ("segment_size", b"131073"),
        ("share_root_hash", &[9; 32]),
        ("size", b"300000"),
        ("tail_codec_params", b"37854-3-10"),
        ("total_shares", b"10"),
    ];

    fn check(entries: &[(&str, &[u8])]) -> Result<Ueb, UebError> {
        let (bytes, cap) = ueb(entries);
        Ueb::check(&bytes, &cap, 1 << 20)
    }

    /// The good one with one value changed, or removed.
    fn with(key: &str, value: Option<&[u8]>) -> Result<Ueb, UebError> {
        let mut entries = GOOD.to_vec();
        let at = entries.iter().position(|entry| entry.0 == key).unwrap();
        match value {
            Some(value) => entries[at].1 = value,
            None => drop(entries.remove(at)),
        }
        check(&entries)
    }

    #[test]
    fn a_good_ueb_is_accepted() {
        let ueb = check(GOOD).unwrap();
        assert_eq!(
            (ueb.geometry.segments(), ueb.geometry.segment_bytes()),
            (3, 131073)
        );
        assert_eq!((ueb.share_root, ueb.ciphertext_root), ([9; 32], [b','; 32]));
    }

    #[test]
    fn required_and_optional_keys() {
        for (key, _) in GOOD {
            let needed = ["segment_size", "share_root_hash", "crypttext_root_hash"].contains(key);
            assert_eq!(with(key, None).is_err(), needed, "{key}");
        }
        let mut more = GOOD.to_vec();
        more.push(("plaintext_hash", b"old"));
        more.push(("a-new-key", b""));
        assert!(check(&more).is_ok());
        more.push(("a-new-key", b""));
        assert!(matches!(check(&more), Err(UebError::Twice { .. })));
    }

    #[test]
    fn lies_are_refused() {
        let contradiction = |key| Err(UebError::Contradiction { key });
        for (key, value) in [
            ("size", &b"300001"[..]),
            ("needed_shares", b"2"),
            ("total_shares", b"11"),
            ("num_segments", b"2"),
            ("codec_params", b"131073-3-11"),
            ("tail_codec_params", b"37852-3-10"),
        ] {
            assert_eq!(with(key, Some(value)), contradiction(key));
        }
        assert_eq!(with("codec_name", Some(b"xor")), Err(UebError::Codec));
        for value in [&b""[..], b"-3", b"+3", b"3.0", b" 131073", b"0x20001"] {
            let error = with("segment_size", Some(value)).unwrap_err();
            assert!(matches!(
                error,
                UebError::Number {
                    fault: DecimalError::NotDecimal,
                    ..
                }
            ));
        }
        let huge = with("segment_size", Some(b"9999999999999999999999999"));
        assert!(matches!(
            huge,
            Err(UebError::Number {
                fault: DecimalError::TooLarge,
                ..
            })
        ));
        for value in [&b"0"[..], b"131072", b"1099511627777", b"1048578", b"3"] {
            let error = with("segment_size", Some(value)).unwrap_err();
            assert!(matches!(error, UebError::Geometry(_)), "{error}");
            assert!(!error.of_this_share_only());
        }
        for key in ["share_root_hash", "crypttext_root_hash", "crypttext_hash"] {
            let error = with(key, Some(&[0; 31])).unwrap_err();
            assert_eq!(error, UebError::HashLength { key, len: 31 });
        }
    }

    #[test]
    fn another_hash_is_another_file() {
        let (bytes, _) = ueb(GOOD);
        let (_, other) = ueb(&GOOD[1..]);
        let error = Ueb::check(&bytes, &other, 1 << 20).unwrap_err();
        assert!(error == UebError::Hash && error.of_this_share_only());
    }

    #[test]
    fn syntax() {
        for (bytes, good) in [
            (&b""[..], true),
            (b"a:0:,", true),
            (b"a:3:1:,,", true),
            (b"a:1:x,b_-Z:2:yz,", true),
            (b"a", false),
            (b"a:", false),
            (b"a:0", false),
            (b"a:0:", false),
            (b"a:0:;", false),
            (b"a::,", false),
            (b"a:1:,", false),
            (b"a:00:,", false),
            (b"a:01:x,", false),
            (b"a:-1:x,", false),
            (b":0:,", false),
            (b"a1:0:,", false),
            (b"a:0:,\n", false),
            (b"a:18446744073709551615:,", false),
            (b"a:18446744073709551616:,", false),
        ] {
            let read: Result<Vec<_>, _> = Ueb::entries(bytes).collect();
            assert_eq!(read.is_ok(), good, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in "[a-c:0-9,]{0,60}") {
            let count = Ueb::entries(bytes.as_bytes()).count();
            prop_assert!(count <= bytes.len());
            let (_, cap) = ueb(GOOD);
            prop_assert!(Ueb::parse(bytes.as_bytes(), &cap, 1 << 20).is_err());
        }
    }
}
