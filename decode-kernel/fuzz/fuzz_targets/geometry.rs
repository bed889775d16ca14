//! Any numbers: refused, or a layout whose arithmetic neither overflows nor contradicts itself.
#![no_main]

use decode_kernel::share::Geometry;

libfuzzer_sys::fuzz_target!(|numbers: (u64, u16, u16, u32, u32)| {
    let (size, k, n, block, leaf) = numbers;
    let Ok(geometry) = Geometry::new(size, k, n, block, leaf) else { return };
    assert!(geometry.share_file_bytes() < 1 << 62);
    let Some(last) = geometry.leaves().checked_sub(1) else { return assert_eq!(size, 0) };
    assert_eq!(geometry.leaf_range(last).end, geometry.share_bytes());
    assert_eq!(geometry.table_page_of(last).0 + 1, geometry.table_pages());
});
