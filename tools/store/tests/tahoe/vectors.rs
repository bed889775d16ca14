//! Files of a real grid, uploaded by Tahoe-LAFS 1.20, and some by an independent writer. A few of
//! them are in `tests/data/tahoe`; PENSTOCK_TAHOE_VECTORS names a directory with all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use decode_kernel::tahoe::{Cap, ChkCap};
use penstock_store::tahoe::write::{Upload, content};
use penstock_store::tahoe::{Limits, Reader, open};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::common::{get_bytes, get_in_all_ways, link_node, options, subsets};

#[derive(Deserialize)]
struct Vectors {
    files: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    cap: String,
    size: u64,
    seed: String,
    sha256: String,
    plaintext_hex: Option<String>,
    k: Option<u16>,
    n: Option<u16>,
    segment_size: Option<u64>,
    storage_index: Option<String>,
    #[serde(default)]
    shares: BTreeMap<String, Vec<u16>>,
    #[serde(default)]
    ranges: Vec<(u64, u64, String)>,
}

impl Vector {
    fn cap(&self) -> Cap {
        Cap::parse(&self.cap).unwrap()
    }

    fn chk(&self) -> ChkCap {
        match self.cap() {
            Cap::Chk(cap) => cap,
            Cap::Lit(_) => panic!("{} is literal", self.name),
        }
    }

    /// The file's bytes, as the vectors' description makes them.
    fn plaintext(&self) -> Vec<u8> {
        if let Some(hex) = &self.plaintext_hex {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            return (0..hex.len()).step_by(2).map(byte).collect();
        }
        let mut bytes = Vec::new();
        for block in 0..self.size.div_ceil(32) {
            let mut sha = Sha256::new();
            sha.update(format!("chk-test-vector/1:{}:", self.seed));
            sha.update(block.to_be_bytes());
            bytes.extend(sha.finalize());
        }
        bytes.truncate(self.size as usize);
        bytes
    }

    /// The paths of its shares, by number.
    fn shares(&self, root: &Path) -> BTreeMap<u16, PathBuf> {
        let Some(storage_index) = &self.storage_index else {
            return BTreeMap::new();
        };
        let mut shares = BTreeMap::new();
        for (node, numbers) in &self.shares {
            let dir = root.join("nodes").join(node).join("storage/shares");
            let dir = dir.join(&storage_index[..2]).join(storage_index);
            shares.extend(
                numbers
                    .iter()
                    .map(|number| (*number, dir.join(number.to_string()))),
            );
        }
        shares
    }
}

fn load(root: &Path) -> (Vec<Vector>, Vec<PathBuf>) {
    let text = fs::read_to_string(root.join("vectors.json")).unwrap();
    let vectors: Vectors = serde_json::from_str(&text).unwrap();
    let mut nodes: Vec<PathBuf> = fs::read_dir(root.join("nodes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    nodes.sort();
    (vectors.files, nodes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads all files whole and by all ranges, from all shares and from sets of k of them, including
/// the sets with the fewest data shares.
fn check_all(root: &Path) {
    let (vectors, nodes) = load(root);
    assert!(vectors.len() >= 10 && nodes.len() >= 3);
    let scratch = tempfile::tempdir().unwrap();
    for vector in &vectors {
        let plaintext = vector.plaintext();
        assert_eq!(
            hex(&Sha256::digest(&plaintext)),
            vector.sha256,
            "{}",
            vector.name
        );
        let options = options(&nodes, &vector.cap());
        let got = get_bytes(&options).unwrap();
        assert!(got == plaintext, "{}", vector.name);
        for (first, last, sha256) in &vector.ranges {
            let mut options = options.clone();
            options.range = Some(*first..*last + 1);
            let got = get_bytes(&options).unwrap();
            assert_eq!(
                hex(&Sha256::digest(&got)),
                *sha256,
                "{} {first}-{last}",
                vector.name
            );
        }
        let Cap::Chk(cap) = vector.cap() else {
            continue;
        };
        assert!(
            get_in_all_ways(&nodes, &cap).unwrap() == plaintext,
            "{}",
            vector.name
        );
        let shares = vector.shares(root);
        let mut sets = subsets(shares.len() as u16, vector.k.unwrap());
        // Hundreds of sets of large files take minutes, so only the first, the last and some
        // between are used.
        let step = (sets.len() * plaintext.len()).div_ceil(8 << 20).max(1);
        sets.reverse();
        for set in sets.iter().step_by(step) {
            let all: Vec<(u16, &Path)> = shares.iter().map(|(n, path)| (*n, &**path)).collect();
            let some: Vec<_> = set.iter().map(|&index| all[usize::from(index)]).collect();
            let name = format!("{} {set:?}", vector.name);
            let node = link_node(scratch.path(), &name, cap.storage_index(), &some);
            assert!(
                get_in_all_ways(&[node], &cap).unwrap() == plaintext,
                "{name}"
            );
        }
    }
    println!("{} files read", vectors.len());
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tahoe")
}

#[test]
fn files_of_a_real_grid() {
    check_all(&fixtures());
}

#[test]
fn all_vectors() {
    match std::env::var_os("PENSTOCK_TAHOE_VECTORS") {
        Some(root) => check_all(Path::new(&root)),
        None => println!("skipped: PENSTOCK_TAHOE_VECTORS names no directory of test vectors"),
    }
}

/// The test writer's shares are the same as Tahoe's, byte for byte, apart from leases and the order
/// of the entries in a share hash chain.
#[test]
fn the_test_writer_writes_as_tahoe_does() {
    let root = fixtures();
    let scratch = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for vector in load(&root).0.iter().filter(|vector| vector.k.is_some()) {
        let cap = vector.chk();
        let upload = Upload {
            key: *cap.key(),
            k: vector.k.unwrap(),
            n: vector.n.unwrap(),
            segment_bytes: vector.segment_size.unwrap(),
            container: if vector.name == "v1-container" { 1 } else { 2 },
            layout: if vector.name == "v2-layout" { 2 } else { 1 },
            leases: 0,
            ..Upload::default()
        };
        let plaintext = vector.plaintext();
        let place = |_, number: u16| Some(scratch.path().join(format!("{} {number}", vector.name)));
        assert_eq!(
            upload
                .write(vector.size, &content(&plaintext), &place)
                .unwrap(),
            cap
        );
        for (number, path) in vector.shares(&root) {
            let made = fs::read(place(cap.storage_index(), number).unwrap()).unwrap();
            let real = fs::read(&path).unwrap();
            // The chain is sorted. The offsets are the same in both, or the rest differs.
            let offset = |at: usize| u32::from_be_bytes(real[at..at + 4].try_into().unwrap());
            let (chain, ueb) = if upload.layout == 1 {
                (0x1c, 0x20)
            } else {
                (0x38, 0x40)
            };
            let (chain, ueb) = (
                12 + offset(12 + chain) as usize,
                12 + offset(12 + ueb) as usize,
            );
            let sorted = |share: &[u8]| {
                let mut share = share.to_vec();
                let mut entries: Vec<Vec<u8>> =
                    share[chain..ueb].chunks(34).map(<[u8]>::to_vec).collect();
                entries.sort();
                share[chain..ueb].copy_from_slice(&entries.concat());
                // The number of leases.
                share[8..12].fill(0);
                share
            };
            assert!(real.len() >= made.len(), "{}", path.display());
            let (made, real) = (sorted(&made), sorted(&real[..made.len()]));
            let differs = made.iter().zip(&real).position(|(made, real)| made != real);
            assert_eq!(differs, None, "first different byte of {}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared} shares compared");
}

/// No message has the key or the whole cap in it.
#[test]
fn no_message_has_a_cap() {
    let root = fixtures();
    let (vectors, nodes) = load(&root);
    for vector in vectors.iter().filter(|vector| vector.k.is_some()) {
        let cap = vector.chk();
        let key = vector.cap.split(':').nth(2).unwrap();
        let file = open(&nodes, &cap, &Limits::default()).unwrap();
        let limits = Limits {
            segment_max: 10,
            ..Limits::default()
        };
        let refused = open(&nodes, &cap, &limits).unwrap_err();
        let missing = open(&nodes[..0], &cap, &limits).unwrap_err();
        for shown in [
            format!(
                "{cap:?} {file:?} {file} {:?}",
                options(&nodes, &vector.cap())
            ),
            format!("{refused} {refused:?} {missing} {missing:?}"),
            format!("{:?}", Reader::new(file).file()),
        ] {
            assert!(
                !shown.contains(key) && !shown.contains(&vector.cap),
                "{shown}"
            );
            let bytes = format!("{:?}", cap.key());
            assert!(!shown.contains(&bytes), "{shown}");
        }
    }
}
