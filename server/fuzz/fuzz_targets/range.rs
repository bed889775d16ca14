//! Any `Range` field, against objects of some sizes: ignored, refused, or bytes that the object has, within the policy.
#![no_main]

use penstock::http::multipart::Parts;
use penstock::http::range::{self, RANGES_MAX, Selected};

libfuzzer_sys::fuzz_target!(|value: &str| {
    let Some(asked) = range::parse(value) else { return };
    for size in [0, 1, 100, u64::MAX] {
        let ranges = match asked.select(size) {
            Selected::Whole | Selected::Unsatisfiable => continue,
            Selected::One(range) => vec![range],
            Selected::Several(ranges) => ranges,
        };
        assert!(ranges.len() <= RANGES_MAX);
        let bytes: u128 = ranges.iter().map(|range| u128::from(range.end - range.start)).sum();
        assert!(bytes <= u128::from(size));
        for range in &ranges {
            assert!(range.start < range.end && range.end <= size);
        }
        // The lines between the ranges of the largest object that there can be don't count.
        if size < u64::MAX {
            let mut parts = Parts::new(ranges, "a/b", size);
            while let Some(part) = parts.next() {
                assert!(part.range.end <= size);
            }
            assert_eq!(parts.remaining(), 0);
        }
    }
});
