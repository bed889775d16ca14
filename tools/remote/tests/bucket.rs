//! Buckets of a server that answers rightly, and of one that lies.

use std::fs;
use std::time::Duration;

use penstock_faultproxy::{DirectoryBuckets, FaultProxy, Faults};
use penstock_remote::{Bucket, Client, ClientOptions, Keys, Kind, RemoteErrorKind, RemoteUrl};

struct Store {
    _dir: tempfile::TempDir,
    _server: DirectoryBuckets,
    proxy: FaultProxy,
    client: Client,
    bucket: Bucket,
}

const BYTES: usize = 300_000;

fn keys() -> Option<Keys> {
    Some(Keys::Pair("key".into(), "secret".into()))
}

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 7 % 251) as u8).collect()
}

fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("bucket/deep/objects/ab");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("one"), content()).unwrap();
    fs::write(files.join("two"), b"two").unwrap();
    let server = DirectoryBuckets::start(dir.path()).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let proxy = FaultProxy::start(any, server.address(), Faults::default(), 1).unwrap();
    let client = Client::new(ClientOptions {
        first_byte_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    })
    .unwrap();
    let url: RemoteUrl = format!("s3://bucket/deep?endpoint=http://{}", proxy.address())
        .parse()
        .unwrap();
    let bucket = Bucket::open_as(&url, &client, keys()).unwrap();
    Store {
        _dir: dir,
        _server: server,
        proxy,
        client,
        bucket,
    }
}

impl Store {
    fn faults(&self, fault: &str) {
        self.proxy.set(Faults {
            chances: vec![fault.parse().unwrap()],
            ..Faults::default()
        });
    }

    fn get(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>, RemoteErrorKind> {
        self.client.run(async {
            let body = self.bucket.get("objects/ab/one", range).await;
            let mut body = body.map_err(|error| error.kind())?;
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                bytes.extend_from_slice(&chunk.map_err(|error| error.kind())?);
            }
            Ok(bytes)
        })
    }
}

#[test]
fn files_are_listed_read_and_counted() {
    let store = store();
    let files = store
        .client
        .run(store.bucket.list("objects/ab/", 10))
        .unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["objects/ab/one", "objects/ab/two"]);
    assert_eq!(files[0].bytes, BYTES as u64);
    assert!(files[0].etag.is_some());
    let nothing = store
        .client
        .run(store.bucket.list("objects/cd/", 10))
        .unwrap();
    assert_eq!(nothing, []);
    let too_many = store
        .client
        .run(store.bucket.list("objects/ab/", 1))
        .unwrap_err();
    assert_eq!(too_many.kind(), RemoteErrorKind::Protocol);
    assert_eq!(store.get(0..BYTES as u64).unwrap(), content());
    assert_eq!(store.get(1000..70_000).unwrap(), &content()[1000..70_000]);
    let two = store
        .client
        .run(store.bucket.read("objects/ab/two"))
        .unwrap();
    assert_eq!(&two[..], b"two");
    let none = store
        .client
        .run(store.bucket.read("objects/ab/three"))
        .unwrap_err();
    assert_eq!(none.kind(), RemoteErrorKind::NotFound);
    let requests = store.bucket.requests();
    assert_eq!((requests.of(Kind::List), requests.of(Kind::Get)), (3, 4));
}

#[test]
fn what_is_not_what_was_asked_is_an_error() {
    let store = store();
    for (fault, kinds) in [
        ("whole", vec![RemoteErrorKind::Protocol]),
        ("wrong-range", vec![RemoteErrorKind::Protocol]),
        ("slowdown", vec![RemoteErrorKind::SlowDown]),
        ("late=1h", vec![RemoteErrorKind::Timeout]),
        ("hang=1000", vec![RemoteErrorKind::Timeout]),
        (
            "short",
            vec![RemoteErrorKind::Other, RemoteErrorKind::Protocol],
        ),
        (
            "truncated",
            vec![RemoteErrorKind::Other, RemoteErrorKind::Protocol],
        ),
        (
            "reset=1000",
            vec![RemoteErrorKind::Other, RemoteErrorKind::Protocol],
        ),
    ] {
        store.faults(fault);
        let got = store.get(0..200_000).map(|bytes| bytes.len());
        assert!(
            got.is_err_and(|kind| kinds.contains(&kind)),
            "{fault}: {got:?}"
        );
    }
    // What nobody listens to.
    let url: RemoteUrl = "s3://bucket?endpoint=http://127.0.0.1:1".parse().unwrap();
    let bucket = Bucket::open_as(&url, &store.client, keys()).unwrap();
    let error = store.client.run(bucket.get("x", 0..1)).err().unwrap();
    assert_eq!(error.kind(), RemoteErrorKind::Unreachable, "{error}");
}
