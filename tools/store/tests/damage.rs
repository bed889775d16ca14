//! Damage anywhere in share files: verify finds it, get reads around it while each row has k good leaves, and repair
//! undoes it. Beyond that, get fails with a clear error and never returns wrong bytes.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use common::{CODES, Stores, flip, header, key, noise};
use decode_kernel::share::{Geometry, Header, Key};
use penstock_store::Store;
use penstock_store::get::{GetError, GetOptions, get};
use penstock_store::inspect::inspect;
use penstock_store::ls::{self, Listed, LsOptions, ls};
use penstock_store::put::{PutOptions, put};
use penstock_store::repair::{RepairError, RepairOptions, repair};
use penstock_store::verify::{Health, VerifyOptions, verify};
use penstock_store::{Progress, Walk};
use proptest::prelude::*;

/// A way to harm one share file.
#[derive(Clone, Debug)]
enum Harm {
    /// One bit is flipped, at this fraction of the file (of 65536).
    Flip(u16),
    /// The file ends at this fraction.
    Truncate(u16),
    /// Some bytes are appended.
    Extend(u16),
    /// The share file of another store overwrites it.
    Swap(u8),
    /// A share of another object overwrites it.
    Foreign,
    /// A share of an older put overwrites it.
    Old,
    /// The file is removed.
    Remove,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => any::<u16>().prop_map(Harm::Flip),
        1 => any::<u16>().prop_map(Harm::Truncate),
        1 => (1..9000u16).prop_map(Harm::Extend),
        1 => any::<u8>().prop_map(Harm::Swap),
        1 => Just(Harm::Foreign),
        1 => Just(Harm::Old),
        1 => Just(Harm::Remove),
    ]
}

fn apply(harm: &Harm, victim: usize, paths: &[PathBuf], old: &[Vec<u8>], foreign: &[Vec<u8>]) {
    let path = &paths[victim];
    let mut bytes = fs::read(path).unwrap_or_default();
    let at = |fraction: &u16| (bytes.len() * usize::from(*fraction)) >> 16;
    match harm {
        Harm::Flip(fraction) if !bytes.is_empty() => {
            let at = at(fraction);
            bytes[at] ^= 1 << (fraction % 8);
        }
        Harm::Truncate(fraction) => bytes.truncate(at(fraction)),
        Harm::Extend(by) => bytes.resize(bytes.len() + usize::from(*by), 7),
        Harm::Swap(with) => {
            bytes = fs::read(&paths[usize::from(*with) % paths.len()]).unwrap_or_default()
        }
        Harm::Foreign => bytes.clone_from(&foreign[victim]),
        Harm::Old => bytes.clone_from(&old[victim]),
        Harm::Remove | Harm::Flip(_) => {
            let _ = fs::remove_file(path);
            return;
        }
    }
    fs::write(path, bytes).unwrap();
}

/// The share files of a put of other bytes under `name`, as bytes. The object is removed from the stores afterwards.
fn shares_of(name: &str, options: &PutOptions) -> Vec<Vec<u8>> {
    let options = PutOptions {
        key: Key::new(name).unwrap(),
        ..options.clone()
    };
    let report = put(&mut &b"something else"[..], &options, &Progress::hidden()).unwrap();
    report
        .paths
        .iter()
        .map(|path| {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            bytes
        })
        .collect()
}

/// For each row, the different share numbers that are good in it. It reads all files by itself, without the crate's own
/// reading code.
fn good_by_row(paths: &[PathBuf], right: &Header) -> Vec<usize> {
    let geometry = right.geometry;
    let mut rows = vec![BTreeMap::new(); geometry.leaves() as usize];
    for path in paths {
        let Ok(bytes) = fs::read(path) else { continue };
        let Ok(header) = Header::decode(bytes.get(..4096).unwrap_or_default()) else {
            continue;
        };
        if !header.same_object(right) || bytes.len() as u64 != geometry.share_file_bytes() {
            continue;
        }
        for leaf in 0..geometry.leaves() {
            let range = geometry.leaf_range(leaf);
            let (page, entry) = geometry.table_page_of(leaf);
            let table = &bytes[(geometry.table_offset() + page * 4096) as usize..][..4096];
            let table = decode_kernel::share::TablePage::decode(
                &header.generation,
                header.number,
                page,
                table,
            );
            let sum = header
                .leaf_checksum
                .compute(&bytes[4096 + range.start as usize..4096 + range.end as usize]);
            if table.is_ok_and(|table| table.entry(entry) == sum) {
                rows[leaf as usize].insert(header.number, ());
            }
        }
    }
    rows.iter().map(BTreeMap::len).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any damage to any files. While each row has k good leaves, the object is read, and repair makes all shares
    /// whole. Otherwise the error says so, and repair leaves all files as they are.
    #[test]
    fn any_damage(
        (data, parity) in (1..=4u16, 0..=3u16),
        code in prop::sample::select(&CODES[..]),
        size in prop_oneof![0..200usize, 0..100_000usize],
        harms in prop::collection::vec((any::<prop::sample::Index>(), harm()), 0..6),
        seed: u64,
    ) {
        let n = usize::from(data + parity);
        let stores = Stores::new(n);
        let options = PutOptions { code: Some(code), ..stores.options(data, parity) };
        let foreign = shares_of("another", &options);
        let old = shares_of(key().as_str(), &options);
        let bytes = noise(size, seed);
        let report = put(&mut &bytes[..], &options, &Progress::hidden()).unwrap();
        for (victim, harm) in &harms {
            apply(harm, victim.index(n), &report.paths, &old, &foreign);
        }

        let rows = good_by_row(&report.paths, &report.header);
        let shares = report.paths.iter().filter_map(|path| {
            let bytes = fs::read(path).ok()?;
            let header = Header::decode(bytes.get(..4096)?).ok()?;
            let whole = bytes.len() as u64 == header.geometry.share_file_bytes();
            (whole && header.same_object(&report.header)).then_some(header.number)
        });
        let mut shares: Vec<u16> = shares.collect();
        shares.sort();
        shares.dedup();
        let readable = shares.len() >= data.into() && rows.iter().all(|good| *good >= data.into());
        let whole = shares.len() == n && rows.iter().all(|good| *good == n);
        let health = match (readable, whole) {
            (true, true) => Health::Healthy,
            (true, false) => Health::Damaged,
            // An older put may be readable when the newer one is overwritten.
            (false, _) => Health::Unreadable,
        };
        let others = harms.iter().any(|(_, harm)| matches!(harm, Harm::Old));
        let got = stores.get();
        if readable {
            prop_assert!(got.unwrap() == bytes);
            prop_assert_eq!(stores.health(), health);
            let (repaired, done) = stores.repair();
            prop_assert!(repaired.complete(), "{:?}", done);
            prop_assert_eq!(stores.health(), Health::Healthy, "{:?} {:?}", done, stores.verify());
            prop_assert!(good_by_row(&report.paths, &report.header).iter().all(|good| *good == n));
            prop_assert!(stores.get().unwrap() == bytes);
        } else if let Ok(got) = got {
            prop_assert!(others && got == b"something else");
        } else {
            prop_assert!(!got.unwrap_err().to_string().is_empty());
            let all = || stores.files().iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
            let before = all();
            stores.repair();
            prop_assert!(before == all());
        }
    }
}

/// An object of 4+2 with 7 rows in each share, and its share files.
fn seven_rows() -> (Stores, Vec<u8>, Vec<PathBuf>) {
    let stores = Stores::new(6);
    let bytes = noise(4 * 7 * 4096, 5);
    let paths = stores.put(&bytes, 4, 2).paths;
    (stores, bytes, paths)
}

#[test]
fn every_share_may_be_bad_somewhere() {
    let (stores, bytes, paths) = seven_rows();
    // Two bad shares in each row, every share bad in two rows or more: no share is good as a whole.
    for row in 0..7 {
        for bad in [row, row + 1] {
            flip(&paths[bad % 6], (4096 + row * 4096 + 99) as u64);
        }
    }
    let (got, report) = stores.get_report().unwrap();
    assert!(got == bytes);
    assert!(
        report.stats.bad_leaves >= 7 && report.stats.rebuilt_bytes > 0,
        "{report}"
    );
    let (verified, findings) = stores.verify();
    assert_eq!(
        (verified.health(), verified.bad_leaves),
        (Health::Damaged, 14)
    );
    let offset = |row: u64| 4096 + row * 4096;
    for (row, share) in (0..7).flat_map(|row| [(row, row % 6), (row, (row + 1) % 6)]) {
        // Runs of bad leaves are one finding; each run begins or ends with one of these rows.
        let path = paths[share as usize].display().to_string();
        let named = |f: &&String| {
            f.contains(&path) && f.contains(&format!("share {share} in store {share}"))
        };
        let found = findings.iter().filter(named).any(|finding| {
            finding.contains(&format!("bytes {}..", offset(row)))
                || finding.contains(&format!("..{} of", offset(row + 1)))
        });
        assert!(found, "row {row} share {share}: {findings:#?}");
    }
    let (repaired, done) = stores.repair();
    assert_eq!((repaired.repaired, repaired.shares), (1, 6), "{done:?}");
    assert_eq!(stores.health(), Health::Healthy);
}

#[test]
fn three_bad_leaves_in_a_row_of_4_plus_2_are_an_error_there_only() {
    let (stores, bytes, paths) = seven_rows();
    for path in &paths[1..4] {
        flip(path, 4096 + 5 * 4096);
    }
    let mut got = Vec::new();
    let options = penstock_store::get::GetOptions {
        stores: Store::directories(&stores.paths),
        key: key(),
        stale: false,
    };
    let error = penstock_store::get::get(&options, &mut got, &Progress::hidden()).unwrap_err();
    assert!(matches!(error, GetError::Row(_)));
    let message = error.to_string();
    assert!(
        message.contains("only 3 shares") && message.contains("20480..24576"),
        "{message}"
    );
    assert!(bytes.starts_with(&got), "what was given is right");
    let (verified, findings) = stores.verify();
    assert_eq!(verified.health(), Health::Unreadable);
    assert!(
        findings
            .iter()
            .any(|f| f.contains("UNREADABLE") && f.contains("leaf 5")),
        "{findings:#?}"
    );
    let (repaired, done) = stores.repair();
    assert!(
        !repaired.complete() && done[0].contains("CANNOT be repaired"),
        "{done:?}"
    );
}

#[test]
fn a_damaged_table_page_costs_its_share_only_its_own_leaves() {
    let stores = Stores::new(3);
    // 1200 leaves a share: three pages of the table.
    let bytes = noise(2 * 1200 * 4096, 6);
    let options = PutOptions {
        block_size: 1 << 20,
        ..stores.options(2, 1)
    };
    let report = put(&mut &bytes[..], &options, &Progress::hidden()).unwrap();
    let table = report.header.geometry.table_offset();
    assert_eq!(report.header.geometry.table_pages(), 3);
    // A different page in each share.
    for (page, path) in report.paths.iter().enumerate() {
        flip(path, table + page as u64 * 4096 + 17);
    }
    assert!(stores.get().unwrap() == bytes);
    let (_, findings) = stores.verify();
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(findings[0].contains("damaged page 0") && findings[0].contains("leaves 0 to 510"));
    assert!(findings[1].contains("leaves 511 to 1021"), "{findings:#?}");
    assert!(findings[2].contains("leaves 1022 to 1199"), "{findings:#?}");
    let inspected = inspect(&report.paths[1], true, &Progress::hidden()).unwrap();
    assert_eq!((inspected.bad_pages, inspected.bad_leaves), (1, Some(511)));
    assert_eq!(stores.repair().0.shares, 3);
    assert_eq!(stores.health(), Health::Healthy);
}

#[test]
fn two_copies_of_a_share_help_each_other() {
    let stores = Stores::new(4);
    let bytes = noise(3 * 2 * 4096, 8);
    let paths = stores.put(&bytes, 2, 0).paths;
    // Share 1 again in store 3; the two are bad in different leaves, and there is no parity.
    let copy = stores.paths[3].join(paths[1].strip_prefix(&stores.paths[1]).unwrap());
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(&paths[1], &copy).unwrap();
    flip(&paths[1], 4096);
    flip(&copy, 4096 + 4096);
    assert!(stores.get().unwrap() == bytes);
    assert_eq!(stores.health(), Health::Damaged);
    assert!(stores.repair().0.complete());
    let (verified, findings) = stores.verify();
    assert_eq!(verified.health(), Health::Healthy);
    assert!(
        findings
            .iter()
            .any(|f| f.contains("another copy of share 1")),
        "{findings:#?}"
    );
}

#[test]
fn wrong_bytes_with_right_checksums_are_found_by_the_digest() {
    // Data shares of one put with the headers of another, made by hand from two puts. Only the digest can find that.
    let stores = Stores::new(2);
    let old = noise(5000, 1);
    let new = noise(5000, 2);
    let paths = stores.put(&old, 1, 1).paths;
    let old_share = fs::read(&paths[0]).unwrap();
    let report = stores.put(&new, 1, 1);
    for (number, path) in report.paths.iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let geometry = report.header.geometry;
        let (from, to) = (4096, 4096 + geometry.share_bytes() as usize);
        bytes[from..to].copy_from_slice(&old_share[from..to]);
        let sums: Vec<u64> = bytes[from..to]
            .chunks(geometry.leaf_bytes() as usize)
            .map(|leaf| report.header.leaf_checksum.compute(leaf))
            .collect();
        let generation = &report.header.generation;
        let page = decode_kernel::share::TablePage::encode(generation, number as u16, 0, &sums);
        let table = geometry.table_offset() as usize;
        bytes[table..].copy_from_slice(&page);
        fs::write(path, bytes).unwrap();
    }
    assert!(matches!(stores.get(), Err(GetError::Digest { .. })));
    assert_eq!(stores.health(), Health::Unreadable);
    let options = VerifyOptions {
        stores: Store::directories(&stores.paths),
        key: None,
        digest: false,
        walk: Walk::default(),
    };
    let report = verify(&options, &Progress::hidden(), &mut |_, _| {}).unwrap();
    assert_eq!(
        report.health(),
        Health::Healthy,
        "the shares alone look well"
    );
    // Repair does not spread the damage.
    fs::remove_dir_all(&stores.paths[1]).unwrap();
    assert!(!stores.repair().0.complete());
    assert!(!stores.paths[1].join("objects").exists());
}

#[test]
fn repair_places_missing_shares_in_free_stores() {
    let stores = Stores::new(7);
    let bytes = noise(100_000, 9);
    let paths = stores.put(&bytes, 4, 2).paths;
    // Share 5 was moved into share 2's store by hand; share 0 is lost with its disk, and a new one is there.
    fs::rename(&paths[5], &paths[2]).unwrap();
    fs::remove_dir_all(&stores.paths[0]).unwrap();
    stores.init();
    let (report, done) = stores.repair();
    assert!(report.complete() && report.shares == 2, "{done:?}");
    let files = stores.files();
    let mut numbers: Vec<u16> = files.iter().map(|path| header(path).number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    let in_store = |store: &PathBuf| files.iter().filter(|path| path.starts_with(store)).count();
    assert!(stores.paths.iter().all(|store| in_store(store) <= 1));
    assert_eq!(stores.health(), Health::Healthy);
    assert_eq!(stores.repair().0.healthy, 1);

    // Without a free store, two shares have no place. A store that is away is named, and not written.
    let free = stores.paths.iter().find(|store| in_store(store) == 0);
    fs::remove_dir_all(free.unwrap()).unwrap();
    fs::remove_dir_all(&stores.paths[3]).unwrap();
    fs::create_dir(&stores.paths[3]).unwrap();
    let (report, done) = stores.repair();
    assert!(!report.complete());
    let failed = |line: &&String| line.contains("FAILED to restore") && line.contains("--store");
    assert_eq!(done.iter().filter(failed).count(), 1, "{done:?}");
    let told = |what: &str| done.iter().any(|line| line.contains(what));
    assert!(
        told("passed over") && told("is not mounted: `penstock init --store"),
        "{done:?}"
    );
    assert_eq!(fs::read_dir(&stores.paths[3]).unwrap().count(), 0);
}

#[test]
fn repair_notices_one_directory_under_two_names() {
    let stores = Stores::new(3);
    let paths = stores.put(b"abc", 2, 1).paths;
    fs::remove_file(&paths[2]).unwrap();
    let again = stores.paths[0].join("../0");
    let options = RepairOptions {
        stores: Store::directories([&stores.paths[0], &stores.paths[1], &again]),
        key: None,
        walk: Walk::default(),
    };
    let error = repair(&options, &Progress::hidden(), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("the same directory"), "{error}");
    assert_eq!(stores.get().unwrap(), b"abc");
    assert_eq!((header(&paths[0]).number, header(&paths[1]).number), (0, 1));
}

#[test]
fn old_puts_are_removed_only_when_the_new_one_is_whole() {
    let stores = Stores::new(3);
    let old = stores.put(b"old", 2, 1);
    let kept: Vec<_> = old
        .paths
        .iter()
        .map(|path| (path, fs::read(path).unwrap()))
        .collect();
    let new = stores.put(b"new", 2, 1);
    kept.iter()
        .for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let (_, findings) = stores.verify();
    assert!(
        findings[0].contains("3 shares of an older put"),
        "{findings:?}"
    );

    // One share of the new put is left: the old one doesn't take its place, and nothing is removed.
    let new_share = fs::read(&new.paths[0]).unwrap();
    fs::remove_file(&new.paths[1]).unwrap();
    fs::remove_file(&new.paths[2]).unwrap();
    let error = stores.get().unwrap_err().to_string();
    assert!(error.contains("--allow-stale"), "{error}");
    let options = GetOptions {
        stores: Store::directories(&stores.paths),
        key: key(),
        stale: true,
    };
    let mut bytes = Vec::new();
    get(&options, &mut bytes, &Progress::hidden()).unwrap();
    assert_eq!(bytes, b"old");
    let (report, findings) = stores.verify();
    assert_eq!(report.unreadable, 1);
    assert!(
        findings
            .iter()
            .any(|line| line.contains("older put") && line.contains("--allow-stale")),
        "{findings:?}"
    );
    let (report, done) = stores.repair();
    assert!(
        !report.complete() && done[0].contains("--allow-stale"),
        "{done:?}"
    );
    assert_eq!(fs::read(&new.paths[0]).unwrap(), new_share);

    // Two shares of the new put: it is read and completed, and then the old put is removed.
    stores.put(b"new", 2, 1);
    kept.iter()
        .for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let new = stores
        .files()
        .into_iter()
        .find(|path| !kept.iter().any(|(old, _)| *old == path));
    fs::remove_file(new.unwrap()).unwrap();
    assert_eq!(stores.get().unwrap(), b"new");
    let (_, done) = stores.repair();
    assert!(
        done.iter()
            .any(|line| line.contains("removed 3 shares of older puts")),
        "{done:?}"
    );
    assert_eq!(stores.files().len(), 3);
    assert_eq!(stores.get().unwrap(), b"new");
}

#[test]
fn objects_and_their_remains_are_listed() {
    let stores = Stores::new(4);
    assert_eq!(stores.ls().objects.len(), 0);
    let nowhere = LsOptions {
        stores: Store::directories([stores.paths[0].join("nowhere")]),
        ..LsOptions::default()
    };
    assert!(ls(&nowhere).is_err(), "no store can be read");
    stores.put(&noise(70_000, 1), 2, 1);
    let options = PutOptions {
        key: Key::new("b.txt").unwrap(),
        ..stores.options(3, 1)
    };
    let other = put(&mut &b""[..], &options, &Progress::hidden()).unwrap();
    fs::remove_file(&other.paths[0]).unwrap();
    fs::remove_file(&other.paths[1]).unwrap();
    let listed = stores.ls().objects;
    assert_eq!(listed.len(), 2);
    // Sorted by key.
    for (listed, expected) in listed.iter().zip([
        ("b.txt", 2, ls::Health::Unreadable),
        ("dir/key.bin", 3, ls::Health::Healthy),
    ]) {
        let Listed::Object(entry) = listed else {
            panic!("{listed:?}")
        };
        assert_eq!((entry.key.as_str(), entry.shares, entry.health), expected);
        assert!(entry.to_string().ends_with(expected.0), "{entry}");
        assert!(
            entry.long().to_string().contains(&entry.digest.to_string()),
            "{}",
            entry.long()
        );
    }
    // An object without any good header is still listed.
    for path in &other.paths[2..] {
        fs::write(path, "not a share").unwrap();
    }
    let listed = stores.ls().objects;
    assert!(
        listed
            .iter()
            .any(|entry| matches!(entry, Listed::Unusable { .. })),
        "{listed:?}"
    );
    let (report, findings) = stores.verify();
    assert_eq!((report.healthy, report.unreadable), (1, 1), "{findings:?}");
}

#[test]
fn good_bad_and_foreign_files_are_inspected() {
    let stores = Stores::new(3);
    let paths = stores.put(&noise(40_000, 2), 2, 1).paths;
    let report = inspect(&paths[2], true, &Progress::hidden()).unwrap();
    assert!(report.good());
    let text = report.to_string();
    for part in [
        "dir/key.bin",
        "2 of 3 shares needed",
        "share         2 of 0..3 (parity)",
        "40000 bytes",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let whole = fs::read(&paths[2]).unwrap();
    fs::write(&paths[2], &whole[..9000]).unwrap();
    let report = inspect(&paths[2], true, &Progress::hidden()).unwrap();
    assert!(!report.good() && report.bad_leaves == Some(report.header.geometry.leaves()));
    assert!(report.to_string().contains("WRONG"), "{report}");
    // A header that promises an exbibyte is read no further than the end of the file.
    let geometry = Geometry::new(1 << 60, 2, 3, 8192, 4096).unwrap();
    let huge = Header {
        geometry,
        ..header(&paths[2])
    };
    fs::write(&paths[2], &huge.encode()[..]).unwrap();
    let report = inspect(&paths[2], true, &Progress::hidden()).unwrap();
    assert_eq!(report.bad_leaves, Some(geometry.leaves()));
    fs::write(&paths[2], "short").unwrap();
    assert!(
        inspect(&paths[2], true, &Progress::hidden())
            .unwrap_err()
            .to_string()
            .contains("not 5")
    );
    assert!(
        inspect(&stores.paths[0], true, &Progress::hidden()).is_err(),
        "a directory"
    );
}

#[test]
fn a_missing_object_is_an_error() {
    let stores = Stores::new(2);
    stores.put(b"x", 1, 1);
    let absent = Key::new("absent").unwrap();
    let options = VerifyOptions {
        stores: Store::directories(&stores.paths),
        key: Some(absent.clone()),
        digest: true,
        walk: Walk::default(),
    };
    let error = verify(&options, &Progress::hidden(), &mut |_, _| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("no object \"absent\""), "{error}");
    let options = RepairOptions {
        stores: Store::directories(&stores.paths),
        key: Some(absent),
        walk: Walk::default(),
    };
    let error = repair(&options, &Progress::hidden(), &mut |_, _| {});
    assert!(matches!(error, Err(RepairError::Open(_))));
    let options = RepairOptions {
        stores: Store::directories([stores.root.path().join("nowhere")]),
        key: None,
        walk: Walk::default(),
    };
    let error = repair(&options, &Progress::hidden(), &mut |_, _| {});
    assert!(matches!(error, Err(RepairError::Stores(_))));
}
