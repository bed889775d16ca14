//! Any bytes as a share file, and any as the UEB of a cap that pins it: what is read lies within
//! the file, and lengths are bounded before anything is read by them.
#![no_main]

use std::ops::Range;

use decode_kernel::tahoe::{
    CONTAINER_HEADER_BYTES, ChkCap, Container, Geometry, Layout, UEB_BYTES_MAX, Ueb, ueb_hash,
    verify_chain,
};

libfuzzer_sys::fuzz_target!(|input: (u64, u8, u8, u8, u64, &[u8])| {
    let (size, k, more, number, segment, file) = input;
    let k = u64::from(k) + 1;
    let n = (k + u64::from(more)).min(256);

    // Bytes that the cap pins, whatever they are.
    let hash = ueb_hash(file);
    let Ok(cap) = ChkCap::new([0; 16], hash, k, n, size) else { return };
    if let Ok(ueb) = Ueb::check(file, &cap, 1 << 20) {
        assert_eq!(ueb.geometry.size(), size);
    }

    let Ok(container) = Container::parse(file, file.len() as u64) else { return };
    let (base, len) = (CONTAINER_HEADER_BYTES, container.data_bytes);
    assert!(base + len <= file.len() as u64);
    let read = |range: Range<u64>| &file[range.start as usize..range.end as usize];
    let Ok(layout) = Layout::parse(read(base..base + len)) else { return };
    if let Ok(length) = layout.ueb_length_range(base, len)
        && let Ok(ueb) = layout.ueb_range(read(length), base, len)
    {
        assert!(read(ueb.clone()).len() as u64 <= UEB_BYTES_MAX);
        assert!(Ueb::check(read(ueb), &cap, 1 << 20).is_err());
    }
    let Ok(geometry) = Geometry::new(k as u16, n as u16, size, segment, u64::MAX) else { return };
    if let Ok(chain) = layout.chain_range(base, len) {
        let number = u16::from(number) % n as u16;
        let _ = verify_chain(read(chain), geometry.share_tree(), number, &[0; 32]);
    }
    if let Ok(regions) = layout.regions(&geometry, base, len) {
        let last = geometry.segments() - 1;
        read(regions.block_range(0));
        read(regions.block_range(last));
        if last > 0 {
            let node = geometry.tree().nodes() - 1;
            read(regions.block_node(0));
            read(regions.block_node(node));
            regions.ciphertext_node(node).map(read);
        }
    }
});
