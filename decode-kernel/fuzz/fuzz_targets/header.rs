//! Any page, with the magic and the checksum put right so that the rest is reached: an error, or a
//! header that encodes to the same bytes.
#![no_main]

use decode_kernel::share::{Header, LeafChecksum, PAGE_BYTES};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Header::decode(bytes);
    let mut page = [0; PAGE_BYTES];
    let len = bytes.len().min(PAGE_BYTES - 16);
    page[..8].copy_from_slice(b"PENSTOCK");
    page[8..8 + len].copy_from_slice(&bytes[..len]);
    let sum = LeafChecksum::Crc64Nvme.compute(&page[..PAGE_BYTES - 8]);
    page[PAGE_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
    if let Ok(header) = Header::decode(&page) {
        assert_eq!(header.encode()[..], page[..]);
    }
});
