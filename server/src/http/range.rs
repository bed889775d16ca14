//! The `Range` field: byte ranges (RFC 9110 section 14).
//!
//! Many small or overlapping ranges are a known way to make a server work hard for little. So there is a policy in
//! numbers: what goes beyond it is answered with the whole object, as section 14.2 allows.

use std::ops::Range;

use super::field;

/// The most ranges of one request.
pub const RANGES_MAX: usize = 50;
/// The most of them that overlap one before it.
const OVERLAPS_MAX: usize = 2;
/// The most of them that start before the one before it.
const REVERSALS_MAX: usize = 8;

/// A byte range as the client asked for it, not yet resolved against an object's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`, both included.
    Closed {
        /// The first byte wanted.
        first: u64,
        /// The last byte wanted; never below `first`.
        last: u64,
    },
    /// `first-`: from there to the end.
    Open {
        /// The first byte wanted.
        first: u64,
    },
    /// `-length`: the last bytes.
    Suffix {
        /// How many.
        length: u64,
    },
}

/// What a `Range` field asks for: 1 to [`RANGES_MAX`] ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<RangeSpec>);

/// The part of an object that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it: the ranges don't count.
    Whole,
    /// One range.
    One(Range<u64>),
    /// Two ranges or more, in the order of the request. None is empty, and all are within the object.
    Several(Vec<Range<u64>>),
    /// No range overlaps the object: 416.
    Unsatisfiable,
}

/// Reads the value of a `Range` field. Other units, malformed values and more than [`RANGES_MAX`] ranges give `None`: a
/// server may ignore a Range that it does not support, and answers with the whole object.
pub fn parse(value: &str) -> Option<Ranges> {
    let (unit, set) = value.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = Vec::new();
    // An element of a list may be empty (RFC 9110 section 5.6.1.2).
    for element in field::list(set) {
        if ranges.len() == RANGES_MAX {
            return None;
        }
        ranges.push(range(element)?);
    }
    (!ranges.is_empty()).then_some(Ranges(ranges))
}

fn range(text: &str) -> Option<RangeSpec> {
    match text.split_once('-')? {
        ("", "") => None,
        ("", length) => Some(RangeSpec::Suffix {
            length: number(length)?,
        }),
        (first, "") => Some(RangeSpec::Open {
            first: number(first)?,
        }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(RangeSpec::Closed { first, last })
        }
    }
}

/// A number beyond 2^64 is as good as 2^64 - 1, since no object is that long.
fn number(text: &str) -> Option<u64> {
    field::is_number(text).then(|| text.parse().unwrap_or(u64::MAX))
}

impl RangeSpec {
    /// The bytes of an object of `size` that this asks for; `None` if it has none of them.
    fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            RangeSpec::Closed { first, last } => first..last.saturating_add(1).min(size),
            RangeSpec::Open { first } => first..size,
            RangeSpec::Suffix { length } => size.saturating_sub(length)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

impl Ranges {
    /// The part of an object of `size` that this asks for.
    pub fn select(&self, size: u64) -> Selected {
        // There is nothing to select from: 200 with nothing tells more than 416.
        if size == 0 {
            return Selected::Whole;
        }
        let resolved = self.0.iter().filter_map(|spec| spec.resolve(size));
        let ranges: Vec<Range<u64>> = resolved.collect();
        match &ranges[..] {
            [] => Selected::Unsatisfiable,
            [range] => Selected::One(range.clone()),
            _ if is_costly(&ranges, size) => Selected::Whole,
            _ => Selected::Several(ranges),
        }
    }

    /// Bytes on the heap.
    pub fn held_bytes(&self) -> usize {
        self.0.capacity() * size_of::<RangeSpec>()
    }
}

/// Whether the ranges, within an object of `size`, go beyond the policy.
fn is_costly(ranges: &[Range<u64>], size: u64) -> bool {
    let lengths = ranges
        .iter()
        .map(|range| u128::from(range.end - range.start));
    let reversals = ranges.windows(2).filter(|two| two[1].start < two[0].start);
    let overlaps = ranges.iter().enumerate().filter(|(at, range)| {
        let mut before = ranges[..*at].iter();
        before.any(|other| other.start < range.end && range.start < other.end)
    });
    lengths.sum::<u128>() > u128::from(size)
        || reversals.count() > REVERSALS_MAX
        || overlaps.count() > OVERLAPS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a value selects of an object of 1000 bytes.
    fn select(value: &str) -> Selected {
        parse(value)
            .unwrap_or_else(|| panic!("{value}"))
            .select(1000)
    }

    #[test]
    fn forms() {
        assert_eq!(select("bytes=0-0"), Selected::One(0..1));
        assert_eq!(select("Bytes=5-"), Selected::One(5..1000));
        assert_eq!(select("bytes=-7"), Selected::One(993..1000));
        assert_eq!(
            select("bytes=0-99999999999999999999999"),
            Selected::One(0..1000)
        );
        // Empty elements, and white space around elements.
        for value in ["bytes=0-4,", "bytes=,0-4", "bytes= , \t,0-4 ,"] {
            assert_eq!(select(value), Selected::One(0..5), "{value}");
        }
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=3-2",
            "items=0-1",
            "bytes =0-1",
            "bytes=0 - 1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=1-2-3",
            "bytes=1",
            "bytes=0-1,x",
            "bytes=0-1;2-3",
            "bytes=\u{a0}0-1",
            "bytes=\u{661}-2",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn resolving_against_a_size() {
        let one = |value: &str, size| parse(value).unwrap().select(size);
        assert_eq!(one("bytes=0-9", 10), Selected::One(0..10));
        assert_eq!(one("bytes=9-100", 10), Selected::One(9..10));
        assert_eq!(one("bytes=10-100", 10), Selected::Unsatisfiable);
        assert_eq!(
            one("bytes=0-18446744073709551615", 10),
            Selected::One(0..10)
        );
        assert_eq!(one("bytes=10-", 10), Selected::Unsatisfiable);
        assert_eq!(one("bytes=-3", 10), Selected::One(7..10));
        assert_eq!(one("bytes=-30", 10), Selected::One(0..10));
        assert_eq!(one("bytes=-0", 10), Selected::Unsatisfiable);
        // Of several, those that can't be satisfied don't count.
        assert_eq!(one("bytes=10-,-0,2-3", 10), Selected::One(2..4));
        assert_eq!(one("bytes=10-,-0", 10), Selected::Unsatisfiable);
        let max = u64::MAX;
        assert_eq!(one("bytes=-1", max), Selected::One(max - 1..max));
        assert_eq!(
            one("bytes=0-,0-", max),
            Selected::Whole,
            "the sum doesn't overflow"
        );
        // An empty object is sent whole, whatever was asked.
        for value in ["bytes=0-", "bytes=-1", "bytes=5-6,7-8"] {
            assert_eq!(one(value, 0), Selected::Whole);
        }
    }

    #[test]
    fn several_keep_their_order() {
        assert_eq!(
            select("bytes=5-6, 0-1,-2"),
            Selected::Several(vec![5..7, 0..2, 998..1000])
        );
    }

    fn value(ranges: impl IntoIterator<Item = (u64, u64)>) -> String {
        let texts = ranges
            .into_iter()
            .map(|(first, last)| format!("{first}-{last}"));
        format!("bytes={}", texts.collect::<Vec<_>>().join(","))
    }

    /// The policy, at its edges.
    #[test]
    fn too_many_overlapping_or_disordered_ranges_are_the_whole_object() {
        let apart = |count| value((0..count).map(|i| (10 * i, 10 * i + 1)));
        assert!(matches!(select(&apart(50)), Selected::Several(ranges) if ranges.len() == 50));
        assert_eq!(parse(&apart(51)), None);

        let overlapping = |count| value((0..=count).map(|i| (10 * i, 10 * i + 10)));
        assert!(matches!(select(&overlapping(2)), Selected::Several(_)));
        assert_eq!(select(&overlapping(3)), Selected::Whole);

        let backwards = |count| value((0..=count).rev().map(|i| (10 * i, 10 * i + 1)));
        assert!(matches!(select(&backwards(8)), Selected::Several(_)));
        assert_eq!(select(&backwards(9)), Selected::Whole);

        assert!(matches!(
            select("bytes=0-499,500-999"),
            Selected::Several(_)
        ));
        assert_eq!(
            select("bytes=0-499,499-999"),
            Selected::Whole,
            "more than the object"
        );
    }
}
