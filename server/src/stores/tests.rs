//! Stores that hang on request.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use decode_kernel::share::Key;
use penstock_store::{self as store, Look, NewStore};
use tokio::task::LocalSet;

use super::*;
use crate::memory::limits::STORE_LOOK_THREADS_MAX;

const TIMEOUT: Duration = Duration::from_millis(300);

/// Real directories, each of which hangs while it is told to.
#[derive(Default)]
struct Hanging {
    hung: Mutex<HashSet<PathBuf>>,
    changed: Condvar,
    calls: AtomicUsize,
}

impl Hanging {
    fn set(&self, root: &Path, hangs: bool) {
        let mut hung = self.hung.lock().unwrap();
        match hangs {
            true => hung.insert(root.to_owned()),
            false => hung.remove(root),
        };
        self.changed.notify_all();
    }

    fn call(&self, root: &Path) {
        self.calls.fetch_add(1, Relaxed);
        let hung = self.hung.lock().unwrap();
        let still = |hung: &mut HashSet<PathBuf>| hung.contains(root);
        drop(self.changed.wait_while(hung, still).unwrap());
    }
}

impl Disk for Hanging {
    fn look(&self, number: usize, root: &Path, key: &Key) -> Look {
        self.call(root);
        store::look(number, root, key)
    }

    fn fingerprint(&self, root: &Path, key: &Key) -> io::Result<u64> {
        self.call(root);
        store::fingerprint(root, key)
    }

    fn probe(&self, root: &Path, is_node: bool) -> Result<Found, (Cause, String)> {
        self.call(root);
        probe::probe(root, is_node)
    }

    fn space(&self, _: &Path) -> Option<(u64, u64)> {
        None
    }
}

struct Setting {
    _root: tempfile::TempDir,
    paths: Vec<PathBuf>,
    disk: Arc<Hanging>,
}

impl Setting {
    fn new(count: usize) -> Setting {
        let root = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..count)
            .map(|i| root.path().join(i.to_string()))
            .collect();
        let new = |path: &PathBuf| NewStore {
            store: path.as_path().into(),
            domain: None,
        };
        store::init(&paths.iter().map(new).collect::<Vec<_>>(), false).unwrap();
        Setting {
            _root: root,
            paths,
            disk: Arc::default(),
        }
    }

    fn stores(&self) -> Stores {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as _;
        Stores::on(&disk, &self.paths, &[], TIMEOUT, None).unwrap()
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn key() -> Key {
    Key::new("key").unwrap()
}

/// Waits for what the background brings about.
fn wait_for(what: impl Fn() -> bool) {
    for _ in 0..6000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not happen");
}

fn here(looks: &[Look]) -> Vec<bool> {
    looks.iter().map(Look::is_here).collect()
}

#[test]
fn a_store_that_hangs_is_waited_for_once_and_comes_back_by_itself() {
    let setting = Setting::new(3);
    let stores = setting.stores().start().unwrap();
    let hung = &setting.paths[1];
    run(async {
        assert_eq!(here(&stores.look(&key(), false).await), [true; 3]);
        setting.disk.set(hung, true);
        assert_eq!(here(&stores.look(&key(), false).await), [true, false, true]);
        let store = &stores.stores()[1];
        assert!(!store.serves(true));
        assert_eq!(store.report().state, State::Suspended(Cause::Hung));
        assert_eq!(store.counts().hung.load(Relaxed), 1);
        // From now on nobody asks it, and it is not tried while a call on it has not ended.
        for _ in 0..10 {
            assert_eq!(here(&stores.look(&key(), true).await), [true, false, true]);
        }
        assert_eq!(store.counts().timeouts.load(Relaxed), 1);
        assert_eq!(stores.returns(), 0);
        assert_eq!(stores.outage(), None);
        setting.disk.set(hung, false);
        // Its last call ends on this thread.
        while store.counts().hung.load(Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        wait_for(|| store.serves(false));
        assert_eq!(stores.returns(), 1);
        assert_eq!(here(&stores.look(&key(), false).await), [true; 3]);
    });
}

#[test]
fn a_hung_store_keeps_no_more_than_its_threads() {
    let setting = Setting::new(2);
    let stores = setting.stores();
    setting.disk.set(&setting.paths[0], true);
    run(async {
        let (stores, key) = (&stores, &key());
        let store = &stores.stores()[0];
        for _ in 0..20 {
            // As if it came back and hung again.
            store.judge(None, |health, now| health.try_succeeded(now));
            assert_eq!(here(&stores.look(key, false).await), [false, true]);
        }
        assert_eq!(store.threads().looks.count(), STORE_LOOK_THREADS_MAX);
        assert_eq!(store.counts().hung.load(Relaxed), STORE_LOOK_THREADS_MAX);
        setting.disk.set(&setting.paths[0], false);
        while store.counts().hung.load(Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_recheck_does_not_wait_for_a_store_that_hangs_when_the_others_have_answered() {
    let setting = Setting::new(3);
    let stores = setting.stores();
    run(async {
        let looks = stores.look(&key(), false).await;
        let known: Vec<Option<u64>> = looks.iter().map(|l| Some(l.fingerprint())).collect();
        let never = || panic!("nothing changed");
        assert_eq!(stores.recheck(&key(), &known, never).await, Recheck::Same);
        setting.disk.set(&setting.paths[2], true);
        assert_eq!(stores.recheck(&key(), &known, never).await, Recheck::Same);
        let store = &stores.stores()[2];
        // It is found out all the same.
        while store.serves(false) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is suspended has not changed, and what others say counts.
        let mut other = known.clone();
        other[2] = Some(7);
        assert_eq!(stores.recheck(&key(), &other, never).await, Recheck::Same);
        other[0] = Some(7);
        let changed = stores.recheck(&key(), &other, never).await;
        assert_eq!(changed, Recheck::Changed);
        setting.disk.set(&setting.paths[2], false);
    });
}

#[test]
fn a_late_answer_that_something_changed_is_heard() {
    let setting = Setting::new(3);
    let stores = setting.stores();
    run(async {
        let looks = stores.look(&key(), false).await;
        let mut known: Vec<Option<u64>> = looks.iter().map(|l| Some(l.fingerprint())).collect();
        known[1] = Some(7);
        setting.disk.set(&setting.paths[1], true);
        let changed = std::rc::Rc::new(std::cell::Cell::new(false));
        let late = std::rc::Rc::clone(&changed);
        let said = stores.recheck(&key(), &known, move || late.set(true)).await;
        setting.disk.set(&setting.paths[1], false);
        // On a machine so busy that the others took longer, it was heard at once.
        while !changed.get() && said == Recheck::Same && stores.stores()[1].serves(false) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_server_starts_without_some_stores_and_finds_them_later() {
    let setting = Setting::new(3);
    let moved = setting.paths[0].with_extension("away");
    std::fs::rename(&setting.paths[0], &moved).unwrap();
    setting.disk.set(&setting.paths[1], true);
    let stores = setting.stores().start().unwrap();
    let states = || -> Vec<State> { stores.all().map(|s| s.report().state).collect() };
    let away = |cause| State::Suspended(cause);
    assert_eq!(
        states(),
        [away(Cause::Missing), away(Cause::Hung), State::Serving]
    );
    std::fs::rename(&moved, &setting.paths[0]).unwrap();
    setting.disk.set(&setting.paths[1], false);
    wait_for(|| states() == [State::Serving; 3]);
    assert_eq!(stores.returns(), 2);
}

#[test]
fn a_server_without_any_store_or_with_one_twice_does_not_start() {
    let setting = Setting::new(2);
    for path in &setting.paths {
        setting.disk.set(path, true);
    }
    let error = setting.stores().start().err().unwrap();
    assert!(error.to_string().contains("did not answer"), "{error}");
    for path in &setting.paths {
        setting.disk.set(path, false);
    }
    let twice = [&setting.paths[..], &setting.paths[..1]].concat();
    let stores = Stores::new(&twice, &[], TIMEOUT, None).unwrap();
    let error = stores.start().err().unwrap();
    assert!(matches!(error, StoresError::Same(..)), "{error}");
}

#[test]
fn what_takes_many_times_as_long_as_the_others_is_slow() {
    let setting = Setting::new(4);
    let stores = setting.stores();
    let ms = Duration::from_millis;
    let note = |store: usize, time| {
        for _ in 0..5 {
            stores.stores()[store].note_read(1, time);
        }
    };
    let slow = || -> Vec<bool> {
        let stores: &Stores = &stores;
        for store in stores.all() {
            stores.suspend_slow(store);
        }
        stores.all().map(|store| !store.serves(false)).collect()
    };
    note(0, ms(300));
    assert_eq!(slow(), [false; 4], "nothing is known of the others");
    for store in 1..4 {
        note(store, ms(90));
    }
    assert_eq!(slow(), [false; 4], "all have much to do");
    for store in 1..4 {
        note(store, ms(2));
    }
    assert_eq!(slow(), [true, false, false, false]);
    assert!(stores.stores()[0].serves(true), "where it takes it");
    assert!(stores.has_slow());
}

#[test]
fn a_store_that_ends_long_reads_is_busy_and_not_hung() {
    let setting = Setting::new(1);
    let stores = setting.stores();
    let store = &stores.stores()[0];
    assert!(!store.is_busy());
    store.note_read(1, Duration::from_micros(100));
    assert!(!store.is_busy(), "it may have been in the page cache");
    store.note_read(1, TIMEOUT);
    assert!(store.is_busy());
    wait_for(|| !store.is_busy());
}

#[test]
fn a_store_that_nobody_asks_is_missed_all_the_same() {
    let setting = Setting::new(2);
    let stores = setting.stores().start().unwrap();
    let moved = setting.paths[0].with_extension("away");
    std::fs::rename(&setting.paths[0], &moved).unwrap();
    let state = || stores.stores()[0].report().state;
    wait_for(|| state() == State::Suspended(Cause::Missing));
    std::fs::rename(&moved, &setting.paths[0]).unwrap();
    wait_for(|| state() == State::Serving);
}
