//! Puts that stop at each of their steps, by a crash or by an error.

use std::fs;
use std::path::Path;

use super::*;
use crate::get::{GetError, GetOptions, get};
use crate::repair::{RepairOptions, repair};
use crate::store::OpenError;
use crate::verify::{Health, VerifyOptions, verify};

const STEPS: [Step; 5] = [
    Step::Written,
    Step::Renamed(0),
    Step::Renamed(1),
    Step::Renamed(2),
    Step::Synced,
];

fn stores(root: &Path) -> Vec<PathBuf> {
    (0..3).map(|i| root.join(i.to_string())).collect()
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
        size_hint: None,
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
        } else {
            files.push(path)
        }
    }
    files.sort();
    files
}

/// Copies all files on the "disks" at this moment: the state that a machine finds when it restarts
/// after a crash.
fn copy(from: &Path, to: &Path) {
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
    put(&mut &b"old"[..], &options(&disks), &Progress::hidden()).unwrap();
    let mut steps = Vec::new();
    put_in_steps(
        &mut &b"new"[..],
        &options(&disks),
        &Progress::hidden(),
        &mut |step| {
            copy(&disks, &root.path().join(format!("{step:?}")));
            steps.push(step);
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(steps, STEPS);
    assert_eq!(read(&disks).unwrap(), b"new");

    for step in STEPS {
        let crashed = root.path().join(format!("{step:?}"));
        let expected = match step {
            Step::Written | Step::Renamed(0) => b"old",
            Step::Renamed(_) | Step::Synced => b"new",
        };
        assert_eq!(read(&crashed).unwrap(), expected, "{step:?}");

        // Repair completes the object that can be read, and removes the files that the crash left.
        let again = root.path().join(format!("{step:?} repaired"));
        copy(&crashed, &again);
        let (stores, key) = (stores(&again), None);
        let to_repair = RepairOptions {
            stores: stores.clone(),
            key: key.clone(),
        };
        let report = repair(&to_repair, &Progress::hidden(), &mut |_, _| {}).unwrap();
        assert!(report.complete(), "{step:?}");
        let to_verify = VerifyOptions {
            stores,
            key,
            digest: true,
        };
        let report = verify(&to_verify, &Progress::hidden(), &mut |_, _| {}).unwrap();
        assert_eq!(report.health(), Health::Healthy, "{step:?}");
        assert_eq!(read(&again).unwrap(), expected, "{step:?}");
        let left = files(&again)
            .iter()
            .filter(|path| path.extension().unwrap() == "tmp")
            .count();
        assert_eq!(left, 0, "{step:?}");

        // The next put leaves no file of either.
        put(&mut &b"next"[..], &options(&crashed), &Progress::hidden()).unwrap();
        assert_eq!(files(&crashed).len(), 3, "{step:?}: {:?}", files(&crashed));
        assert_eq!(read(&crashed).unwrap(), b"next");
    }
}

#[test]
fn an_error_at_any_step_takes_everything_back() {
    let root = tempfile::tempdir().unwrap();
    for old in [false, true] {
        if old {
            put(&mut &b"old"[..], &options(root.path()), &Progress::hidden()).unwrap();
        }
        for stop in STEPS {
            let before = files(root.path());
            let mut fail = |step| {
                if step == stop {
                    Err(io::Error::other("injected"))
                } else {
                    Ok(())
                }
            };
            let result = put_in_steps(
                &mut &b"new"[..],
                &options(root.path()),
                &Progress::hidden(),
                &mut fail,
            );
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
fn a_clock_set_back_does_not_make_a_put_older() {
    let root = tempfile::tempdir().unwrap();
    let options = options(root.path());
    let first = put(&mut &b"old"[..], &options, &Progress::hidden())
        .unwrap()
        .header
        .generation;
    let second = new_generation(&options.stores, &options.key, 5).unwrap();
    assert!(second > first);
    // A file with the last generation there is, so that no generation is newer.
    let last = Generation::from_bytes([255; 16]);
    let dir = store::objects_dir(&options.stores[0]).join(object_dir(&options.key));
    fs::write(dir.join(decode_kernel::share::share_file_name(&last)), "").unwrap();
    let error = put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap_err();
    assert!(
        matches!(error, PutError::Generation(found) if found == last),
        "{error}"
    );
}
