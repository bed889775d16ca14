//! Keys and generations, and the file names made from them.
//!
//! No part of a key becomes part of a path: the directory is named by the key's hash, so no key can
//! escape the store, and any two readers find the same place.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Hex;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// An object's name: what a client asks for after the first `/`. May hold `/` between components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is not a valid key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The empty text.
    #[error("the key is empty")]
    Empty,
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("the key is {len} bytes long; the most is {KEY_BYTES_MAX}")]
    TooLong {
        /// Bytes.
        len: usize,
    },
    /// A control character.
    #[error("the key has a control character (U+{:04X}) at byte {at}", u32::from(*.character))]
    Control {
        /// The character.
        character: char,
        /// Byte offset in the key.
        at: usize,
    },
    /// An empty component, `.` or `..`: a leading, trailing or doubled slash gives an empty one.
    #[error(
        "the key {key:?} has a component {component:?}; empty ones, \".\" and \"..\" are not allowed"
    )]
    Component {
        /// The whole key.
        key: String,
        /// The offending part between slashes.
        component: String,
    },
}

impl Key {
    /// Checks `text`: 1..=1024 bytes, no control characters, and no empty, `.` or `..` component
    /// between slashes (so no slash at either end).
    pub fn new(text: &str) -> Result<Key, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { len: text.len() });
        }
        if let Some((at, character)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(KeyError::Control { character, at });
        }
        if let Some(component) = text
            .split('/')
            .find(|part| matches!(*part, "" | "." | ".."))
        {
            return Err(KeyError::Component {
                key: text.into(),
                component: component.into(),
            });
        }
        Ok(Key(text.to_owned()))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people and logs, not for anything that is read again: [`Key::as_str`] is the key. Whoever puts an object chooses its
/// key. One that could pass for something else in a line (a space, `=`, a quote) is quoted, and in quotes whatever is
/// not seen, or changes how the rest is seen (U+202E turns it round), is escaped.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c != ' ' && c != '=' && c.escape_debug().eq([c]);
        match self.0.chars().all(plain) {
            true => f.pad(&self.0),
            false => fmt::Debug::fmt(self, f),
        }
    }
}

/// Always quoted and escaped.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        Key::new(text)
    }
}

/// Identifies the put that a share comes from: 8 bytes of time, big-endian, then 8 random bytes. The order is the order
/// in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation([u8; 16]);

impl Generation {
    /// A generation of this time (nanoseconds since 1970). `random` distinguishes it from others of the same time.
    pub fn new(unix_nanos: u64, random: [u8; 8]) -> Generation {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&unix_nanos.to_be_bytes());
        bytes[8..].copy_from_slice(&random);
        Generation(bytes)
    }

    /// The generation with these bytes, as stored in a header.
    pub fn from_bytes(bytes: [u8; 16]) -> Generation {
        Generation(bytes)
    }

    /// Its bytes, as stored in a header.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Its time, in nanoseconds since 1970.
    pub fn unix_nanos(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("eight bytes"))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

/// The directory of an object's shares below a store's `objects`: `ab/cdef…`, the lower-case hex of
/// the key's SHA-256, split after two characters so that no directory grows too wide.
pub fn object_dir(key: &Key) -> String {
    let hash = Sha256::digest(key.as_str().as_bytes());
    let hex = Hex(&hash).to_string();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// The file name of a share of this generation: 32 hex characters and `.share`. One store holds one
/// share of a generation, so the number is not in it.
pub fn share_file_name(generation: &Generation) -> String {
    format!("{generation}.share")
}

/// Reads what [`Generation`] displays: 32 lower-case hex characters.
impl std::str::FromStr for Generation {
    type Err = GenerationError;

    fn from_str(text: &str) -> Result<Generation, GenerationError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(GenerationError),
        };
        let mut bytes = [0; 16];
        if text.len() != 32 {
            return Err(GenerationError);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Generation(bytes))
    }
}

/// A text is not a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a generation is 32 lower-case hex characters")]
pub struct GenerationError;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_checked() {
        let longest = "k".repeat(1024);
        for good in [
            "a",
            "a/b.c",
            "häuser/☂ x",
            "...",
            "a/.hidden",
            "a\\b",
            longest.as_str(),
        ] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0", "a\nb", "\u{85}",
        ] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Key::new(&"k".repeat(1025)),
            Err(KeyError::TooLong { len: 1025 })
        );
        let error = Key::new("a\u{7}b").unwrap_err().to_string();
        assert!(
            error.contains("U+0007") && error.contains("byte 1"),
            "{error}"
        );
    }

    /// Keys were logged as they are: one with a space forged a field of the log line, one with U+202E turned it round.
    #[test]
    fn a_shown_key_is_one_word_that_hides_nothing() {
        let shown = |text: &str| Key::new(text).unwrap().to_string();
        for plain in ["a", "a/b-c_d.e+f", "häuser/☂", "日本語", "a:b,c;d"] {
            assert_eq!(shown(plain), plain);
        }
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("a key=b"), "\"a key=b\"");
        assert_eq!(shown("a\"b\\"), "\"a\\\"b\\\\\"");
        assert_eq!(shown("gpj.\u{202e}exe"), "\"gpj.\\u{202e}exe\"");
        // Marks of direction, invisible characters, other spaces and ends of lines.
        let marks = ('\u{200b}'..='\u{200f}').chain('\u{2028}'..='\u{202f}');
        let marks = marks.chain('\u{2060}'..='\u{206f}');
        for c in marks.chain([
            '\u{61c}',
            '\u{ad}',
            '\u{a0}',
            '\u{3000}',
            '\u{feff}',
            '\u{e0001}',
        ]) {
            let expected = format!("\"a\\u{{{:x}}}b\"", u32::from(c));
            assert_eq!(shown(&format!("a{c}b")), expected);
            assert_eq!(
                format!("{:?}", Key::new(&format!("a{c}b")).unwrap()),
                expected
            );
        }
    }

    #[test]
    fn directories_come_from_the_hash() {
        // printf abc | sha256sum
        let dir = object_dir(&Key::new("abc").unwrap());
        assert_eq!(
            dir,
            "ba/7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn only_32_hex_characters_are_a_generation() {
        for text in ["", "00", "0123456789abcdef0123456789abcdeF", "x"] {
            assert_eq!(text.parse::<Generation>(), Err(GenerationError), "{text}");
        }
        let long = "ä".repeat(16);
        assert_eq!(long.parse::<Generation>(), Err(GenerationError));
    }

    proptest! {
        #[test]
        fn order_is_age_and_names_come_back(a: (u64, [u8; 8]), b: (u64, [u8; 8])) {
            let (older, newer) = (Generation::new(a.0, a.1), Generation::new(b.0, b.1));
            if a.0 != b.0 {
                prop_assert_eq!(older < newer, a.0 < b.0);
            }
            prop_assert_eq!(older.unix_nanos(), a.0);
            prop_assert_eq!(older.to_string().parse(), Ok(older));
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in ".*") {
            if let Ok(key) = Key::new(&text) {
                prop_assert_eq!(object_dir(&key).len(), 65);
                let (shown, quoted) = (key.to_string(), format!("{key:?}"));
                prop_assert!(shown == text || shown == quoted);
            }
        }
    }
}
