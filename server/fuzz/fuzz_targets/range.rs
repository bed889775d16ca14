//! Any `Range` field, against objects of some sizes: ignored, refused, or bytes that the object has.
#![no_main]

use penstock::http::range;

libfuzzer_sys::fuzz_target!(|value: &str| {
    let Some(spec) = range::parse(value) else { return };
    for size in [0, 1, 100, u64::MAX] {
        let Ok(range) = spec.resolve(size) else { continue };
        assert!(range.start < range.end && range.end <= size);
    }
});
