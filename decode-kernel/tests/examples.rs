//! The examples, run.

use std::fs;

use decode_kernel::code::CodeKind;
use decode_kernel::share::{
    BLOCKS_OFFSET, Digest, DigestAlgorithm, Generation, Geometry, Header, Key, LeafChecksum,
    Metadata, TablePage,
};

#[allow(dead_code)] // its main is for whoever runs it
#[path = "../examples/read_share.rs"]
mod read_share;
#[path = "../examples/rebuild_segment.rs"]
mod rebuild_segment;

#[test]
fn a_segment_is_rebuilt() {
    rebuild_segment::main().unwrap();
}

#[test]
fn a_share_is_read_and_damage_found() {
    // One data share that is all of the object: its leaves are the object's bytes.
    let object: Vec<u8> = (0..20_000u32).map(|i| (i % 253) as u8).collect();
    let header = Header {
        key: Key::new("an/object").unwrap(),
        content_type: "text/plain".to_owned(),
        geometry: Geometry::new(object.len() as u64, 1, 2, 16 << 10, 4 << 10).unwrap(),
        code: CodeKind::Rs8,
        number: 0,
        leaf_checksum: LeafChecksum::Crc64Nvme,
        digest: Digest {
            algorithm: DigestAlgorithm::Sha256,
            bytes: [7; 32],
        },
        generation: Generation::new(1, [2; 8]),
        created: 3,
        metadata: Metadata::default(),
    };
    let geometry = &header.geometry;
    let mut blocks = object;
    blocks.resize(geometry.share_bytes() as usize, 0);
    let sums: Vec<u64> = (0..geometry.leaves())
        .map(|leaf| geometry.leaf_range(leaf))
        .map(|range| &blocks[range.start as usize..range.end as usize])
        .map(|leaf| header.leaf_checksum.compute(leaf))
        .collect();
    assert_eq!(sums.len(), 5);
    let mut share = header.encode().to_vec();
    share.extend(&blocks);
    share.resize(geometry.table_offset() as usize, 0);
    share.extend(TablePage::encode(&header.generation, 0, 0, &sums));

    let path = std::env::temp_dir().join(format!("decode-kernel-{}.share", std::process::id()));
    let read = |share: &[u8]| {
        fs::write(&path, share).unwrap();
        let damaged = read_share::read(&path).map_err(|error| error.to_string());
        fs::remove_file(&path).unwrap();
        damaged
    };
    assert_eq!(read(&share), Ok(vec![]));
    share[BLOCKS_OFFSET as usize + 5000] ^= 1;
    assert_eq!(read(&share), Ok(vec![1]));
    share[0] ^= 1;
    assert!(read(&share).is_err());
}
