//! Memory does not grow with the object: the peak memory of this process after work on a small
//! object is about the peak after the same work on an object six times as large. These tests are a
//! binary of their own, so that no other test adds to the peak.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{self, Read};

use common::{Stores, flip, key};
use penstock_store::Progress;
use penstock_store::Store;
use penstock_store::get::{GetOptions, get};
use penstock_store::put::{PutOptions, put};
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

/// Put, get with lost and damaged shares, verify, and repair of an object of `mebibytes`.
fn work(mebibytes: u64, options: impl Fn(&Stores) -> PutOptions) {
    let stores = Stores::new(6);
    let options = options(&stores);
    let report = put(
        &mut io::repeat(7).take(mebibytes << 20),
        &options,
        &Progress::hidden(),
    )
    .unwrap();
    fs::remove_file(&report.paths[1]).unwrap();
    flip(&report.paths[2], 4096 + 12345);
    let options = GetOptions {
        stores: Store::directories(&stores.paths),
        key: key(),
        stale: false,
    };
    get(&options, &mut io::sink(), &Progress::hidden()).unwrap();
    assert_eq!(stores.health(), Health::Damaged);
    assert!(stores.repair().0.complete());
    assert_eq!(stores.health(), Health::Healthy);
}

#[test]
fn memory_does_not_grow_with_the_object() {
    for block_size in [64 << 10, 8 << 20] {
        let options = |stores: &Stores| PutOptions {
            block_size,
            ..stores.options(4, 2)
        };
        work(64, options);
        let small = peak();
        work(384, options);
        let large = peak();
        assert!(
            large - small < 16 << 20,
            "peak {small} after 64 MiB, {large} after 384 MiB"
        );
    }
}
