//! Memory does not grow with a Tahoe-LAFS file, nor with its segments, whose length the uploader chooses. The peak
//! memory of this process after reading a file of some MiB in one segment is about the peak after reading one many
//! times as large. These tests are a binary of their own, so that no other test adds to the peak.

#![cfg(target_os = "linux")]

use std::fs;
use std::io;

use decode_kernel::tahoe::Cap;
use penstock_store::Progress;
use penstock_store::tahoe::Limits;
use penstock_store::tahoe::get::{GetOptions, get};
use penstock_store::tahoe::verify::{VerifyOptions, verify};
use penstock_store::tahoe::write::{Upload, on_nodes};
use penstock_store::verify::Health;

/// The peak resident memory of this process, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Get and verify of a file of one segment, with a data share missing and another damaged.
fn work(mebibytes: u64) {
    let root = tempfile::tempdir().unwrap();
    let nodes = [root.path().to_owned()];
    let size = mebibytes << 20;
    let segment_bytes = size.next_multiple_of(3);
    let upload = Upload {
        k: 3,
        n: 5,
        segment_bytes,
        ..Upload::default()
    };
    let content = |at: u64, bytes: &mut [u8]| {
        bytes
            .iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = ((at + i as u64) % 251) as u8);
    };
    let place = on_nodes(&nodes);
    let cap = upload.write(size, &content, &place).unwrap();
    fs::remove_file(place(cap.storage_index(), 0).unwrap()).unwrap();
    let damaged = place(cap.storage_index(), 1).unwrap();
    let file = fs::File::options().write(true).open(damaged).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 3], 100_000).unwrap();
    let options = |range| GetOptions {
        nodes: nodes.clone().into(),
        cap: Cap::Chk(cap.clone()),
        range,
        limits: Limits::default(),
    };
    let report = get(&options(None), &mut io::sink(), &Progress::hidden()).unwrap();
    assert_eq!((report.bytes, report.stats.bad_blocks), (size, 1));
    let mut tail = Vec::new();
    get(
        &options(Some(size - 300..size)),
        &mut tail,
        &Progress::hidden(),
    )
    .unwrap();
    let mut expected = vec![0; 300];
    content(size - 300, &mut expected);
    assert_eq!(tail, expected);
    let GetOptions {
        nodes, cap, limits, ..
    } = options(None);
    let options = VerifyOptions { nodes, cap, limits };
    let report = verify(&options, &Progress::hidden(), &mut |_| ()).unwrap();
    assert_eq!((report.health, report.good_shares), (Health::Damaged, 3));
}

#[test]
fn memory_does_not_grow_with_segments() {
    work(24);
    let small = peak();
    work(192);
    let large = peak();
    assert!(
        large - small < 4 << 20,
        "peak {small} after 24 MiB, {large} after 192 MiB"
    );
}
