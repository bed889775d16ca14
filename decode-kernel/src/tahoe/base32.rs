//! base32 as Tahoe writes it: RFC 4648's alphabet in lower case, no padding, and exactly one
//! spelling per value.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why text is not base32. Never quotes the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    /// A length that no whole number of bytes has, or not the length that is required.
    #[error("has {len} characters{}", Wanted(*expected))]
    Length {
        /// Characters found.
        len: usize,
        /// Characters needed, where that is fixed.
        expected: Option<usize>,
    },
    /// A character outside the alphabet.
    #[error("has a character other than a-z and 2-7 at position {at}")]
    Character {
        /// Its offset in bytes.
        at: usize,
    },
    /// The last character has bits beyond the last byte that are not zero.
    #[error("ends in a character that no value ends in")]
    Leftover,
}

struct Wanted(Option<usize>);

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(expected) => write!(f, ", not {expected}"),
            None => f.write_str(", which is no whole number of bytes"),
        }
    }
}

/// The text of `bytes`.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in bytes {
        bits = bits << 8 | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(ALPHABET[(bits >> held & 31) as usize].into());
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(ALPHABET[(bits << (5 - held) & 31) as usize].into());
    }
    text
}

/// The bytes of `text`.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Base32Error> {
    let len = text.len();
    if !matches!(len % 8, 0 | 2 | 4 | 5 | 7) {
        return Err(Base32Error::Length {
            len,
            expected: None,
        });
    }
    let mut bytes = Vec::with_capacity(len / 8 * 5 + 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for (at, &character) in text.as_bytes().iter().enumerate() {
        let value = match character {
            b'a'..=b'z' => character - b'a',
            b'2'..=b'7' => character - b'2' + 26,
            _ => return Err(Base32Error::Character { at }),
        };
        bits = bits << 5 | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // With a length from the list above, fewer than 5 bits are held.
    if bits != 0 {
        return Err(Base32Error::Leftover);
    }
    Ok(bytes)
}

/// The bytes of `text` where exactly `N` are needed.
pub(super) fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    let expected = (N * 8).div_ceil(5);
    let wrong_length = Base32Error::Length {
        len: text.len(),
        expected: Some(expected),
    };
    if text.len() != expected {
        return Err(wrong_length);
    }
    decode(text)?.try_into().map_err(|_| wrong_length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers() {
        let counting: Vec<u8> = (0..16).collect();
        for (bytes, text) in [
            (&b""[..], ""),
            (b"\0", "aa"),
            (b"\xff", "74"),
            (b"abc", "mfrgg"),
            (&counting, "aaaqeayeaudaocajbifqydiob4"),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).unwrap(), bytes);
        }
    }

    #[test]
    fn a_value_has_one_spelling() {
        for (text, error) in [
            (
                "a",
                Base32Error::Length {
                    len: 1,
                    expected: None,
                },
            ),
            (
                "aaa",
                Base32Error::Length {
                    len: 3,
                    expected: None,
                },
            ),
            (
                "aaaaaa",
                Base32Error::Length {
                    len: 6,
                    expected: None,
                },
            ),
            ("ab", Base32Error::Leftover),
            ("75", Base32Error::Leftover),
            ("AA", Base32Error::Character { at: 0 }),
            ("a1", Base32Error::Character { at: 1 }),
            ("aa==", Base32Error::Character { at: 2 }),
            ("aaaa aa", Base32Error::Character { at: 4 }),
            ("a\u{e9}aa", Base32Error::Character { at: 1 }),
        ] {
            assert_eq!(decode(text), Err(error), "{text:?}");
        }
        // The last of 26 characters carries two unused bits, the last of 52 four.
        let ends = |len: usize| -> String {
            let good = |c: &&u8| decode(&format!("{}{}", "a".repeat(len - 1), **c as char)).is_ok();
            ALPHABET.iter().filter(good).map(|&c| c as char).collect()
        };
        assert_eq!((ends(26).as_str(), ends(52).as_str()), ("aeimquy4", "aq"));
        assert!(decode_array::<16>("aaaaaaaaaaaaaaaaaaaaaaaaa").is_err());
        assert_eq!(decode_array::<16>(&"a".repeat(26)), Ok([0; 16]));
    }

    proptest! {
        #[test]
        fn encoded_bytes_decode_to_the_same(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn decoded_text_encodes_to_the_same(text in "[a-z2-7]{0,60}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
