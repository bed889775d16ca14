//! Get returns the bytes that were put, over sizes, codes, and every way to lose shares; and put
//! refuses bad options.

mod common;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use common::{CODES, Stores, header, key, noise};
use decode_kernel::code::CodeKind;
use decode_kernel::share::Key;
use penstock_store::OpenError;
use penstock_store::Progress;
use penstock_store::Store;
use penstock_store::get::{GetError, GetOptions, get_file};
use penstock_store::put::{PutError, PutOptions, put};
use proptest::prelude::*;

fn put_bytes(bytes: &[u8], options: &PutOptions) {
    put(&mut &bytes[..], options, &Progress::hidden()).unwrap();
}

/// Sizes at the edges of `unit`s: none, one, and next to each multiple.
fn edges(unit: usize, most: usize) -> impl Strategy<Value = usize> {
    (0..=most, -1..=1i64)
        .prop_map(move |(times, by)| (unit * times).saturating_add_signed(by as isize))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any size, any code: get returns the bytes with any m shares lost.
    #[test]
    fn round_trip(
        (data, parity) in (1..=6u16, 0..=4u16),
        pages in 1..=3u32,
        code in prop::sample::select(&CODES[..]),
        size in prop_oneof![
            edges(64, 2), edges(4096, 20), edges(8192, 20), edges(3 * 8192, 6), 0..150_000usize,
        ],
        seed: u64,
    ) {
        let n = usize::from(data + parity);
        let stores = Stores::new(n);
        let bytes = noise(size, seed);
        let options = PutOptions {
            block_size: pages * 4096,
            code: Some(code),
            ..stores.options(data, parity)
        };
        put_bytes(&bytes, &options);
        prop_assert_eq!(stores.files().len(), n, "a file a share, and no temporary ones");
        prop_assert!(stores.get().unwrap() == bytes);
        for lost in 0..usize::from(parity) {
            fs::remove_dir_all(&stores.paths[(seed as usize % n + lost) % n]).unwrap();
        }
        prop_assert!(stores.get().unwrap() == bytes);
    }
}

#[test]
fn every_set_of_lost_shares_of_a_small_code() {
    for code in CODES {
        for (data, parity) in [(1, 2), (2, 2), (4, 2), (3, 3), (5, 1)] {
            let n = usize::from(data + parity);
            let stores = Stores::new(n);
            // Two segments and a tail.
            let bytes = noise(usize::from(data) * 8192 * 2 + 5000, 7);
            put_bytes(
                &bytes,
                &PutOptions {
                    code: Some(code),
                    ..stores.options(data, parity)
                },
            );
            for lost in 0..1u32 << n {
                let moved = |i: usize| stores.root.path().join(format!("moved-{i}"));
                let lost_ones = || (0..n).filter(|i| lost >> i & 1 == 1);
                lost_ones().for_each(|i| fs::rename(&stores.paths[i], moved(i)).unwrap());
                let got = stores.get();
                if lost.count_ones() <= parity.into() {
                    assert!(
                        got.unwrap() == bytes,
                        "{code} {data}+{parity} without {lost:b}"
                    );
                } else if lost.count_ones() < n as u32 {
                    let have = n - lost.count_ones() as usize;
                    let Err(GetError::Open(OpenError::TooFew { have: h, need, .. })) = got else {
                        panic!("{code} {data}+{parity} without {lost:b}: {got:?}")
                    };
                    assert_eq!((h, need), (have, data.into()));
                }
                lost_ones().for_each(|i| fs::rename(moved(i), &stores.paths[i]).unwrap());
            }
        }
    }
}

#[test]
fn wide_codes_and_long_blocks() {
    for (code, data, parity, block_size, size) in [
        (CodeKind::Rs8, 200, 56, 4096, 1_700_000),
        (CodeKind::Rs16, 260, 40, 4096, 1_300_000),
        // A segment longer than get's window, read block by block; several pages of the leaf table.
        (CodeKind::Rs8, 3, 2, 8 << 20, 30_000_001),
        (CodeKind::Rs16, 2, 1, 12 << 20, 25_000_000),
    ] {
        let stores = Stores::new(usize::from(data + parity));
        let bytes = noise(size, 3);
        let options = PutOptions {
            code: Some(code),
            block_size,
            ..stores.options(data, parity)
        };
        put_bytes(&bytes, &options);
        stores.paths[..parity.into()]
            .iter()
            .for_each(|store| fs::remove_dir_all(store).unwrap());
        assert!(stores.get().unwrap() == bytes, "{code} {data}+{parity}");
    }
}

#[test]
fn wider_than_rs8_chooses_rs16() {
    let stores = Stores::new(257);
    assert_eq!(stores.put(b"x", 250, 7).header.code, CodeKind::Rs16);
    let options = PutOptions {
        code: Some(CodeKind::Rs8),
        ..stores.options(250, 7)
    };
    assert!(matches!(
        put(&mut &b"x"[..], &options, &Progress::hidden()),
        Err(PutError::Code(_))
    ));
}

#[test]
fn the_header_describes_the_object() {
    let stores = Stores::new(3);
    let options = PutOptions {
        key: Key::new("a/b.html").unwrap(),
        ..stores.options(2, 1)
    };
    let report = put(&mut &b"hello"[..], &options, &Progress::hidden()).unwrap();
    for (i, path) in report.paths.iter().enumerate() {
        let header = header(path);
        assert_eq!(usize::from(header.number), i);
        assert_eq!(
            (header.content_type.as_str(), header.geometry.size()),
            ("text/html", 5)
        );
        let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(header.digest.to_string(), sha);
    }
    let text = report.to_string();
    assert!(
        text.contains("a/b.html") && text.contains("rs8 2+1"),
        "{text}"
    );
    assert_eq!(
        stores.put(b"", 2, 1).header.content_type,
        "application/octet-stream"
    );
}

#[test]
fn a_second_put_replaces_the_first() {
    let stores = Stores::new(6);
    let first = stores.put(b"first", 4, 2).header.generation;
    // Fewer shares, so that some old ones are in stores that the new put does not touch.
    let report = stores.put(b"second", 1, 1);
    assert!(report.header.generation > first);
    assert_eq!(report.replaced, 6);
    assert_eq!(stores.files().len(), 2);
    assert_eq!(stores.get().unwrap(), b"second");
}

/// A reader that fails after some bytes, as a lost disk or a broken pipe would.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.0);
        self.0 -= len;
        buffer[..len].fill(1);
        if len == 0 {
            Err(io::Error::other("the source broke"))
        } else {
            Ok(len)
        }
    }
}

#[test]
fn a_failing_source_leaves_everything_as_it_was() {
    let stores = Stores::new(3);
    stores.put(b"old", 2, 1);
    let before = stores.files();
    for bytes in [0, 100, 40_000] {
        let result = put(
            &mut Failing(bytes),
            &stores.options(2, 1),
            &Progress::hidden(),
        );
        let error = result.unwrap_err();
        assert!(matches!(error, PutError::Source(_)), "{error}");
        assert!(error.to_string().contains("the source broke"));
        assert_eq!(stores.files(), before);
        assert_eq!(stores.get().unwrap(), b"old");
    }
}

#[test]
fn a_failing_store_is_named_and_leaves_everything_as_it_was() {
    let stores = Stores::new(3);
    stores.put(b"old", 2, 1);
    // A file is in the way of the last store's directory for temporary files.
    let tmp = stores.paths[2].join("tmp");
    fs::remove_dir(&tmp).unwrap();
    fs::write(&tmp, "in the way").unwrap();
    let before = stores.files();
    let error = put(&mut &b"new"[..], &stores.options(2, 1), &Progress::hidden()).unwrap_err();
    assert!(error.to_string().contains(tmp.to_str().unwrap()), "{error}");
    // A printed chain of causes has the system's message once.
    assert!(std::error::Error::source(&error).is_none(), "{error}");
    assert_eq!(stores.files(), before);
    assert_eq!(stores.get().unwrap(), b"old");
}

#[test]
fn put_refuses_bad_options() {
    let stores = Stores::new(3);
    let refused = |options: PutOptions| {
        put(&mut &b"x"[..], &options, &Progress::hidden())
            .unwrap_err()
            .to_string()
    };
    let error = refused(stores.options(3, 1));
    assert!(
        error.contains("4 shares need 4 stores") && error.contains("only 3"),
        "{error}"
    );
    let mut twice = stores.options(2, 1);
    twice.stores[1] = stores.paths[0].join(".").into();
    assert!(refused(twice).contains("are the same directory"));
    assert!(
        refused(PutOptions {
            block_size: 5000,
            ..stores.options(2, 1)
        })
        .contains("5000")
    );
    assert!(refused(stores.options(0, 1)).contains("k=0"));
    assert!(refused(stores.options(60000, 60000)).contains("k=60000"));
    assert!(refused(stores.options(1000, 25)).contains("n=1025"));
    let long = PutOptions {
        block_size: 16 << 20,
        ..stores.options(17, 1)
    };
    assert!(refused(long).contains("choose a smaller block size"));
    let odd = PutOptions {
        content_type: Some("a\nb".into()),
        ..stores.options(2, 1)
    };
    assert!(refused(odd).contains("content type"));
    assert!(stores.get().is_err(), "nothing was stored");
}

#[test]
fn a_put_removes_the_files_of_an_interrupted_one() {
    let stores = Stores::new(3);
    for store in &stores.paths {
        fs::create_dir_all(store.join("tmp")).unwrap();
        fs::write(store.join("tmp/00112233aabbccdd.tmp"), "half a share").unwrap();
    }
    stores.put(b"new", 2, 1);
    assert_eq!(stores.files().len(), 3, "{:?}", stores.files());
}

#[test]
fn get_to_a_file_shows_only_complete_files() {
    let stores = Stores::new(3);
    let bytes = noise(50_000, 1);
    let report = stores.put(&bytes, 2, 1);
    let options = GetOptions {
        stores: Store::directories(&stores.paths),
        key: key(),
        stale: false,
    };
    let place = stores.root.path().join("out");
    get_file(&options, &place, &Progress::hidden()).unwrap();
    assert!(fs::read(&place).unwrap() == bytes);
    assert_ne!(
        fs::metadata(&place).unwrap().permissions().mode() & 0o400,
        0
    );

    // Get writes through a symbolic link, and the link stays.
    let link = stores.root.path().join("link");
    std::os::unix::fs::symlink("out", &link).unwrap();
    fs::write(&place, "to be replaced").unwrap();
    get_file(&options, &link, &Progress::hidden()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&place).unwrap() == bytes);

    // Get writes to a device and does not replace it.
    get_file(&options, "/dev/null".as_ref(), &Progress::hidden()).unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());

    // Damage that shows only near the end: the existing file stays, and no other file is left
    // beside it.
    let end = header(&report.paths[0]).geometry.share_bytes() + 4096 - 10;
    common::flip(&report.paths[0], end);
    common::flip(&report.paths[1], end);
    fs::write(&place, "old").unwrap();
    let before = fs::read_dir(stores.root.path()).unwrap().count();
    let error = get_file(&options, &place, &Progress::hidden()).unwrap_err();
    assert!(matches!(error, GetError::Row(_)), "{error}");
    assert_eq!(fs::read(&place).unwrap(), b"old");
    assert_eq!(fs::read_dir(stores.root.path()).unwrap().count(), before);
}

#[test]
fn the_default_block_keeps_segments_short() {
    use penstock_store::put::default_block_bytes;
    let kib = |k| default_block_bytes(k) >> 10;
    assert_eq!(
        [0, 1, 4, 7, 8, 10, 11, 15, 16, 1000].map(kib),
        [64, 64, 64, 64, 48, 48, 32, 32, 16, 16]
    );
}
