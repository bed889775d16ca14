//! What a put says of an object is in every share, and an object that has expired is as good as removed.

mod common;

use std::fs;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Stores, header, key};
use decode_kernel::share::{Fields, Header, Metadata};
use penstock_store::OpenError;
use penstock_store::Progress;
use penstock_store::Store;
use penstock_store::get::{GetError, GetOptions, get};
use penstock_store::inspect::inspect;
use penstock_store::ls::Listed;
use penstock_store::put::{PutError, PutOptions, PutReport, put};
use penstock_store::stat::{State, stat};
use penstock_store::verify::Health;

const CONTENT: &[u8] = b"123456789";
/// The check value of CRC-64/NVME: that of these nine digits.
const CONTENT_CRC: u64 = 0xae8b_1486_0a79_9888;

fn said(stores: &Stores, expires: u64) -> PutOptions {
    let fields = [
        ("Cache-Control", "max-age=60"),
        ("Content-Disposition", "attachment; filename=\"a b\""),
        ("X-Zone", "9"),
    ];
    PutOptions {
        expires: NonZeroU64::new(expires),
        fields: Fields::new(fields).unwrap(),
        ..stores.options(4, 2)
    }
}

fn put_with(stores: &Stores, expires: u64) -> PutReport {
    put(&mut &*CONTENT, &said(stores, expires), &Progress::hidden()).unwrap()
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn set_header(path: &std::path::Path, header: &Header) {
    let mut bytes = fs::read(path).unwrap();
    bytes[..4096].copy_from_slice(&header.encode()[..]);
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_share_has_it_and_every_command_shows_it() {
    let stores = Stores::new(6);
    let report = put_with(&stores, now() + 1000);
    for path in &report.paths {
        let metadata = header(path).metadata;
        assert_eq!(metadata, report.header.metadata);
        assert_eq!(metadata.crc64nvme, Some(CONTENT_CRC));
        let inspected = inspect(path, true, &Progress::hidden()).unwrap();
        let json = serde_json::to_value(&inspected).unwrap();
        assert_eq!(json["crc64nvme"], "ae8b14860a799888");
        assert_eq!(json["fields"]["x-zone"], "9");
        let text = inspected.to_string();
        assert!(
            text.contains("x-zone: 9") && text.contains("expires  "),
            "{text}"
        );
    }
    let stat = stat(&Store::directories(&stores.paths), &key()).unwrap();
    assert_eq!(stat.state, State::Readable);
    let json = serde_json::to_value(&stat).unwrap();
    assert_eq!(json["object"]["fields"]["Cache-Control"], "max-age=60");
    assert!(stat.to_string().contains("crc64nvme     ae8b"), "{stat}");
    let listing = stores.ls();
    let Listed::Object(entry) = &listing.objects[0] else {
        panic!("{listing:?}")
    };
    assert!(!entry.expired);
    let json = serde_json::to_value(&listing.objects[0]).unwrap();
    assert_eq!(json["fields"]["x-zone"], "9");
    assert!(json["expires"].as_str().unwrap().ends_with('Z'));
    let long = entry.long().to_string();
    assert!(long.contains("(expires 2"), "{long}");
    assert_eq!(stores.get().unwrap(), CONTENT);
}

/// A share that says something else than its siblings is no share of their put, and a repair makes it one.
#[test]
fn a_share_that_says_something_else_is_damage() {
    let stores = Stores::new(6);
    let report = put_with(&stores, now() + 1000);
    let good = header(&report.paths[2]);
    for metadata in [
        Metadata {
            expires: NonZeroU64::new(1),
            ..good.metadata.clone()
        },
        Metadata {
            crc64nvme: None,
            ..good.metadata.clone()
        },
        Metadata {
            fields: Fields::new([("X-Zone", "8")]).unwrap(),
            ..good.metadata.clone()
        },
        Metadata::default(),
    ] {
        let other = Header {
            metadata,
            ..good.clone()
        };
        set_header(&report.paths[2], &other);
        assert_eq!(stores.health(), Health::Damaged);
        assert_eq!(stores.get().unwrap(), CONTENT);
        let (repaired, _) = stores.repair();
        assert_eq!((repaired.shares, repaired.expired), (1, 0));
        assert_eq!(header(&report.paths[2]), good, "what it says is copied on");
        assert_eq!(stores.health(), Health::Healthy);
    }
}

#[test]
fn shares_that_lie_about_the_checksum_are_found() {
    let stores = Stores::new(6);
    let report = put_with(&stores, 0);
    for path in &report.paths {
        let good = header(path);
        let metadata = Metadata {
            crc64nvme: Some(1),
            ..good.metadata.clone()
        };
        set_header(path, &Header { metadata, ..good });
    }
    let error = stores.get().unwrap_err();
    assert!(matches!(error, GetError::Checksum { .. }), "{error}");
    assert_eq!(stores.health(), Health::Unreadable);
}

#[test]
fn what_clients_would_not_understand_is_refused() {
    let stores = Stores::new(6);
    let refused =
        |options: PutOptions| put(&mut &*CONTENT, &options, &Progress::hidden()).unwrap_err();
    let error = refused(PutOptions {
        content_type: Some("html".into()),
        ..said(&stores, 0)
    });
    assert!(matches!(error, PutError::Syntax { .. }), "{error}");
    let error = refused(PutOptions {
        fields: Fields::new([("Cache-Control", "max-age 5")]).unwrap(),
        ..said(&stores, 0)
    });
    assert!(error.to_string().contains("max-age=86400"), "{error}");
    assert!(stores.files().is_empty());
}

#[test]
fn an_expired_object_is_as_if_it_were_not_there() {
    let stores = Stores::new(6);
    let expired = put_with(&stores, now() - 1);
    let error = stores.get().unwrap_err();
    assert!(matches!(error, GetError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("`penstock repair`"), "{error}");
    let found = stat(&Store::directories(&stores.paths), &key()).unwrap();
    assert_eq!((found.state, found.state.exit_code()), (State::Expired, 1));
    let text = stores.ls().objects[0].to_string();
    assert!(text.ends_with("(expired)"), "{text}");
    // No put is kept away by it.
    let options = PutOptions {
        no_clobber: true,
        ..stores.options(4, 2)
    };
    let new = put(&mut &b"new"[..], &options, &Progress::hidden()).unwrap();
    assert!(new.header.generation > expired.header.generation);
    assert_eq!(stores.get().unwrap(), b"new");
    assert_eq!(stores.repair().0.expired, 0);
    assert_eq!(stores.get().unwrap(), b"new");
}

#[test]
fn repair_sweeps_it_so_that_nothing_older_comes_back() {
    let stores = Stores::new(7);
    let old = stores.put(b"old", 4, 2);
    // The store with a share of the old put is away while the new one comes, expires and goes.
    let (path, away) = (&stores.paths[0], stores.root.path().join("away"));
    fs::rename(path, &away).unwrap();
    put_with(&stores, now() - 1);
    let (report, done) = stores.repair();
    assert_eq!(report.expired, 1, "{done:?}");
    assert!(report.complete());
    let text = "removed an expired object: 6 files";
    assert!(done.iter().any(|done| done.ends_with(text)), "{done:?}");
    let gone = |error: GetError| matches!(error, GetError::Open(OpenError::NotFound { .. }));
    assert!(gone(stores.get().unwrap_err()));
    assert_eq!(stores.ls().objects.len(), 0);
    fs::rename(&away, path).unwrap();
    assert!(old.paths[0].exists());
    assert!(gone(stores.get().unwrap_err()));
    // The tombstone is as old as the put, and was just written: it stays.
    for _ in 0..3 {
        stores.repair();
    }
    let tombstones = stores.files();
    let deleted = |path: &&std::path::PathBuf| path.extension().unwrap() == "deleted";
    assert_eq!(
        tombstones.iter().filter(deleted).count(),
        7,
        "{tombstones:?}"
    );
    assert_eq!(tombstones.len(), 7);
}

/// The tombstone of an object that is swept a year after its put is younger than its name says.
#[test]
fn a_tombstone_counts_from_its_writing() {
    let stores = Stores::new(6);
    let report = put_with(&stores, 1);
    let year = Duration::from_secs(365 * 24 * 3600);
    let old = report.header.generation.unix_nanos() - year.as_nanos() as u64;
    for path in &report.paths {
        let mut header = header(path);
        header.generation = decode_kernel::share::Generation::new(old, [1; 8]);
        set_header(path, &header);
        let name = format!("{}.share", header.generation);
        fs::rename(path, path.with_file_name(name)).unwrap();
    }
    assert_eq!(stores.repair().0.expired, 1);
    stores.repair();
    let tombstones = stores.files();
    assert_eq!(tombstones.len(), 6, "{tombstones:?}");
    for path in &tombstones {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - year).unwrap();
    }
    stores.repair();
    assert_eq!(stores.files(), Vec::<std::path::PathBuf>::new());
}

/// Too few stores can take the tombstone: it stays, hidden from readers, and repair says so.
#[test]
fn what_cannot_be_swept_stays_and_is_told() {
    let stores = Stores::new(6);
    put_with(&stores, now() - 1);
    let all = stores.paths.clone();
    // Stores without a marker are read and not written.
    for path in &all[..4] {
        fs::remove_file(path.join("penstock-store.toml")).unwrap();
    }
    let before = stores.files();
    let (report, done) = stores.repair();
    assert!(!report.complete() && report.expired == 0, "{done:?}");
    assert_eq!(stores.files(), before);
    let options = GetOptions {
        stores: Store::directories(all),
        key: key(),
        stale: true,
    };
    let error = get(&options, &mut std::io::sink(), &Progress::hidden()).unwrap_err();
    assert!(matches!(error, GetError::Expired { .. }), "{error}");
}
