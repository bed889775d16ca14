//! Stores that are buckets: what holds for directories holds for them.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use decode_kernel::share::{Key, object_dir};
use penstock_faultproxy::DirectoryBuckets;
use penstock_remote::{Bucket, Client, ClientOptions, Keys, Kind};
use penstock_store::df::df;
use penstock_store::get::{GetError, GetOptions, get};
use penstock_store::ls::{Health as Left, Listed, LsOptions, ls};
use penstock_store::put::{Placement, PutOptions, PutReport, put};
use penstock_store::rebalance::{RebalanceOptions, rebalance};
use penstock_store::repair::{RepairOptions, repair};
use penstock_store::rm::rm;
use penstock_store::stat::{State, stat};
use penstock_store::survey::parts::{ObjectFiles, part};
use penstock_store::verify::{Health, VerifyOptions, verify};
use penstock_store::{BucketStore, NewStore, OpenError, Progress, Store, Walk, init};

/// Buckets that are directories of one server.
struct Buckets {
    root: tempfile::TempDir,
    paths: Vec<PathBuf>,
    server: DirectoryBuckets,
    client: Client,
}

impl Buckets {
    fn new(count: usize) -> Buckets {
        let root = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..count)
            .map(|number| root.path().join(format!("bucket-{number}")))
            .collect();
        paths.iter().for_each(|path| fs::create_dir(path).unwrap());
        let server = DirectoryBuckets::start(root.path()).unwrap();
        let client = Client::new(ClientOptions::default()).unwrap();
        let buckets = Buckets {
            root,
            paths,
            server,
            client,
        };
        let new = |store| NewStore {
            store,
            domain: None,
        };
        init(
            &buckets.stores().into_iter().map(new).collect::<Vec<_>>(),
            false,
        )
        .unwrap();
        buckets
    }

    fn stores(&self) -> Vec<Store> {
        let address = self.server.address();
        let numbers = 0..self.paths.len();
        numbers.map(|number| self.at(number, address)).collect()
    }

    /// A store, by way of somebody who forwards.
    fn at(&self, number: usize, address: SocketAddr) -> Store {
        let url = format!("s3://bucket-{number}?endpoint=http://{address}");
        let keys = Some(Keys::Pair("id".to_owned(), "secret".to_owned()));
        let bucket = Bucket::open_as(&url.parse().unwrap(), &self.client, keys).unwrap();
        Store::Bucket(BucketStore::of(bucket, url, &self.client))
    }

    /// Names of all files of objects, without their directories.
    fn files(&self, number: usize) -> Vec<String> {
        let dir = self.paths[number]
            .join("objects")
            .join(object_dir(&common::key()));
        let mut names: Vec<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn content(bytes: usize) -> Vec<u8> {
    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn put_in(stores: Vec<Store>, bytes: &[u8]) -> Result<PutReport, String> {
    put_as(stores, common::key(), bytes)
}

fn put_as(stores: Vec<Store>, key: Key, bytes: &[u8]) -> Result<PutReport, String> {
    let options = PutOptions {
        stores,
        data: 2,
        parity: 1,
        key,
        block_size: 64 << 10,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: Some(bytes.len() as u64),
        min_shares: None,
        no_clobber: false,
        placement: Placement::Listed,
    };
    put(&mut &*bytes, &options, &Progress::hidden()).map_err(|error| error.to_string())
}

fn read(stores: Vec<Store>) -> Result<Vec<u8>, GetError> {
    let options = GetOptions {
        stores,
        key: common::key(),
        stale: false,
    };
    let mut bytes = Vec::new();
    get(&options, &mut bytes, &Progress::hidden())?;
    Ok(bytes)
}

fn health(stores: Vec<Store>) -> Health {
    let options = VerifyOptions {
        stores,
        key: None,
        digest: true,
        walk: Walk::default(),
    };
    let report = verify(&options, &Progress::hidden(), &mut |_, _| {});
    report.unwrap().health()
}

fn mend(stores: Vec<Store>) {
    let options = RepairOptions {
        stores,
        key: None,
        walk: Walk::default(),
    };
    let mut told = Vec::new();
    let report = repair(&options, &Progress::hidden(), &mut |_, event| {
        told.push(event.to_string());
    });
    assert!(report.unwrap().complete(), "{told:?}");
}

#[test]
fn a_long_object_comes_back_and_a_copy_of_the_buckets_is_a_store() {
    let buckets = Buckets::new(3);
    // Three parts a share, and an end that fills nothing.
    let bytes = content((40 << 20) + 12_345);
    let report = put_in(buckets.stores(), &bytes).unwrap();
    assert_eq!(report.paths.len(), 3);
    for number in 0..3 {
        let generation = report.header.generation;
        let names = [".decided", ".pending"].map(|end| format!("{generation}{end}"));
        assert_eq!(buckets.files(number), names);
    }
    assert!(read(buckets.stores()).unwrap() == bytes);
    assert!(read(Store::directories(&buckets.paths)).unwrap() == bytes);
    assert_eq!(health(buckets.stores()), Health::Healthy);
    let uploads = fs::read_dir(buckets.root.path().join(".uploads")).unwrap();
    assert_eq!(uploads.count(), 0);

    let listing = ls(&LsOptions {
        stores: buckets.stores(),
        prefix: String::new(),
    });
    let objects = listing.unwrap().objects;
    assert!(
        matches!(&objects[..], [Listed::Object(object)] if object.health == Left::Healthy),
        "{objects:?}"
    );
    let found = stat(&buckets.stores(), &common::key()).unwrap();
    assert_eq!((found.state, found.files.len()), (State::Readable, 3));
    for usage in df(&buckets.stores(), true).unwrap() {
        assert_eq!(usage.shares.map(|shares| shares.files), Some(1));
        assert!(usage.space.is_none());
    }
}

#[test]
fn lost_and_damaged_shares_are_rebuilt() {
    let buckets = Buckets::new(4);
    let bytes = content(3 << 20);
    put_in(buckets.stores(), &bytes).unwrap();
    // One store loses all; of another one leaf rots.
    fs::remove_dir_all(buckets.paths[0].join("objects")).unwrap();
    assert!(read(buckets.stores()).unwrap() == bytes);
    assert_eq!(health(buckets.stores()), Health::Damaged);
    mend(buckets.stores());
    assert_eq!(health(buckets.stores()), Health::Healthy);

    let dir = buckets.paths[1]
        .join("objects")
        .join(object_dir(&common::key()));
    let share = dir.join(&buckets.files(1)[1]);
    let mut file = fs::read(&share).unwrap();
    file[200_000] ^= 1;
    fs::write(&share, file).unwrap();
    assert!(read(buckets.stores()).unwrap() == bytes);
    assert_eq!(health(buckets.stores()), Health::Damaged);
    mend(buckets.stores());
    assert_eq!(health(buckets.stores()), Health::Healthy);
    assert!(read(buckets.stores()).unwrap() == bytes);
}

#[test]
fn objects_are_replaced_removed_and_moved() {
    let buckets = Buckets::new(4);
    put_in(buckets.stores(), b"old").unwrap();
    put_in(buckets.stores(), b"new").unwrap();
    assert_eq!(read(buckets.stores()).unwrap(), b"new");
    assert_eq!(buckets.files(0).len(), 2, "{:?}", buckets.files(0));

    // To empty a bucket, into a directory among others.
    let disk = buckets.root.path().join("disk");
    let mut stores = buckets.stores();
    stores.push(Store::from(disk.as_path()));
    let new = |store: &Store| NewStore {
        store: store.clone(),
        domain: None,
    };
    init(&stores.iter().map(new).collect::<Vec<_>>(), false).unwrap();
    let options = RebalanceOptions {
        stores: stores.clone(),
        drain: vec![stores[0].path().to_owned()],
        rate: None,
        dry_run: false,
    };
    let mut told = Vec::new();
    let report = rebalance(&options, &Progress::hidden(), &mut |_, event| {
        told.push(event.to_string());
    });
    assert_eq!(report.unwrap().failed, 0, "{told:?}");
    assert_eq!(buckets.files(0), [""; 0]);
    assert_eq!(health(stores.clone()), Health::Healthy);
    assert_eq!(read(stores.clone()).unwrap(), b"new");

    rm(&stores, &common::key()).unwrap();
    let gone = read(stores.clone()).unwrap_err();
    assert!(matches!(gone, GetError::Open(OpenError::NotFound { .. })));
    // The tombstones alone are left.
    for number in 1..4 {
        let files = buckets.files(number);
        assert!(
            files.len() == 1 && files[0].ends_with(".deleted"),
            "{files:?}"
        );
    }
}

#[test]
fn a_put_that_fails_leaves_nothing() {
    let buckets = Buckets::new(3);
    put_in(buckets.stores(), b"old").unwrap();
    let stores = buckets.stores();
    // The marker was read before, so the store is written to.
    let away = buckets.paths[2].with_extension("away");
    assert_eq!(read(stores.clone()).unwrap(), b"old");
    fs::rename(&buckets.paths[2], &away).unwrap();
    let error = put_in(stores, &content(30 << 20)).unwrap_err();
    assert!(error.contains("3 shares need 3 stores"), "{error}");
    fs::rename(&away, &buckets.paths[2]).unwrap();
    for number in 0..3 {
        assert_eq!(buckets.files(number).len(), 2);
    }
    let uploads = fs::read_dir(buckets.root.path().join(".uploads"));
    assert_eq!(uploads.map_or(0, Iterator::count), 0);
    assert_eq!(read(buckets.stores()).unwrap(), b"old");
}

/// Forwards connections, but for those that write a mark or ask for one, which get no answer, as long as that is wanted. Its
/// threads end with the process.
fn silent_about_marks(server: SocketAddr, silent: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let silent = Arc::clone(silent);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let store = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (store.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let silent = Arc::clone(&silent);
            std::thread::spawn(move || forward(client, store, &silent));
        }
    });
    address
}

fn forward(mut client: TcpStream, mut store: TcpStream, silent: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..len];
        let is_mark = [&b"PUT"[..], b"HEAD"]
            .iter()
            .any(|method| bytes.starts_with(method))
            && bytes.windows(8).any(|part| part == b".decided");
        if (is_mark && silent.load(SeqCst)) || store.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = store.shutdown(Shutdown::Both);
}

#[test]
fn a_decision_that_nobody_answers_takes_nothing_back() {
    let buckets = Buckets::new(3);
    put_in(buckets.stores(), b"old").unwrap();
    let silent = Arc::new(AtomicBool::new(true));
    let forwarder = silent_about_marks(buckets.server.address(), &silent);
    let count = |kind: &str| {
        let files = (0..3).flat_map(|number| buckets.files(number));
        files
            .filter(|name| Path::new(name).extension() == Some(kind.as_ref()))
            .count()
    };

    // One store is silent: the others decide.
    let mut stores = buckets.stores();
    stores[0] = buckets.at(0, forwarder);
    let report = put_in(stores, b"new").unwrap();
    assert_eq!((report.paths.len(), report.warnings.is_empty()), (3, false));
    // It was left alone then, with what it has of the old put.
    assert_eq!((count("pending"), count("decided")), (4, 3));
    assert_eq!(read(buckets.stores()).unwrap(), b"new");
    // The share without a mark is settled, and the old one removed.
    mend(buckets.stores());
    assert_eq!((count("pending"), count("decided")), (3, 3));

    // All are: nobody knows, and the put can be made again.
    let stores = || (0..3).map(|number| buckets.at(number, forwarder)).collect();
    let error = put_in(stores(), b"newer").unwrap_err();
    assert!(error.contains("may be stored"), "{error}");
    assert_eq!((count("pending"), count("decided")), (6, 3));
    assert_eq!(read(buckets.stores()).unwrap(), b"new");
    silent.store(false, SeqCst);
    put_in(stores(), b"newer").unwrap();
    assert_eq!(read(buckets.stores()).unwrap(), b"newer");
    assert_eq!((count("pending"), count("decided")), (3, 3));
}

/// Listings that were asked for.
fn lists(stores: &[Store]) -> Vec<u64> {
    let requests = stores.iter().map(|store| match store {
        Store::Bucket(bucket) => bucket.requests().of(Kind::List),
        Store::Directory(_) => 0,
    });
    requests.collect()
}

/// Story: a walk over all objects listed each of the 256 directories, and each object's again.
#[test]
fn a_walk_asks_for_a_thousand_files_at_a_time() {
    let buckets = Buckets::new(3);
    for number in 0..20 {
        let key = Key::new(&format!("object-{number}")).unwrap();
        put_as(buckets.stores(), key, b"content").unwrap();
    }
    // What objects leave that were removed.
    for number in 0..1500 {
        let dir = object_dir(&Key::new(&format!("removed-{number}")).unwrap());
        let dir = buckets.paths[1].join("objects").join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{number:032x}.deleted")), "").unwrap();
    }
    fs::write(buckets.paths[1].join("objects/stray"), "").unwrap();
    // They have 40 files, 1,541 and 40.
    let expected = [1, 2, 1];
    let stores = buckets.stores();
    let options = LsOptions {
        stores: stores.clone(),
        prefix: String::new(),
    };
    let listing = ls(&options).unwrap();
    assert_eq!(listing.objects.len(), 20);
    assert!(listing.complete && listing.problems.is_empty());
    for object in &listing.objects {
        assert!(matches!(object, Listed::Object(object) if object.health == Left::Healthy));
    }
    assert_eq!(lists(&stores), expected);

    let stores = buckets.stores();
    let options = VerifyOptions {
        stores: stores.clone(),
        key: None,
        digest: true,
        walk: Walk::default(),
    };
    let mut told = Vec::new();
    let report = verify(&options, &Progress::hidden(), &mut |_, finding| {
        told.push(finding.to_string());
    });
    assert_eq!(report.unwrap().healthy, 20);
    assert!(told.len() == 1 && told[0].contains("stray"), "{told:?}");
    assert_eq!(lists(&stores), expected);

    let stores = buckets.stores();
    for usage in df(&stores, true).unwrap() {
        assert_eq!(usage.shares.map(|shares| shares.files), Some(20));
    }
    assert_eq!(lists(&stores), expected);
}

#[test]
fn parts_of_a_listing_have_every_object_whole() {
    let buckets = Buckets::new(1);
    let mut all = Vec::new();
    for (number, files) in [1, 2, 7, 1, 3, 4, 1, 1].into_iter().enumerate() {
        let dir = format!("{:02x}/{number:062x}", 36 * number);
        let path = buckets.paths[0].join("objects").join(&dir);
        fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            fs::write(path.join(file.to_string()), "x").unwrap();
        }
        all.push((dir, files));
    }
    for stray in ["0", "50/x", "aa", "ff/x"] {
        let path = buckets.paths[0].join("objects").join(stray);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let url = format!("s3://bucket-0?endpoint=http://{}", buckets.server.address());
    let keys = Some(Keys::Pair("id".to_owned(), "secret".to_owned()));
    let bucket = Bucket::open_as(&url.parse().unwrap(), &buckets.client, keys).unwrap();
    for names_max in 1..=20 {
        let (mut objects, mut strays) = (Vec::new(), Vec::new());
        let mut after = Some(String::new());
        while let Some(from) = after {
            let part = buckets
                .client
                .run(part(&bucket, &from, names_max, 7))
                .unwrap();
            objects.extend(part.objects.iter().map(|ObjectFiles { dir, files }| {
                assert!(files.iter().all(|file| file.name.contains(dir)));
                (dir.clone(), files.len())
            }));
            strays.extend(part.strays);
            assert!(part.next.as_ref() > Some(&from) || part.next.is_none());
            after = part.next;
        }
        assert_eq!(objects, all, "{names_max} names a page");
        let expected = ["objects/0", "objects/50/x", "objects/aa", "objects/ff/x"];
        assert_eq!(strays, expected, "{names_max} names a page");
    }
    // No put leaves so many files.
    let from = format!("objects/{}", all[1].0);
    let error = buckets
        .client
        .run(part(&bucket, &format!("{from}/1"), 3, 5))
        .unwrap_err();
    assert!(error.to_string().contains("more than 5 files"), "{error}");
}
