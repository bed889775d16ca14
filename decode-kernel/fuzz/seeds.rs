//! Writes what fuzzing begins from, below the folder named: for each target some inputs that are
//! accepted, since a fuzzer hardly guesses a checksum. Run as `cargo run --example fuzz-seeds -- FOLDER`.
//!
//! Numbers stand before bytes in an input, lowest byte first, as the crate `arbitrary` takes them.

use std::num::NonZeroU64;
use std::path::Path;
use std::{env, fs, io};

use decode_kernel::code::CodeKind;
use decode_kernel::share::{
    Digest, DigestAlgorithm, Fields, Generation, Geometry, Header, Key, LeafChecksum, Metadata,
    TablePage,
};
use decode_kernel::tahoe::{CONTAINER_HEADER_BYTES, Cap, Container, Layout};

/// Share 0 of a file of 56 bytes that Tahoe-LAFS 1.20 encoded 3-of-10 in one segment of 57.
const TAHOE_SHARE: &[u8] = include_bytes!("share.tahoe");
const TAHOE_CAP: &str = "URI:CHK:5on4y6m3kxdhgca5enjbgdbj3y:w4zxpq4w2ryp6q3yxagvtdgqmalcnit6wf3pvpece4676kofhhuq:3:10:56";

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).expect("name the folder to write to");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };

    for (name, code, size, k, n) in [
        ("rs8", CodeKind::Rs8, 1_000_000, 4, 6),
        ("rs16", CodeKind::Rs16, 1 << 40, 100, 1000),
        ("empty", CodeKind::Rs8, 0, 1, 1),
    ] {
        let page = header(code, size, k, n).encode();
        // The target puts magic and checksum right itself.
        let used = page[..page.len() - 8].iter().rposition(|&byte| byte != 0);
        write("header", name, &page[8..=used.expect("a magic")])?;
        let block_and_leaf = [65536u32, 4096].map(u32::to_le_bytes).concat();
        let numbers = [
            &size.to_le_bytes()[..],
            &k.to_le_bytes(),
            &n.to_le_bytes(),
            &block_and_leaf,
        ];
        write("geometry", name, &numbers.concat())?;
    }
    write(
        "header",
        "whole",
        &header(CodeKind::Rs8, 4096, 2, 3).encode()[..],
    )?;

    let fields = [
        ("Content-Disposition", "attachment; filename=\"a.iso\""),
        ("Cache-Control", "no-cache"),
        ("Content-Encoding", "gzip"),
        ("Content-Language", "de, en"),
        ("X-Amz-Meta-Mtime", "1700000000.5"),
        ("X-Zone", "9"),
    ];
    let metadata = Metadata {
        crc64nvme: Some(0x0102_0304_0506_0708),
        expires: NonZeroU64::new(2_000_000_000),
        fields: Fields::new(fields).expect("good fields"),
    };
    let page = Header {
        metadata,
        ..header(CodeKind::Rs8, 4096, 2, 3)
    }
    .encode();
    let used = page[..page.len() - 8].iter().rposition(|&byte| byte != 0);
    write("header", "metadata", &page[8..=used.expect("a magic")])?;

    let (number, index, entries) = (1u16, 2u64, [3, u64::MAX]);
    let page = TablePage::encode(&Generation::new(0, [0; 8]), number, index, &entries);
    let input = [&number.to_le_bytes()[..], &index.to_le_bytes(), &page];
    write("table_page", "two", &input.concat())?;

    write("tahoe_cap", "chk", TAHOE_CAP.as_bytes())?;
    write("tahoe_cap", "lit", b"URI:LIT:q4")?;

    // The size, k - 1, n - k, which share, bytes of a segment; then a share, or what a cap pins.
    let Ok(Cap::Chk(cap)) = Cap::parse(TAHOE_CAP) else {
        panic!("a CHK cap")
    };
    let codes = [cap.k() - 1, cap.n() - cap.k(), 0].map(|number| number as u8);
    let numbers = [&cap.size().to_le_bytes()[..], &codes, &57u64.to_le_bytes()].concat();
    write("tahoe_share", "share", &[&numbers, TAHOE_SHARE].concat())?;
    write("tahoe_share", "ueb", &[&numbers, ueb(TAHOE_SHARE)].concat())?;

    // The height, then which leaf is read and how it is changed, each after a byte that says more follows.
    write("tahoe_tree", "unchanged", &[3, 1, 0, 0, 1, 7, 0, 1, 0, 0])?;
    write("tahoe_tree", "changed", &[2, 1, 3, 1, 1, 3, 0, 1, 2, 16])
}

fn header(code: CodeKind, size: u64, k: u16, n: u16) -> Header {
    Header {
        key: Key::new("releases/an object.iso").expect("a key"),
        content_type: "application/octet-stream".to_owned(),
        geometry: Geometry::new(size, k, n, 65536, 4096).expect("a layout"),
        code,
        number: n - 1,
        leaf_checksum: LeafChecksum::Crc64Nvme,
        digest: Digest {
            algorithm: DigestAlgorithm::Sha256,
            bytes: [7; 32],
        },
        generation: Generation::new(1_700_000_000, [5; 8]),
        created: 1_700_000_000,
        metadata: Metadata::default(),
    }
}

/// The URI extension block of a share file.
fn ueb(file: &[u8]) -> &[u8] {
    let bytes = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let container = Container::parse(file, file.len() as u64).expect("a container");
    let (base, len) = (CONTAINER_HEADER_BYTES, container.data_bytes);
    let layout = Layout::parse(bytes(base..base + len)).expect("an offset table");
    let length = layout.ueb_length_range(base, len).expect("a length");
    bytes(layout.ueb_range(bytes(length), base, len).expect("a block"))
}
