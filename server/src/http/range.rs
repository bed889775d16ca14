//! The `Range` field: one byte range (RFC 9110 section 14).

use std::ops::Range;

/// A byte range as the client asked for it, not yet resolved against an object's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `bytes=first-last`, both included.
    Closed {
        /// The first byte wanted.
        first: u64,
        /// The last byte wanted; never below `first`.
        last: u64,
    },
    /// `bytes=first-`: from there to the end.
    Open {
        /// The first byte wanted.
        first: u64,
    },
    /// `bytes=-length`: the last bytes.
    Suffix {
        /// How many.
        length: u64,
    },
}

/// The range does not overlap the object: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsatisfiable;

/// Reads the value of a `Range` field. Other units, lists of ranges and malformed values give `None`:
/// a server may ignore a Range it does not support, and answers with the whole object.
pub fn parse(value: &str) -> Option<RangeSpec> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(RangeSpec::Suffix {
            length: number(last)?,
        }),
        (false, true) => Some(RangeSpec::Open {
            first: number(first)?,
        }),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(RangeSpec::Closed { first, last })
        }
    }
}

/// Digits only: `u64::from_str` would also take a sign. A number beyond 2^64 is as good as 2^64 - 1,
/// since no object is that long.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

impl RangeSpec {
    /// The bytes of an object of `size` that this asks for.
    pub fn resolve(self, size: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            RangeSpec::Closed { first, last } => first..last.saturating_add(1).min(size),
            RangeSpec::Open { first } => first..size,
            RangeSpec::Suffix { length } => size.saturating_sub(length)..size,
        };
        if range.start < range.end {
            Ok(range)
        } else {
            Err(Unsatisfiable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            parse("bytes=0-0"),
            Some(RangeSpec::Closed { first: 0, last: 0 })
        );
        assert_eq!(parse("Bytes = 5-"), Some(RangeSpec::Open { first: 5 }));
        assert_eq!(parse("bytes=-7"), Some(RangeSpec::Suffix { length: 7 }));
        let huge = parse("bytes=0-99999999999999999999999").unwrap();
        assert_eq!(huge.resolve(10), Ok(0..10));
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=3-2",
            "items=0-1",
            "bytes=0-1,2-3",
            "bytes=+1-2",
            "bytes=1--2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn resolving_against_a_size() {
        let closed = |first, last| RangeSpec::Closed { first, last };
        assert_eq!(closed(0, 9).resolve(10), Ok(0..10));
        assert_eq!(closed(9, 100).resolve(10), Ok(9..10));
        assert_eq!(closed(10, 100).resolve(10), Err(Unsatisfiable));
        assert_eq!(closed(0, u64::MAX).resolve(10), Ok(0..10));
        assert_eq!(
            RangeSpec::Open { first: 10 }.resolve(10),
            Err(Unsatisfiable)
        );
        assert_eq!(RangeSpec::Suffix { length: 3 }.resolve(10), Ok(7..10));
        assert_eq!(RangeSpec::Suffix { length: 30 }.resolve(10), Ok(0..10));
        assert_eq!(
            RangeSpec::Suffix { length: 0 }.resolve(10),
            Err(Unsatisfiable)
        );
        assert_eq!(
            RangeSpec::Suffix { length: 1 }.resolve(0),
            Err(Unsatisfiable)
        );
    }
}
