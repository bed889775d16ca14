//! Reads a share file: what its header says, and whether every leaf of its blocks matches its checksum.
//!
//! `cargo run -p decode-kernel --example read_share -- FILE`, where FILE lies below `objects` of a store.

use std::env;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use decode_kernel::share::{BLOCKS_OFFSET, Header, PAGE_BYTES, TablePage};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("which share file?")?;
    match read(Path::new(&path))?.len() {
        0 => Ok(()),
        damaged => Err(format!("{damaged} leaves are damaged").into()),
    }
}

/// Reads a whole share, and returns the numbers of damaged leaves.
pub(crate) fn read(path: &Path) -> Result<Vec<u64>, Box<dyn Error>> {
    let file = File::open(path)?;
    let mut page = [0; PAGE_BYTES];
    file.read_exact_at(&mut page, 0)?;
    let header = Header::decode(&page)?;
    let geometry = &header.geometry;
    println!(
        "share {} of {}: {} {}-of-{}",
        header.number,
        header.key,
        header.code,
        geometry.k(),
        geometry.n()
    );
    println!(
        "an object of {} bytes, SHA-256 {}",
        geometry.size(),
        header.digest
    );

    let mut damaged = Vec::new();
    let mut page_index = None;
    for leaf in 0..geometry.leaves() {
        // A page of the table has the checksums of many leaves. Its own checksum holds it to this share and place.
        let (index, entry) = geometry.table_page_of(leaf);
        if page_index != Some(index) {
            let offset = geometry.table_offset() + index * PAGE_BYTES as u64;
            file.read_exact_at(&mut page, offset)?;
            page_index = Some(index);
        }
        let table = TablePage::decode(&header.generation, header.number, index, &page)?;
        let range = geometry.leaf_range(leaf);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, BLOCKS_OFFSET + range.start)?;
        if header.leaf_checksum.compute(&bytes) != table.entry(entry) {
            damaged.push(leaf);
        }
    }
    println!("{} leaves, {} damaged", geometry.leaves(), damaged.len());
    Ok(damaged)
}
