//! Puts, repairs and removals while a disk is full, read-only or failing: the store costs its own share only, and nothing
//! half-done is seen.

mod common;

use std::fs;

use common::{KEY, Stores};
use decode_kernel::share::Key;
use penstock_faultfs::{Errno, FaultFs, Op, mount};
use penstock_store::get::{GetOptions, get};
use penstock_store::put::{Content, Placement, PutError, PutOptions, Puts, SourceFile, put};
use penstock_store::repair::{RepairOptions, repair};
use penstock_store::rm::rm;
use penstock_store::verify::{Health, VerifyOptions, verify};
use penstock_store::{Progress, Store, Walk};

/// Stores of which the first is on a disk that fails on demand.
fn stores(count: usize) -> Option<(FaultFs, Stores)> {
    let mut stores = Stores::new(count);
    let place = stores.file("disk");
    fs::create_dir(&place).unwrap();
    match mount(&stores.paths[0], &place) {
        Ok(disk) => {
            stores.paths[0] = place;
            Some((disk, stores))
        }
        Err(why) => {
            common::skip(&why);
            None
        }
    }
}

fn options(stores: &Stores) -> PutOptions {
    PutOptions {
        stores: Store::directories(&stores.paths),
        data: 2,
        parity: 1,
        key: Key::new(KEY).unwrap(),
        block_size: 4096,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: None,
        min_shares: None,
        no_clobber: false,
        placement: Placement::Hashed,
    }
}

fn put_bytes(bytes: &[u8], options: &PutOptions) -> Result<Vec<String>, PutError> {
    let mut source = bytes;
    put(&mut source, options, &Progress::hidden())
        .map(|report| [report.passed_over, report.warnings].concat())
}

fn read(stores: &Stores) -> Option<Vec<u8>> {
    let options = GetOptions {
        stores: Store::directories(&stores.paths),
        key: Key::new(KEY).unwrap(),
        stale: false,
    };
    let mut bytes = Vec::new();
    get(&options, &mut bytes, &Progress::hidden()).ok()?;
    Some(bytes)
}

fn repaired(stores: &Stores) -> (bool, Vec<String>) {
    let options = RepairOptions {
        stores: Store::directories(&stores.paths),
        key: None,
        walk: Walk::default(),
    };
    let mut done = Vec::new();
    let report = repair(&options, &Progress::hidden(), &mut |_, event| {
        done.push(event.to_string())
    });
    (report.unwrap().complete(), done)
}

fn health(stores: &Stores) -> Health {
    let options = VerifyOptions {
        stores: Store::directories(&stores.paths),
        key: None,
        digest: true,
        walk: Walk::default(),
    };
    verify(&options, &Progress::hidden(), &mut |_, _| {})
        .unwrap()
        .health()
}

/// The ways in which a disk takes nothing more.
const FAULTS: [(&[Op], Errno); 5] = [
    (&[Op::Write], Errno::ENOSPC),
    (&[Op::Create, Op::Write], Errno::ENOSPC),
    (&[Op::Create, Op::Write], Errno::EDQUOT),
    (&[Op::Change], Errno::EIO),
    (Op::WRITES, Errno::EROFS),
];

#[test]
fn without_another_store_a_put_leaves_everything_as_it_was() {
    let Some((disk, stores)) = stores(3) else {
        return;
    };
    put_bytes(b"old", &options(&stores)).unwrap();
    for (ops, error) in FAULTS {
        disk.fail(ops, error);
        let refused = put_bytes(b"new", &options(&stores)).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(stores.paths[0].to_str().unwrap()), "{text}");
        assert_eq!(read(&stores).unwrap(), b"old");
        disk.heal();
        let (complete, done) = repaired(&stores);
        assert!(complete, "{done:?}");
        assert_eq!(health(&stores), Health::Healthy);
    }
}

#[test]
fn with_one_store_to_spare_a_put_goes_round_the_bad_one() {
    let Some((disk, stores)) = stores(4) else {
        return;
    };
    let file = stores.file("source");
    for (number, (ops, error)) in FAULTS.into_iter().enumerate() {
        disk.fail(ops, error);
        let bytes = format!("object {number}");
        fs::write(&file, &bytes).unwrap();
        // Several objects, since the bad store is not among the chosen ones of all.
        for key in 0..6 {
            let options = PutOptions {
                key: Key::new(&format!("{number}/{key}")).unwrap(),
                ..options(&stores)
            };
            let mut source = SourceFile::new(fs::File::open(&file).unwrap()).unwrap();
            let mut content = Content::File(&mut source);
            let report = Puts::default().put(&mut content, &options, &Progress::hidden());
            // Renaming fails after the bytes were read, and is told as it is.
            if ops != [Op::Change] {
                assert_eq!(report.unwrap().missing.len(), 0);
            }
        }
        disk.heal();
    }
    let (complete, done) = repaired(&stores);
    assert!(complete, "{done:?}");
    assert_eq!(health(&stores), Health::Healthy);
}

#[test]
fn fewer_shares_are_written_when_that_is_allowed() {
    let Some((disk, stores)) = stores(3) else {
        return;
    };
    put_bytes(b"old", &options(&stores)).unwrap();
    for (number, (ops, error)) in FAULTS.into_iter().enumerate() {
        disk.fail(ops, error);
        let options = PutOptions {
            data: 1,
            parity: 2,
            min_shares: Some(2),
            ..options(&stores)
        };
        let bytes = format!("new {number}");
        let warnings = put_bytes(bytes.as_bytes(), &options).unwrap();
        assert!(!warnings.is_empty());
        assert_eq!(read(&stores).unwrap(), bytes.as_bytes());
        let (complete, _) = repaired(&stores);
        assert!(!complete, "the disk still fails");
        disk.heal();
        let (complete, done) = repaired(&stores);
        assert!(complete, "{done:?}");
        assert_eq!(health(&stores), Health::Healthy);
        assert_eq!(read(&stores).unwrap(), bytes.as_bytes());
    }
}

#[test]
fn one_full_disk_costs_a_repair_its_own_share_only() {
    let Some((disk, stores)) = stores(6) else {
        return;
    };
    let options = PutOptions {
        data: 3,
        parity: 3,
        ..options(&stores)
    };
    put_bytes(&[7; 100_000], &options).unwrap();
    for store in &stores.paths[..3] {
        fs::remove_dir_all(store.join("objects")).unwrap();
    }
    disk.fail(&[Op::Create, Op::Write], Errno::ENOSPC);
    let (complete, done) = repaired(&stores);
    let rebuilt = done
        .iter()
        .filter(|line| line.contains("rebuilt share"))
        .count();
    assert_eq!((complete, rebuilt), (false, 2), "{done:?}");
    disk.heal();
    assert!(repaired(&stores).0);
    assert_eq!(health(&stores), Health::Healthy);
}

#[test]
fn a_removal_that_one_store_can_t_take_holds() {
    let Some((disk, stores)) = stores(3) else {
        return;
    };
    for (ops, error) in FAULTS {
        put_bytes(b"bytes", &options(&stores)).unwrap();
        disk.fail(ops, error);
        // The other two suffice for 2+1, and what can't be removed is hidden.
        let _ = rm(&Store::directories(&stores.paths), &Key::new(KEY).unwrap());
        assert_eq!(read(&stores), None, "{error:?}");
        disk.heal();
        assert_eq!(read(&stores), None);
        let (complete, done) = repaired(&stores);
        assert!(complete, "{done:?}");
        assert_eq!(read(&stores), None);
    }
}
