//! Buckets of every provider do the same: by servers of our own, and by Azurite, Microsoft's emulator, where it is installed.

mod azurite;

use std::collections::BTreeSet;

use azurite::Azurite;
use bytes::Bytes;
use penstock_faultproxy::DirectoryBuckets;
use penstock_remote::{
    Bucket, Client, ClientOptions, Keys, Kind, PutMode, RemoteError, RemoteErrorKind, RemoteUrl,
    Upload, Version,
};

struct Service {
    /// Its URL, with `{}` where the bucket's name belongs.
    url: String,
    keys: Keys,
    wrong_keys: Keys,
}

impl Service {
    fn open(&self, client: &Client, bucket: &str, keys: &Keys) -> Bucket {
        let url: RemoteUrl = self.url.replace("{}", bucket).parse().unwrap();
        Bucket::open_as(&url, client, Some(keys.clone())).unwrap()
    }
}

#[test]
fn s3() {
    on_directories(
        "s3://{}/p?endpoint=http://ADDRESS&region=r",
        Keys::Pair("id".into(), "secret".into()),
        Keys::Pair("refused".into(), "secret".into()),
    );
}

#[test]
fn google() {
    on_directories(
        "gs://{}/p?endpoint=http://ADDRESS",
        Keys::Token("token".into()),
        Keys::Token("refused".into()),
    );
}

#[test]
fn azure() {
    on_directories(
        "az://{}/p?account=name&endpoint=http://ADDRESS/name",
        Keys::Pair("name".into(), "a2V5".into()),
        Keys::Token("refused".into()),
    );
}

#[test]
fn azurite() {
    let Some(azurite) = Azurite::start() else {
        println!("skipped: no azurite in the path (npm install azurite)");
        return;
    };
    azurite.create("bucket");
    let account = azurite::ACCOUNT;
    let service = Service {
        url: format!(
            "az://{{}}/p?account={account}&endpoint=http://{}/{account}",
            azurite.address
        ),
        keys: Keys::Pair(account.into(), azurite::KEY.into()),
        wrong_keys: Keys::Pair(account.into(), "d3Jvbmc=".into()),
    };
    does_all(&service);
}

fn on_directories(url: &str, keys: Keys, wrong_keys: Keys) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let server = DirectoryBuckets::start(dir.path()).unwrap();
    does_all(&Service {
        url: url.replace("ADDRESS", &server.address().to_string()),
        keys,
        wrong_keys,
    });
}

fn does_all(service: &Service) {
    let client = Client::new(ClientOptions::default()).unwrap();
    let open = |bucket, keys| service.open(&client, bucket, keys);
    let bucket = open("bucket", &service.keys);
    client.run(async {
        puts_and_reads(&bucket).await;
        has_conditions(&bucket).await;
        lists(&bucket).await;
        writes_in_parts(&bucket).await;
        removes(&bucket).await;
        says_what_is_wrong(
            &bucket,
            &open("none", &service.keys),
            &open("bucket", &service.wrong_keys),
        )
        .await;
    });
    let requests = bucket.requests();
    for kind in Kind::ALL {
        assert!(requests.of(kind) > 0, "{kind:?}");
    }
}

const NAME: &str = "objects/ab/one.share-0";

fn kind<T>(result: Result<T, RemoteError>) -> RemoteErrorKind {
    match result {
        Ok(_) => panic!("it did"),
        Err(error) => error.kind(),
    }
}

async fn put(bucket: &Bucket, name: &str, text: &str, mode: PutMode) -> Result<(), RemoteError> {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    bucket.put(name, bytes, mode).await
}

async fn puts_and_reads(bucket: &Bucket) {
    let gets = bucket.requests().of(Kind::Get);
    put(bucket, NAME, "0123456789", PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!(&bucket.read(NAME).await.unwrap()[..], b"0123456789");
    for range in [0..10, 0..1, 3..7, 9..10] {
        let bytes = bucket.read_part(NAME, range.clone()).await.unwrap();
        let wanted = range.start as usize..range.end as usize;
        assert_eq!(bytes, &b"0123456789"[wanted], "{range:?}");
    }
    let beyond = bucket.read_part(NAME, 10..20).await;
    assert_eq!(kind(beyond), RemoteErrorKind::Protocol);
    assert_eq!(bucket.requests().of(Kind::Get), gets + 6);
    // What tells one file from another is told in the same words everywhere.
    let head = bucket.head(NAME).await.unwrap();
    let body = bucket.get(NAME, 0..1).await.unwrap();
    let listed = &bucket.list("objects/ab/", 1).await.unwrap()[0];
    assert_eq!((head.bytes, body.total_bytes()), (10, 10));
    assert!(head.etag.is_some());
    assert_eq!(head.etag.as_deref(), body.etag());
    assert_eq!((&listed.name, listed.bytes), (&head.name, head.bytes));
    assert_eq!(listed.etag, head.etag);
}

async fn version(bucket: &Bucket, name: &str) -> Version {
    bucket.read_version(name).await.unwrap().1.unwrap()
}

async fn has_conditions(bucket: &Bucket) {
    let name = "marker";
    put(bucket, name, "1", PutMode::Create).await.unwrap();
    let again = put(bucket, name, "2", PutMode::Create).await;
    assert_eq!(kind(again), RemoteErrorKind::AlreadyExists);
    let first = version(bucket, name).await;
    put(bucket, name, "3", PutMode::Replace(first.clone()))
        .await
        .unwrap();
    assert_ne!(version(bucket, name).await, first);
    let late = put(bucket, name, "4", PutMode::Replace(first)).await;
    assert_eq!(kind(late), RemoteErrorKind::AlreadyExists);
    assert_eq!(&bucket.read(name).await.unwrap()[..], b"3");
}

async fn lists(bucket: &Bucket) {
    let names: Vec<String> = (0..12).map(|n| format!("list/{}/{n:02}", n % 3)).collect();
    for name in &names {
        put(bucket, name, "x", PutMode::Overwrite).await.unwrap();
    }
    let names: BTreeSet<String> = names.into_iter().collect();
    // In pages, from the begin and from behind each name.
    for after in [None].into_iter().chain(names.iter().map(Some)) {
        let after = after.map(String::as_str);
        let (mut next, mut found) = (None, Vec::new());
        for _ in 0..100 {
            let begin = after.filter(|_| next.is_none());
            let page = bucket.page("list/", false, begin, next, 5).await.unwrap();
            assert!(page.files.len() <= 5 && page.dirs.is_empty());
            found.extend(page.files.into_iter().map(|file| file.name));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let behind = |name: &&String| after.is_none_or(|after| name.as_str() > after);
        let wanted: Vec<&String> = names.iter().filter(behind).collect();
        assert!(found.iter().eq(wanted), "{after:?}: {found:?}");
    }
    let page = bucket.page("list/", true, None, None, 100).await.unwrap();
    assert_eq!(page.dirs, ["list/0/", "list/1/", "list/2/"]);
    assert!(page.files.is_empty() && page.next.is_none());
    assert_eq!(bucket.list("list/1/", 4).await.unwrap().len(), 4);
    assert_eq!(
        kind(bucket.list("list/1/", 3).await),
        RemoteErrorKind::Protocol
    );
    assert_eq!(bucket.list("nothing/", 3).await.unwrap(), []);
}

async fn writes_in_parts(bucket: &Bucket) {
    let name = "objects/ab/in-parts";
    let part = vec![1; Upload::PART_BYTES_MIN as usize];
    let mut upload = bucket.upload(name).await.unwrap();
    upload.part(1, Bytes::from_static(b"end")).await.unwrap();
    upload.part(0, part.clone().into()).await.unwrap();
    assert_eq!(kind(bucket.head(name).await), RemoteErrorKind::NotFound);
    upload.complete().await.unwrap();
    let bytes = bucket.head(name).await.unwrap().bytes;
    assert_eq!(bytes, Upload::PART_BYTES_MIN + 3);
    let end = bucket.read_part(name, bytes - 4..bytes).await.unwrap();
    assert_eq!(end, b"\x01end");
    // Who did not hear the answer asks again.
    upload.complete().await.unwrap();

    let given_up = "objects/ab/given-up";
    let mut upload = bucket.upload(given_up).await.unwrap();
    upload.part(0, part.into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(kind(bucket.head(given_up).await), RemoteErrorKind::NotFound);
}

async fn removes(bucket: &Bucket) {
    bucket.delete(NAME).await.unwrap();
    assert_eq!(kind(bucket.head(NAME).await), RemoteErrorKind::NotFound);
    // What is not there is removed already.
    bucket.delete(NAME).await.unwrap();
}

async fn says_what_is_wrong(bucket: &Bucket, no_bucket: &Bucket, denied: &Bucket) {
    let missing = bucket.read("nothing").await.unwrap_err();
    assert_eq!(missing.kind(), RemoteErrorKind::NotFound);
    // A code that says what is missing.
    let code = missing.reason().split_once("404 Not Found: ");
    assert!(
        code.is_some_and(|(_, code)| code.len() > 5 && !code.contains('<')),
        "{missing}"
    );
    let nowhere = no_bucket.read("x").await;
    assert_eq!(kind(nowhere), RemoteErrorKind::NotFound);
    let nowhere = put(no_bucket, "x", "x", PutMode::Overwrite).await;
    assert_eq!(kind(nowhere), RemoteErrorKind::NotFound);
    assert!(no_bucket.list("", 1).await.is_err());

    for result in [
        denied.read("x").await.map(drop),
        denied.head("x").await.map(drop),
        denied.list("", 1).await.map(drop),
        denied.delete("x").await,
        put(denied, "x", "x", PutMode::Create).await,
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), RemoteErrorKind::Denied, "{error}");
        assert!(!error.is_temporary());
        let text = format!("{error} {error:?}");
        for secret in ["SharedKey ", "Bearer ", "Signature=", "d3Jvbmc", "refused"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
