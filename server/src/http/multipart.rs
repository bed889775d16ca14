//! Bodies of several ranges: `multipart/byteranges` (RFC 9110 section 14.6).
//!
//! Nothing of such a body is made before it is its turn: each part is a few lines of text and a range of the object,
//! which goes through the same gate and sources as a body of one range.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;

use super::range::RANGES_MAX;

/// What the lines before a range have besides the boundary, the media type and three numbers.
const LINES: &str = "\r\n--\r\nContent-Type: \r\nContent-Range: bytes -/\r\n\r\n";
/// Hexadecimal digits of a boundary.
const BOUNDARY_BYTES: usize = 32;

/// The parts that are still to be sent.
#[derive(Debug)]
pub struct Parts {
    boundary: String,
    content_type: String,
    /// Length of the whole object.
    size: u64,
    ranges: std::vec::IntoIter<Range<u64>>,
    /// Whether no part was begun.
    is_first: bool,
    /// Bytes of all that is left, the closing line included.
    remaining: u64,
}

/// One part: its lines, and the range that follows them. The last has lines only.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Boundary and fields.
    pub lines: String,
    /// The bytes of the object.
    pub range: Range<u64>,
}

impl Parts {
    /// The parts of these ranges of an object of `size`.
    pub fn new(ranges: Vec<Range<u64>>, content_type: &str, size: u64) -> Parts {
        // Nobody who chooses what an object holds can know the boundary. The keys of the standard hasher are random.
        let half = || RandomState::new().hash_one(size);
        let mut parts = Parts {
            boundary: format!("{:016x}{:016x}", half(), half()),
            content_type: content_type.to_owned(),
            size,
            ranges: ranges.into_iter(),
            is_first: true,
            remaining: 0,
        };
        let each = |range: &Range<u64>| {
            let numbers = digits(range.start) + digits(range.end - 1) + digits(size);
            let fixed = LINES.len() + BOUNDARY_BYTES + content_type.len();
            (fixed + numbers) as u64 + (range.end - range.start)
        };
        // Ranges add up to the object's size at most. The first line break is left out, and the last line has one more
        // pair of hyphens.
        let ranges: u64 = parts.ranges.as_slice().iter().map(each).sum();
        parts.remaining = ranges - 2 + parts.closing_line().len() as u64;
        parts
    }

    /// What separates the parts, for `Content-Type`.
    pub fn boundary(&self) -> &str {
        &self.boundary
    }

    /// Bytes of all parts that [`next`](Iterator::next) has not returned.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Bytes on the heap at most, and of this itself.
    pub fn held_bytes(&self) -> usize {
        size_of::<Parts>()
            + self.boundary.capacity()
            + self.content_type.capacity()
            + RANGES_MAX * size_of::<Range<u64>>()
    }

    fn closing_line(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.remaining == 0 {
            return None;
        }
        let part = match self.ranges.next() {
            None => Part {
                lines: self.closing_line(),
                range: 0..0,
            },
            Some(range) => {
                let mut lines = String::new();
                if !std::mem::take(&mut self.is_first) {
                    lines.push_str("\r\n");
                }
                // Writing to a String does not fail.
                let _ = write!(
                    lines,
                    "--{}\r\nContent-Type: {}\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
                    self.boundary,
                    self.content_type,
                    range.start,
                    range.end - 1,
                    self.size
                );
                Part { lines, range }
            }
        };
        self.remaining -= part.lines.len() as u64 + (part.range.end - part.range.start);
        Some(part)
    }
}

/// Digits of a number in decimal.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines, with the bytes of ranges shown as dots.
    fn whole(mut parts: Parts) -> String {
        let mut text = String::new();
        let mut left = parts.remaining();
        while let Some(part) = parts.next() {
            text.push_str(&part.lines);
            let length = part.range.end - part.range.start;
            text.extend(std::iter::repeat_n('.', length as usize));
            left -= part.lines.len() as u64 + length;
            assert_eq!(left, parts.remaining());
        }
        assert_eq!(left, 0);
        text
    }

    #[test]
    fn parts_are_as_long_as_was_said() {
        let parts = Parts::new(vec![0..1, 5..10, 99..100], "video/mp4", 100);
        let (boundary, said) = (parts.boundary().to_owned(), parts.remaining());
        assert_eq!(boundary.len(), BOUNDARY_BYTES);
        let text = whole(parts);
        assert_eq!(text.len() as u64, said);
        let expected = format!(
            "--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-0/100\r\n\r\n.\
             \r\n--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes 5-9/100\r\n\r\n.....\
             \r\n--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes 99-99/100\r\n\r\n.\
             \r\n--{boundary}--\r\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_of_any_length() {
        for size in [10, 11, 101, u64::MAX] {
            let ranges = vec![0..1, 9..10, size - 1..size];
            let parts = Parts::new(ranges, "a/b", size);
            let said = parts.remaining();
            assert_eq!(whole(parts).len() as u64, said, "{size}");
        }
    }

    #[test]
    fn boundaries_differ() {
        let boundary = || Parts::new(vec![0..1, 2..3], "a/b", 9).boundary;
        assert_ne!(boundary(), boundary());
    }
}
