//! Shares spread over all stores, and move to where they belong when the stores change.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Stores, header};
use decode_kernel::share::Key;
use penstock_store::Store;
use penstock_store::get::{GetOptions, get};
use penstock_store::put::{Content, Placement, PutOptions, Puts};
use penstock_store::rebalance::{Moved, RebalanceOptions, RebalanceReport, rebalance};
use penstock_store::{NewStore, Progress, Subject, init};

const OBJECTS: usize = 1000;

fn name(object: usize) -> Key {
    Key::new(&format!("objects/{object}")).unwrap()
}

/// Gives a store an id that is the same in every run: chance has no say in how even the spread is.
fn fix_id(store: &Path, number: usize) {
    let path = store.join("penstock-store.toml");
    let text = fs::read_to_string(&path).unwrap();
    let id = format!("{:032x}", 0x9E37_79B9_7F4A_7C15_u128 * (number as u128 + 1));
    let line = |line: &str| match line.starts_with("store = ") {
        true => format!("store = \"{id}\"\n"),
        false => format!("{line}\n"),
    };
    fs::write(&path, text.lines().map(line).collect::<String>()).unwrap();
}

fn add_store(stores: &mut Stores) {
    let new = |path: &PathBuf| NewStore {
        store: path.as_path().into(),
        domain: None,
    };
    let path = stores.root.path().join(stores.paths.len().to_string());
    stores.paths.push(path.clone());
    init(&stores.paths.iter().map(new).collect::<Vec<_>>(), false).unwrap();
    fix_id(&path, stores.paths.len() - 1);
}

fn filled(objects: usize) -> Stores {
    let stores = Stores::new(12);
    for (number, path) in stores.paths.iter().enumerate() {
        fix_id(path, number);
    }
    let mut puts = Puts::default();
    for object in 0..objects {
        let options = PutOptions {
            key: name(object),
            placement: Placement::Hashed,
            ..stores.options(4, 2)
        };
        let text = format!("object {object}");
        let mut source = text.as_bytes();
        let mut content = Content::Stream(&mut source);
        puts.put(&mut content, &options, &Progress::hidden())
            .unwrap();
    }
    stores
}

/// Data and parity shares in a store.
fn counts(stores: &Stores) -> Vec<(f64, f64)> {
    let mut counts = vec![(0.0, 0.0); stores.paths.len()];
    for file in stores.files() {
        let store = stores
            .paths
            .iter()
            .position(|store| file.starts_with(store));
        let (data, parity) = &mut counts[store.unwrap()];
        match header(&file).number {
            0..4 => *data += 1.0,
            _ => *parity += 1.0,
        }
    }
    counts
}

fn assert_even(counts: &[f64]) {
    let mean = counts.iter().sum::<f64>() / counts.len() as f64;
    let even = |count: &f64| (count / mean - 1.0).abs() < 0.1;
    assert!(counts.iter().all(even), "{counts:?}");
}

fn run(
    stores: &Stores,
    drain: Option<usize>,
    report: &mut dyn FnMut(&Subject, Moved),
) -> RebalanceReport {
    let options = RebalanceOptions {
        stores: Store::directories(&stores.paths),
        drain: drain
            .into_iter()
            .map(|store| stores.paths[store].clone())
            .collect(),
        rate: None,
        dry_run: false,
    };
    rebalance(&options, &Progress::hidden(), report).unwrap()
}

fn read(stores: &Stores, object: usize) {
    let options = GetOptions {
        stores: Store::directories(&stores.paths),
        key: name(object),
        stale: false,
    };
    let mut bytes = Vec::new();
    get(&options, &mut bytes, &Progress::hidden()).unwrap();
    assert_eq!(bytes, format!("object {object}").as_bytes());
}

#[test]
fn a_thirteenth_store_gets_its_part_and_no_more_moves() {
    let mut stores = filled(OBJECTS);
    let spread = counts(&stores);
    assert_even(
        &spread
            .iter()
            .map(|(data, parity)| data + parity)
            .collect::<Vec<_>>(),
    );
    assert_even(&spread.iter().map(|(data, _)| *data).collect::<Vec<_>>());
    assert_even(&spread.iter().map(|(_, parity)| *parity).collect::<Vec<_>>());
    assert_eq!(
        run(&stores, None, &mut |_, _| {}).moved,
        0,
        "all is where it belongs"
    );

    add_store(&mut stores);
    let mut moves = 0;
    let report = run(&stores, None, &mut |_, moved| {
        assert!(matches!(moved, Moved::Share { .. }), "{moved}");
        // Objects can be read meanwhile.
        moves += 1;
        read(&stores, moves * 7 % OBJECTS);
    });
    let part = report.moved_bytes as f64 / report.bytes as f64 * 13.0;
    assert!((part - 1.0).abs() < 0.15, "{report}");
    assert_eq!(stores.files().len(), 6 * OBJECTS);
    let spread = counts(&stores);
    assert_even(
        &spread
            .iter()
            .map(|(data, parity)| data + parity)
            .collect::<Vec<_>>(),
    );
    (0..OBJECTS).for_each(|object| read(&stores, object));
    assert_eq!(run(&stores, None, &mut |_, _| {}).moved, 0);
}

#[test]
fn a_drained_store_is_empty_and_stays_so() {
    let stores = filled(50);
    let report = run(&stores, Some(3), &mut |_, _| {});
    assert_eq!(report.failed, 0, "{report}");
    let in_store = |store: usize| {
        let files = stores.files();
        files
            .iter()
            .filter(|file| file.starts_with(&stores.paths[store]))
            .count()
    };
    assert_eq!((in_store(3), stores.files().len()), (0, 300));
    (0..50).for_each(|object| read(&stores, object));
    // Neither a put nor the next rebalance writes there, until it is made a store again.
    let options = PutOptions {
        placement: Placement::Hashed,
        ..stores.options(4, 7)
    };
    penstock_store::put::put(&mut &b"wide"[..], &options, &Progress::hidden()).unwrap();
    assert_eq!(run(&stores, None, &mut |_, _| {}).moved, 0);
    assert_eq!(in_store(3), 0);
    stores.init();
    assert!(run(&stores, None, &mut |_, _| {}).moved > 0);
    assert!(in_store(3) > 0);
}

#[test]
fn an_interrupted_move_is_finished() {
    let mut stores = filled(30);
    add_store(&mut stores);
    // As after a crash between the copy and the removal: every share that moves is in both places.
    let mut kept = Vec::new();
    for file in stores.files() {
        kept.push((file.clone(), fs::read(&file).unwrap()));
    }
    let moved = run(&stores, None, &mut |_, _| {}).moved;
    assert!(moved > 0);
    for (file, bytes) in kept {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(stores.files().len() as u64, 180 + moved);
    let report = run(&stores, None, &mut |_, _| {});
    assert_eq!((report.moved, report.failed), (moved, 0));
    assert_eq!(stores.files().len(), 180);
    (0..30).for_each(|object| read(&stores, object));
}

#[test]
fn a_damaged_share_is_not_moved() {
    let mut stores = filled(30);
    add_store(&mut stores);
    for file in stores.files() {
        common::flip(&file, 4100);
    }
    let before = stores.files();
    let report = run(&stores, None, &mut |_, moved| {
        assert!(
            moved.to_string().contains("`penstock repair` it first"),
            "{moved}"
        );
    });
    assert!(report.moved == 0 && report.failed > 0, "{report}");
    assert_eq!(stores.files(), before);
}
