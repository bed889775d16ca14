//! Any page of a leaf table: an error, or one whose entries make the same page.
#![no_main]

use decode_kernel::share::{Generation, TABLE_PAGE_ENTRIES, TablePage};

libfuzzer_sys::fuzz_target!(|input: (u16, u64, &[u8])| {
    let (generation, (number, index, page)) = (Generation::new(0, [0; 8]), input);
    if let Ok(table) = TablePage::decode(&generation, number, index, page) {
        let entries: Vec<u64> = (0..TABLE_PAGE_ENTRIES).map(|i| table.entry(i)).collect();
        assert_eq!(&TablePage::encode(&generation, number, index, &entries)[..], page);
    }
});
