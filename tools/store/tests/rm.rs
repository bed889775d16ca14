//! Removed objects stay away, and a newer put is never replaced by an older one.

mod common;

use std::fs;
use std::path::Path;

use common::{Stores, key};
use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::Store;
use penstock_store::get::GetError;
use penstock_store::put::{Placement, PutError, PutOptions, put};
use penstock_store::rm::{RmError, rm};
use penstock_store::verify::Health;
use penstock_store::{NewStore, OpenError, init};

fn is_gone(stores: &Stores) -> bool {
    match stores.get() {
        Err(GetError::Open(OpenError::NotFound { .. })) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

/// Takes a store away, as a disk that isn't mounted.
fn take_away(stores: &Stores, store: usize) {
    let path = &stores.paths[store];
    fs::rename(path, path.with_extension("away")).unwrap();
}

fn bring_back(stores: &Stores, store: usize) {
    let path = &stores.paths[store];
    fs::rename(path.with_extension("away"), path).unwrap();
}

fn extensions(stores: &Stores) -> Vec<String> {
    let extension = |path: &Path| path.extension().unwrap().to_str().unwrap().to_owned();
    stores.files().iter().map(|path| extension(path)).collect()
}

#[test]
fn a_removed_object_is_nowhere() {
    let stores = Stores::new(6);
    stores.put(b"bytes", 4, 2);
    let report = rm(&Store::directories(&stores.paths), &key()).unwrap();
    assert_eq!((report.files, report.warnings.len()), (6, 0));
    assert!(is_gone(&stores));
    assert_eq!(stores.ls().objects.len(), 0);
    assert_eq!(stores.health(), Health::Healthy);
    let error = rm(&Store::directories(&stores.paths), &key()).unwrap_err();
    assert!(
        matches!(error, RmError::Open(OpenError::NotFound { .. })),
        "{error}"
    );
    // Repair finds nothing to do, and keeps the tombstones, which are young.
    let (report, done) = stores.repair();
    assert_eq!(
        (report.healthy, report.repaired, done.len()),
        (0, 0, 0),
        "{done:?}"
    );
    assert_eq!(extensions(&stores), ["deleted"; 6]);
    // The next put of the key is an object again, and leaves no tombstone.
    stores.put(b"again", 4, 2);
    assert_eq!(stores.get().unwrap(), b"again");
    assert_eq!(extensions(&stores), ["share"; 6]);
}

#[test]
fn a_store_that_was_away_does_not_bring_an_object_back() {
    // With k = 1, one store alone has the whole object.
    for (data, parity) in [(1, 2), (2, 1)] {
        let stores = Stores::new(3);
        stores.put(b"bytes", data, parity);
        take_away(&stores, 1);
        let removed = rm(&Store::directories(&stores.paths), &key());
        if parity == 2 {
            let error = removed.unwrap_err();
            assert!(
                matches!(
                    error,
                    RmError::TooFewStores {
                        need: 3,
                        have: 2,
                        ..
                    }
                ),
                "{error}"
            );
            assert_eq!(stores.get().unwrap(), b"bytes", "it is still there");
            bring_back(&stores, 1);
            continue;
        }
        assert_eq!(removed.unwrap().warnings.len(), 1);
        bring_back(&stores, 1);
        assert!(is_gone(&stores));
        // Repair takes the tombstone to that store, and removes its share.
        let (report, done) = stores.repair();
        assert!(report.complete() && done.len() == 1, "{done:?}");
        assert_eq!(extensions(&stores), ["deleted"; 3]);
        assert!(is_gone(&stores));
    }
}

#[test]
fn an_old_put_never_takes_the_place_of_a_newer_one() {
    // Of the field: 2+2 into four stores, then a newer put into two of them and two others, which are lost.
    let stores = Stores::new(6);
    let put_into = |bytes: &[u8], first: usize| {
        let options = PutOptions {
            stores: Store::directories(&stores.paths[first..first + 4]),
            ..stores.options(2, 2)
        };
        put(&mut &bytes[..], &options, &Progress::hidden()).unwrap();
    };
    put_into(b"old", 0);
    put_into(b"new", 2);
    assert_eq!(stores.get().unwrap(), b"new");
    for lost in 2..5 {
        fs::remove_dir_all(&stores.paths[lost]).unwrap();
    }
    let error = stores.get().unwrap_err();
    assert!(
        matches!(
            error,
            GetError::Open(OpenError::TooFew {
                older: true,
                away: 3,
                ..
            })
        ),
        "{error}"
    );
    let before = stores.files();
    assert!(!stores.repair().0.complete());
    assert_eq!(
        stores.files(),
        before,
        "repair rebuilds nothing of the old put"
    );
}

#[test]
fn nothing_is_written_where_no_store_is() {
    let stores = Stores::new(3);
    stores.put(b"bytes", 2, 1);
    // A disk that isn't mounted: its empty mount point is there.
    take_away(&stores, 1);
    fs::create_dir(&stores.paths[1]).unwrap();
    let error = put(&mut &b"new"[..], &stores.options(2, 1), &Progress::hidden()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, PutError::TooFewStores { .. }) && text.contains("`penstock init --store"),
        "{text}"
    );
    stores.repair();
    assert_eq!(fs::read_dir(&stores.paths[1]).unwrap().count(), 0);
    assert_eq!(stores.get().unwrap(), b"bytes");
    // With one more store the put passes over it.
    let spare = stores.root.path().join("spare");
    let new = |path: &Path| NewStore {
        store: path.into(),
        domain: None,
    };
    init(&[new(&stores.paths[0]), new(&spare)], false).unwrap();
    let options = PutOptions {
        stores: Store::directories([&stores.paths[..], &[spare]].concat()),
        placement: Placement::Hashed,
        ..stores.options(2, 1)
    };
    put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap();
    assert_eq!(fs::read_dir(&stores.paths[1]).unwrap().count(), 0);
}

#[test]
fn a_missing_object_is_only_known_to_be_missing_if_most_stores_are_here() {
    let stores = Stores::new(6);
    let other = PutOptions {
        key: Key::new("other").unwrap(),
        ..stores.options(2, 1)
    };
    put(&mut &b"bytes"[..], &other, &Progress::hidden()).unwrap();
    assert!(is_gone(&stores));
    // Every object has three shares at least: with two stores away, one would show.
    take_away(&stores, 0);
    take_away(&stores, 1);
    assert!(is_gone(&stores));
    take_away(&stores, 2);
    let error = stores.get().unwrap_err();
    assert!(
        matches!(error, GetError::Open(OpenError::Away { away: 3, .. })),
        "{error}"
    );
}

#[test]
fn what_is_there_is_not_clobbered() {
    let stores = Stores::new(3);
    let options = PutOptions {
        no_clobber: true,
        ..stores.options(2, 1)
    };
    put(&mut &b"first"[..], &options, &Progress::hidden()).unwrap();
    let error = put(&mut &b"second"[..], &options, &Progress::hidden()).unwrap_err();
    assert!(matches!(error, PutError::Exists { .. }), "{error}");
    assert_eq!(stores.get().unwrap(), b"first");
    rm(&Store::directories(&stores.paths), &key()).unwrap();
    put(&mut &b"third"[..], &options, &Progress::hidden()).unwrap();
    assert_eq!(stores.get().unwrap(), b"third");
}

#[test]
fn files_belong_to_whom_their_store_belongs_to() {
    use std::os::unix::fs::PermissionsExt;
    let stores = Stores::new(3);
    for path in &stores.paths {
        fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(path.join("objects"), fs::Permissions::from_mode(0o750)).unwrap();
    }
    let lost = stores.put(b"bytes", 2, 1).paths.remove(2);
    fs::remove_dir_all(stores.paths[2].join("objects")).unwrap();
    assert!(stores.repair().0.complete());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&lost), 0o640);
    assert_eq!(mode(lost.parent().unwrap()), 0o750);
    assert_eq!(mode(&stores.paths[2].join("objects")), 0o750);
}
