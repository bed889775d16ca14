//! Random histories of one object, against a model of what a reader may be told: puts, removals and repairs, some of
//! them killed at one of their steps, while stores go away, come back as they were, and are replaced by empty ones.
//!
//! PENSTOCK_MODEL_SEEDS sets which histories are tried, as FIRST..END: each is told by its seed. The same histories are
//! tried with directories and with buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use decode_kernel::share::{Generation, Key};
use penstock_faultproxy::DirectoryBuckets;
use penstock_remote::{Bucket, Client, ClientOptions, Keys};

use crate::get::{GetError, GetOptions, get};
use crate::progress::Progress;
use crate::put::{Content, Placement, PutOptions, Puts};
use crate::repair::{RepairOptions, repair};
use crate::rm;
use crate::store::{self, BucketStore, Kind, NewStore, OpenError, Store};
use crate::verify::{VerifyOptions, verify};
use crate::walk::Walk;

const SEEDS_DEFAULT: u64 = 200;
/// Each takes a thousand requests.
const BUCKET_SEEDS_DEFAULT: u64 = 12;
const OPERATIONS: usize = 20;

/// What a reader is told of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Absent,
    Content(u64),
}

/// A state of the object that an operation made.
#[derive(Clone, Debug)]
struct Version {
    value: Value,
    generation: Option<Generation>,
    /// Stores that have a share of it, with its number, or its tombstone, with the store's. A repair may have made a second
    /// copy of a share whose store was away.
    holders: BTreeMap<usize, usize>,
    /// As many different numbers are needed to read it.
    needed: usize,
}

/// Random numbers of a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % most as u64) as usize
    }
}

struct History {
    random: Random,
    root: PathBuf,
    /// The stores' directories.
    paths: Vec<PathBuf>,
    /// What makes buckets of them.
    buckets: Option<(DirectoryBuckets, Client)>,
    away: BTreeSet<usize>,
    /// k and m of every put: with several codes the model would have to know which one a reader sees.
    data: u16,
    parity: u16,
    puts: u64,
    /// The last operation that was acknowledged.
    current: Version,
    /// Operations since then that were killed: each may have happened.
    maybe: Vec<Version>,
    /// Whether a disk was replaced since the first of them.
    replaced: bool,
    told: Vec<String>,
}

fn key() -> Key {
    Key::new("object").unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            self::copy(&path, &copy);
        } else {
            fs::copy(&path, &copy).unwrap();
        }
    }
}

impl History {
    fn new(seed: u64, root: &Path, in_buckets: bool) -> History {
        let mut random = Random(seed);
        let codes = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)];
        let (data, parity) = codes[random.below(codes.len())];
        let count = usize::from(data + parity) + random.below(5);
        let root = root.join("stores");
        fs::create_dir(&root).unwrap();
        let paths: Vec<PathBuf> = (0..count).map(|i| root.join(i.to_string())).collect();
        let buckets = in_buckets.then(|| {
            paths.iter().for_each(|path| fs::create_dir(path).unwrap());
            let server = DirectoryBuckets::start(&root).unwrap();
            (server, Client::new(ClientOptions::default()).unwrap())
        });
        let history = History {
            random,
            root,
            away: BTreeSet::new(),
            data,
            parity,
            puts: 0,
            current: Version {
                value: Value::Absent,
                generation: None,
                holders: (0..count).map(|store| (store, store)).collect(),
                needed: 1,
            },
            maybe: Vec::new(),
            replaced: false,
            told: vec![format!("{data}+{parity} in {count} stores")],
            paths,
            buckets,
        };
        let new = |store| NewStore {
            store,
            domain: None,
        };
        let new: Vec<NewStore> = history.stores().into_iter().map(new).collect();
        store::init(&new, false).unwrap();
        history
    }

    /// The stores, as a new process opens them.
    fn stores(&self) -> Vec<Store> {
        let Some((server, client)) = &self.buckets else {
            return Store::directories(&self.paths);
        };
        let open = |number: usize| {
            let url = format!("s3://{number}?endpoint=http://{}", server.address());
            let keys = Some(Keys::Pair("id".to_owned(), "secret".to_owned()));
            let bucket = Bucket::open_as(&url.parse().unwrap(), client, keys).unwrap();
            Store::Bucket(BucketStore::of(bucket, url, client))
        };
        (0..self.paths.len()).map(open).collect()
    }

    /// Makes all files old: what a killed put left in a bucket is taken for that only then.
    fn age(&self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.age(&path);
            } else {
                let old = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
                let file = fs::File::options().append(true).open(path).unwrap();
                file.set_modified(old).unwrap();
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..28 => self.put(false),
            28..38 => self.put(true),
            38..46 => self.remove(false),
            46..52 => self.remove(true),
            52..62 => self.repair(),
            62..80 => self.take_away(),
            80..90 => self.bring_back(),
            90..95 => self.swap(),
            _ => self.replace(),
        }
        self.check();
    }

    /// Runs an operation. If it is killed, the disks are afterwards as they were at one of its steps.
    fn killed_at_a_step<S: std::fmt::Debug + Copy>(
        &mut self,
        kill: bool,
        run: impl FnOnce(&mut dyn FnMut(S) -> io::Result<()>),
    ) {
        let at = self.random.below(2 * self.paths.len() + 3);
        let (root, snapshot) = (self.root.clone(), self.root.with_extension("snapshot"));
        let mut steps = 0;
        let mut taken = None;
        run(&mut |step| {
            if kill && steps <= at {
                // The last step that there is, if there are fewer.
                let _ = fs::remove_dir_all(&snapshot);
                copy(&root, &snapshot);
                taken = Some(step);
            }
            steps += 1;
            Ok(())
        });
        if let Some(step) = taken {
            fs::remove_dir_all(&root).unwrap();
            fs::rename(&snapshot, &root).unwrap();
            self.told.push(format!("killed at {step:?}"));
        }
    }

    fn put(&mut self, kill: bool) {
        self.puts += 1;
        let text = self.puts.to_string();
        let (n, partial) = (self.data + self.parity, self.random.below(3) == 0);
        let options = PutOptions {
            stores: self.stores(),
            data: self.data,
            parity: self.parity,
            key: key(),
            block_size: 4096,
            code: None,
            content_type: None,
            expires: None,
            fields: Default::default(),
            size_hint: Some(text.len() as u64),
            min_shares: partial.then_some(n.min(self.data + 1)),
            no_clobber: false,
            placement: Placement::Hashed,
        };
        self.told.push(format!("put {text}, partial {partial}"));
        let mut result = None;
        self.killed_at_a_step(kill, |after| {
            let mut source = text.as_bytes();
            let mut content = Content::Stream(&mut source);
            result = Some(Puts::default().put_in_steps(
                &mut content,
                &options,
                &Progress::hidden(),
                after,
            ));
        });
        let report = match result.unwrap() {
            Ok(report) => report,
            // Nothing was stored.
            Err(error) => return self.told.push(error.to_string()),
        };
        let version = Version {
            value: Value::Content(self.puts),
            generation: Some(report.header.generation),
            holders: BTreeMap::new(),
            needed: self.data.into(),
        };
        self.made(version, kill);
    }

    fn remove(&mut self, kill: bool) {
        self.told.push("rm".to_owned());
        let mut result = None;
        let stores = self.stores();
        self.killed_at_a_step(kill, |after| {
            result = Some(rm::rm_in_steps(&stores, &key(), after));
        });
        if let Err(error) = result.unwrap() {
            return self.told.push(error.to_string());
        }
        let generation = store::scan(&self.stores(), &key()).tombstone;
        if !kill {
            let written = self.paths.len() - self.away.len();
            assert!(written > self.parity.into(), "history {:#?}", self.told);
        }
        let version = Version {
            value: Value::Absent,
            generation,
            holders: BTreeMap::new(),
            needed: 1,
        };
        self.made(version, kill);
    }

    fn made(&mut self, mut version: Version, killed: bool) {
        version.holders = self.holders(&version);
        if killed {
            self.maybe.push(version);
        } else {
            self.current = version;
            self.maybe.clear();
            self.replaced = false;
        }
    }

    /// The stores that have something of a version, and what.
    fn holders(&self, version: &Version) -> BTreeMap<usize, usize> {
        let dir = decode_kernel::share::object_dir(&key());
        let held = |store: usize| {
            let root = match self.away.contains(&store) {
                true => self.paths[store].with_extension("away"),
                false => self.paths[store].clone(),
            };
            let files = store::files(&store::objects_dir(&root).join(&dir)).unwrap_or_default();
            let (_, path) = files.into_iter().find(|(kind, path)| {
                *kind != Kind::Decided
                    && (*kind == Kind::Tombstone) == (version.value == Value::Absent)
                    && store::generation_of(path) == version.generation
            })?;
            let number = store::open_share(&path).map(|(header, _)| header.number.into());
            Some((store, number.unwrap_or(store)))
        };
        (0..self.paths.len()).filter_map(held).collect()
    }

    fn repair(&mut self) {
        if self.buckets.is_some() {
            self.age(&self.root);
        }
        let options = RepairOptions {
            stores: self.stores(),
            key: None,
            walk: Walk::default(),
        };
        let mut done = Vec::new();
        let report = repair(&options, &Progress::hidden(), &mut |_, event| {
            done.push(event.to_string());
        });
        self.told.push(format!("repair: {done:?}"));
        let Ok(report) = report else {
            assert_eq!(self.away.len(), self.paths.len());
            return;
        };
        if self.current.generation.is_some() {
            self.current.holders = self.holders(&self.current.clone());
        }
        for version in 0..self.maybe.len() {
            self.maybe[version].holders = self.holders(&self.maybe[version].clone());
        }
        if report.complete() && self.away.is_empty() && !self.maybe.is_empty() {
            // Whatever was interrupted is done or undone now.
            if let Some(value) = self.read() {
                let mut versions = self.maybe.iter().chain([&self.current]).rev();
                let now = versions.find(|version| version.value == value).cloned();
                drop(versions);
                // An older state is judged by `check`: all disks with a newer one may have been replaced.
                if let Some(now) = now {
                    self.current = now;
                    self.current.holders = self.holders(&self.current.clone());
                    self.maybe.clear();
                    self.replaced = false;
                }
            }
        }
    }

    fn take_away(&mut self) {
        let store = self.random.below(self.paths.len());
        if self.away.insert(store) {
            self.told.push(format!("{store} goes away"));
            let path = &self.paths[store];
            fs::rename(path, path.with_extension("away")).unwrap();
        }
    }

    fn bring_back(&mut self) {
        let away: Vec<usize> = self.away.iter().copied().collect();
        if !away.is_empty() {
            let store = away[self.random.below(away.len())];
            self.back(store);
        }
    }

    /// Takes all stores that have the current state away but one, and brings the others back: they may have an older one.
    fn swap(&mut self) {
        let holders: Vec<usize> = self.current.holders.keys().copied().collect();
        if holders.is_empty() {
            return;
        }
        let stays = holders[self.random.below(holders.len())];
        for store in 0..self.paths.len() {
            let goes = store != stays && holders.contains(&store);
            if goes && self.away.insert(store) {
                let path = &self.paths[store];
                fs::rename(path, path.with_extension("away")).unwrap();
            } else if !goes && self.away.contains(&store) {
                self.back(store);
            }
        }
        self.told.push(format!("only {:?} are away", self.away));
    }

    fn back(&mut self, store: usize) {
        self.told.push(format!("{store} comes back"));
        let path = &self.paths[store];
        fs::rename(path.with_extension("away"), path).unwrap();
        self.away.remove(&store);
    }

    /// Replaces a store's disk by an empty one.
    fn replace(&mut self) {
        let store = self.random.below(self.paths.len());
        if self.away.contains(&store) || self.paths.len() - self.away.len() < 2 {
            return; // Alone, it would begin a new set.
        }
        self.told.push(format!("{store} is replaced"));
        let path = self.paths[store].clone();
        fs::remove_dir_all(&path).unwrap();
        let others = (0..self.paths.len()).filter(|i| *i == store || !self.away.contains(i));
        if self.buckets.is_some() {
            fs::create_dir(&path).unwrap();
        }
        let stores = self.stores();
        let new = |i: usize| NewStore {
            store: stores[i].clone(),
            domain: None,
        };
        store::init(&others.map(new).collect::<Vec<_>>(), true).unwrap();
        self.replaced |= !self.maybe.is_empty();
        self.current.holders.remove(&store);
        for version in &mut self.maybe {
            version.holders.remove(&store);
        }
    }

    fn get(&self) -> Result<u64, GetError> {
        let options = GetOptions {
            stores: self.stores(),
            key: key(),
            stale: false,
        };
        let mut bytes = Vec::new();
        get(&options, &mut bytes, &Progress::hidden())?;
        Ok(String::from_utf8(bytes).unwrap().parse().unwrap())
    }

    fn read(&self) -> Option<Value> {
        match self.get() {
            Ok(content) => Some(Value::Content(content)),
            Err(GetError::Open(OpenError::NotFound { .. })) => Some(Value::Absent),
            Err(_) => None,
        }
    }

    /// How many different shares of a version, or tombstones, are here.
    fn here(&self, version: &Version) -> usize {
        let here = version.holders.iter();
        let here = here.filter(|(store, _)| !self.away.contains(store));
        here.map(|(_, number)| number)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// Compares what a reader is told now with what it may be told.
    fn check(&mut self) {
        let told = self.read();
        let possible = [&self.current].into_iter().chain(&self.maybe);
        let may = |value: Value| possible.clone().any(|version| version.value == value);
        // An interrupted operation may have been decided, and too little of it be here.
        let disturbed = !self.maybe.is_empty() && (!self.away.is_empty() || self.replaced);
        let right = match told {
            Some(value) if may(value) => true,
            // An older state: only where nothing of the current one is left to tell.
            Some(_) => self.here(&self.current) == 0,
            // Refused: only where too little of the newest is here, or too few stores to know.
            None => {
                self.here(&self.current) < self.current.needed
                    || disturbed
                    || self.current.value == Value::Absent && self.here(&self.current) == 0
                    || self.current.generation.is_none() && !self.away.is_empty()
            }
        };
        assert!(
            right,
            "a reader is told {told:?}; current {:?}, maybe {:?}, away {:?}, history {:#?}",
            self.current, self.maybe, self.away, self.told
        );
    }

    /// With all stores back, two repairs leave the object whole or say that it can't be.
    fn end(&mut self) {
        for store in self.away.clone() {
            self.back(store);
        }
        self.check();
        self.repair();
        self.repair();
        self.check();
        let options = VerifyOptions {
            stores: self.stores(),
            key: None,
            digest: true,
            walk: Walk::default(),
        };
        let report = verify(&options, &Progress::hidden(), &mut |_, _| {}).unwrap();
        if self.read().is_some() {
            assert_eq!(
                (report.damaged, report.unreadable),
                (0, 0),
                "history {:#?}",
                self.told
            );
            let scan = store::scan(&self.stores(), &key());
            let left = (scan.undecided.len(), scan.removed.len());
            assert_eq!(left, (0, 0), "history {:#?}", self.told);
            assert!(scan.groups.len() <= 1, "history {:#?}", self.told);
        }
    }
}

fn try_histories(in_buckets: bool, default: u64) {
    let text = std::env::var("PENSTOCK_MODEL_SEEDS");
    let seeds = text.map_or(0..default, |text| {
        let (first, end) = text.split_once("..").expect("FIRST..END");
        first.parse().unwrap()..end.parse().unwrap()
    });
    let directory = || {
        // Every put syncs its files, which is free in memory.
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
    };
    for seed in seeds {
        let root = directory().unwrap();
        let mut history = History::new(seed, root.path(), in_buckets);
        history.told.push(format!("seed {seed}"));
        for _ in 0..OPERATIONS {
            history.step();
        }
        history.end();
    }
}

#[test]
fn no_history_brings_an_old_state_back() {
    try_histories(false, SEEDS_DEFAULT);
}

#[test]
fn nor_does_one_of_buckets() {
    try_histories(true, BUCKET_SEEDS_DEFAULT);
}
