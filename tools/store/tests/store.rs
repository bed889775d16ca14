//! Finding and opening an object's shares in directories.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;

use decode_kernel::code::CodeKind;
use decode_kernel::share::{
    Digest, DigestAlgorithm, Generation, Geometry, Header, Key, LeafChecksum, Metadata, TablePage,
    object_dir, share_file_name,
};

use penstock_store::Store;
use penstock_store::ls::{Entry, Listed, LsOptions, ls};
use penstock_store::{NewStore, OpenError, OpenObject, fingerprint, init, look, open_object};

/// A share of a 1-byte object of 2+1, its one block all zeros.
fn share(key: &str, nanos: u64, number: u16) -> (Header, Vec<u8>) {
    let header = Header {
        key: Key::new(key).unwrap(),
        content_type: "text/plain".into(),
        geometry: Geometry::new(1, 2, 3, 4096, 4096).unwrap(),
        code: CodeKind::Rs8,
        number,
        leaf_checksum: LeafChecksum::Crc64Nvme,
        digest: Digest {
            algorithm: DigestAlgorithm::Sha256,
            bytes: [0; 32],
        },
        generation: Generation::new(nanos, [0; 8]),
        created: 1,
        metadata: Metadata::default(),
    };
    let sum = header.leaf_checksum.compute(&[0; 64]);
    let mut bytes = header.encode().to_vec();
    bytes.extend([0; 4096]);
    bytes.extend(TablePage::encode(&header.generation, number, 0, &[sum]));
    (header, bytes)
}

/// The directory, removed when dropped, and the stores in it.
struct Stores(#[expect(dead_code)] tempfile::TempDir, Vec<PathBuf>);

impl Stores {
    fn new(n: usize) -> Stores {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<_> = (0..n).map(|i| dir.path().join(i.to_string())).collect();
        let new = |path: &PathBuf| NewStore {
            store: path.as_path().into(),
            domain: None,
        };
        init(&stores.iter().map(new).collect::<Vec<_>>(), false).unwrap();
        Stores(dir, stores)
    }

    /// Writes a share of `key` into the directory of the key "a", so that a share of another object
    /// can be placed there.
    fn add(&self, store: usize, key: &str, nanos: u64, number: u16) -> PathBuf {
        let (header, bytes) = share(key, nanos, number);
        let dir = self.1[store]
            .join("objects")
            .join(object_dir(&Key::new("a").unwrap()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(share_file_name(&header.generation));
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self) -> Result<OpenObject, OpenError> {
        open_object(&Store::directories(&self.1), &Key::new("a").unwrap(), false)
    }
}

#[test]
fn the_newest_put_with_k_shares_is_opened() {
    let stores = Stores::new(3);
    assert!(matches!(
        stores.open(),
        Err(OpenError::NotFound { stores: 3, .. })
    ));
    stores.add(0, "a", 5, 0);
    let error = stores.open().unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::TooFew {
                have: 1,
                need: 2,
                ..
            }
        ),
        "{error}"
    );
    stores.add(2, "a", 5, 2);
    let object = stores.open().unwrap();
    let found: Vec<_> = object.shares.iter().map(|s| (s.number, s.store)).collect();
    assert_eq!(found, [(0, 0), (2, 2)]);
    // One share of a newer put is not enough. The older one doesn't take its place, unless it is allowed to.
    stores.add(1, "a", 6, 1);
    let error = stores.open().unwrap_err();
    assert!(
        matches!(error, OpenError::TooFew { older: true, .. }),
        "{error}"
    );
    let stale = open_object(
        &Store::directories(&stores.1),
        &Key::new("a").unwrap(),
        true,
    )
    .unwrap();
    assert_eq!(stale.header.generation.unix_nanos(), 5);
    stores.add(0, "a", 6, 0);
    let object = stores.open().unwrap();
    assert_eq!(
        (object.header.generation.unix_nanos(), object.header.number),
        (6, 0)
    );
}

#[test]
fn unusable_files_are_skipped_and_named() {
    let stores = Stores::new(4);
    stores.add(0, "a", 5, 0);
    stores.add(1, "b", 5, 1);
    stores.add(2, "a", 5, 0);
    let short = stores.add(3, "a", 5, 2);
    let len = fs::metadata(&short).unwrap().len();
    File::options()
        .write(true)
        .open(&short)
        .unwrap()
        .set_len(len - 1)
        .unwrap();
    let message = stores.open().unwrap_err().to_string();
    assert!(
        message.contains("1 good shares") && message.contains("2 are needed"),
        "{message}"
    );
    assert!(
        message.contains("a share of another object, \"b\""),
        "{message}"
    );
    assert!(message.contains(&format!("{}: the file is 12287 bytes", short.display())));
    fs::remove_dir_all(&stores.1[0]).unwrap();
    fs::remove_dir_all(&stores.1[2]).unwrap();
    let error = stores.open().unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
    assert!(
        error.to_string().contains("the store is missing"),
        "{error}"
    );
}

#[test]
fn a_fingerprint_changes_with_the_files() {
    let stores = Stores::new(2);
    let key = Key::new("a").unwrap();
    let ask = || fingerprint(&stores.1[0], &key).ok();
    let mut seen = vec![ask()];
    stores.add(0, "a", 5, 0);
    seen.push(ask());
    stores.add(0, "a", 6, 1);
    seen.push(ask());
    let look = look(0, &stores.1[0], &key);
    assert_eq!(Some(look.fingerprint()), seen[2]);
    fs::remove_dir_all(&stores.1[0]).unwrap();
    seen.push(ask());
    assert_eq!(seen[3], None);
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len());
}

#[test]
fn objects_are_listed_once() {
    let stores = Stores::new(3);
    stores.add(0, "a", 5, 0);
    stores.add(2, "a", 5, 2);
    let options = LsOptions {
        stores: Store::directories(&stores.1),
        ..LsOptions::default()
    };
    let listed = ls(&options).unwrap().objects;
    assert!(
        matches!(&listed[..], [Listed::Object(Entry { shares: 2, .. })]),
        "{listed:?}"
    );
}
