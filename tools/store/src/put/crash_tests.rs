//! Puts that stop at each of their steps, by a crash or by an error.

use std::fs;
use std::path::Path;

use decode_kernel::share::{Generation, Key};

use super::*;
use crate::get::{GetError, GetOptions, get};
use crate::repair::{RepairOptions, repair};
use crate::store::{self, OpenError};
use crate::verify::{Health, VerifyOptions, verify};
use crate::walk::Walk;

const STEPS: [Step; 9] = [
    Step::Written,
    Step::Pending(0),
    Step::Pending(1),
    Step::Pending(2),
    Step::Prepared,
    Step::Decided(0),
    Step::Decided(1),
    Step::Decided(2),
    Step::Synced,
];

/// Whether the new object counts after this step.
fn is_decided(step: Step) -> bool {
    matches!(step, Step::Decided(_) | Step::Synced)
}

fn stores(root: &Path) -> Vec<Store> {
    Store::directories((0..3).map(|i| root.join(i.to_string())))
}

fn init(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let new = |store| store::NewStore {
        store,
        domain: None,
    };
    let stores: Vec<_> = stores(root).into_iter().map(new).collect();
    store::init(&stores, false).unwrap();
}

fn put_in_steps(
    content: &str,
    options: &PutOptions,
    after: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<PutReport, PutError> {
    let mut source = content.as_bytes();
    let mut content = Content::Stream(&mut source);
    Puts::default().put_in_steps(&mut content, options, &Progress::hidden(), after)
}

fn options(root: &Path) -> PutOptions {
    PutOptions {
        stores: stores(root),
        data: 2,
        parity: 1,
        key: Key::new("k").unwrap(),
        block_size: 4096,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: None,
        min_shares: None,
        no_clobber: false,
        placement: Placement::Listed,
    }
}

fn read(root: &Path) -> Result<Vec<u8>, GetError> {
    let options = GetOptions {
        stores: stores(root),
        key: Key::new("k").unwrap(),
        stale: false,
    };
    let mut bytes = Vec::new();
    get(&options, &mut bytes, &Progress::hidden())?;
    Ok(bytes)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path))
        } else if !path.ends_with("penstock-store.toml") {
            files.push(path)
        }
    }
    files.sort();
    files
}

/// Copies all files on the "disks" at this moment: the state that a machine finds when it restarts
/// after a crash.
fn copy(from: &Path, to: &Path) {
    init(to);
    for path in files(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(path, copy).unwrap();
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_object_or_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let disks = root.path().join("disks");
    init(&disks);
    put(&mut &b"old"[..], &options(&disks), &Progress::hidden()).unwrap();
    let mut steps = Vec::new();
    put_in_steps("new", &options(&disks), &mut |step| {
        copy(&disks, &root.path().join(format!("{step:?}")));
        steps.push(step);
        Ok(())
    })
    .unwrap();
    assert_eq!(steps, STEPS);
    assert_eq!(read(&disks).unwrap(), b"new");

    for step in STEPS {
        let crashed = root.path().join(format!("{step:?}"));
        let expected = if is_decided(step) { b"new" } else { b"old" };
        assert_eq!(read(&crashed).unwrap(), expected, "{step:?}");

        // Repair completes the object that can be read, and removes the files that the crash left.
        let again = root.path().join(format!("{step:?} repaired"));
        copy(&crashed, &again);
        let (stores, key) = (stores(&again), None);
        let to_repair = RepairOptions {
            stores: stores.clone(),
            key: key.clone(),
            walk: Walk::default(),
        };
        let report = repair(&to_repair, &Progress::hidden(), &mut |_, _| {}).unwrap();
        assert!(report.complete(), "{step:?}");
        let to_verify = VerifyOptions {
            stores,
            key,
            digest: true,
            walk: Walk::default(),
        };
        let report = verify(&to_verify, &Progress::hidden(), &mut |_, _| {}).unwrap();
        assert_eq!(report.health(), Health::Healthy, "{step:?}");
        assert_eq!(read(&again).unwrap(), expected, "{step:?}");
        let left = files(&again);
        let shares = left
            .iter()
            .filter(|path| path.extension().unwrap() == "share");
        assert_eq!((shares.count(), left.len()), (3, 3), "{step:?}: {left:?}");

        // The next put leaves no file of either.
        put(&mut &b"next"[..], &options(&crashed), &Progress::hidden()).unwrap();
        assert_eq!(files(&crashed).len(), 3, "{step:?}: {:?}", files(&crashed));
        assert_eq!(read(&crashed).unwrap(), b"next");
    }
}

#[test]
fn an_error_before_the_decision_takes_everything_back() {
    let root = tempfile::tempdir().unwrap();
    init(root.path());
    for old in [false, true] {
        if old {
            put(&mut &b"old"[..], &options(root.path()), &Progress::hidden()).unwrap();
        }
        for stop in STEPS.into_iter().filter(|step| !is_decided(*step)) {
            let before = files(root.path());
            let mut fail = |step| match step == stop {
                true => Err(io::Error::other("injected")),
                false => Ok(()),
            };
            let result = put_in_steps("new", &options(root.path()), &mut fail);
            let message = result.unwrap_err().to_string();
            assert!(message.contains("injected"), "{stop:?}: {message}");
            assert_eq!(files(root.path()), before, "{stop:?}");
            match read(root.path()) {
                Ok(bytes) => assert!(old && bytes == b"old", "{stop:?}"),
                Err(error) => {
                    assert!(
                        !old && matches!(error, GetError::Open(OpenError::NotFound { .. })),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_error_after_the_decision_is_told_and_harms_nothing() {
    for stop in STEPS.into_iter().filter(|step| is_decided(*step)) {
        let root = tempfile::tempdir().unwrap();
        init(root.path());
        put(&mut &b"old"[..], &options(root.path()), &Progress::hidden()).unwrap();
        let mut fail = |step| match step == stop {
            true => Err(io::Error::other("injected")),
            false => Ok(()),
        };
        let report = put_in_steps("new", &options(root.path()), &mut fail).unwrap();
        assert!(report.warnings[0].contains("injected"), "{report:?}");
        assert_eq!(read(root.path()).unwrap(), b"new", "{stop:?}");
    }
}

#[test]
fn a_store_that_fails_is_made_up_for_later() {
    let root = tempfile::tempdir().unwrap();
    init(root.path());
    // 1+2 into two of three stores, while the third fails at each step that it can.
    let options = PutOptions {
        data: 1,
        parity: 2,
        min_shares: Some(2),
        ..options(root.path())
    };
    for stop in [Step::Pending(1), Step::Pending(2)] {
        let mut fail = |step| match step == stop {
            true => Err(io::Error::other("injected")),
            false => Ok(()),
        };
        let report = put_in_steps("new", &options, &mut fail).unwrap();
        assert_eq!((report.missing.len(), report.paths.len()), (1, 2));
        assert!(report.warnings[0].contains("injected"), "{report:?}");
        assert_eq!(read(root.path()).unwrap(), b"new");
        let to_repair = RepairOptions {
            stores: stores(root.path()),
            key: None,
            walk: Walk::default(),
        };
        let report = repair(&to_repair, &Progress::hidden(), &mut |_, _| {}).unwrap();
        assert_eq!((report.repaired, report.shares), (1, 1));
        assert_eq!(files(root.path()).len(), 3);
    }
}

#[test]
fn a_newer_put_that_comes_first_wins() {
    let root = tempfile::tempdir().unwrap();
    init(root.path());
    for at in [Step::Written, Step::Prepared, Step::Decided(1)] {
        let mut newer = |step| {
            if step == at {
                put(
                    &mut &b"newer"[..],
                    &options(root.path()),
                    &Progress::hidden(),
                )
                .unwrap();
            }
            Ok(())
        };
        put_in_steps("new", &options(root.path()), &mut newer).unwrap();
        assert_eq!(read(root.path()).unwrap(), b"newer", "{at:?}");
    }
}

#[test]
fn a_clock_set_back_does_not_make_a_put_older() {
    let root = tempfile::tempdir().unwrap();
    init(root.path());
    let options = options(root.path());
    let first = put(&mut &b"old"[..], &options, &Progress::hidden())
        .unwrap()
        .header;
    let scan = store::scan(&options.stores, &options.key);
    assert!(new_generation(&scan, 5).unwrap() > first.generation);
    assert_eq!(attempt::new_created(&scan, 5), first.created + 1);
    // Two puts in a second differ as well, and so does one after a removal.
    let second = put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap();
    assert!(second.header.created > first.created);
    crate::rm::rm(&options.stores, &options.key).unwrap();
    let third = put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap();
    assert!(third.header.created >= second.header.created);
    assert!(third.header.generation > second.header.generation);
    // A file with the last generation there is, so that no generation is newer.
    let last = Generation::from_bytes([255; 16]);
    let dir = decode_kernel::share::object_dir(&options.key);
    let dir = store::objects_dir(options.stores[0].path()).join(dir);
    fs::write(dir.join(store::Kind::Share.file_name(&last)), "").unwrap();
    let error = put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap_err();
    assert!(
        matches!(error, PutError::Generation(found) if found == last),
        "{error}"
    );
}
