//! SHA-256d of every kernel against known answers and the crate `sha2`.

use std::collections::HashMap;

use decode_kernel::arch::{Kernel, ShaKernel};
use decode_kernel::sha256::{Hash, LANES_MAX, Lanes, sha256d};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// Every back-end by itself, and what is chosen with each kernel.
fn kernels() -> Vec<ShaKernel> {
    let alone: Vec<ShaKernel> = ShaKernel::available().collect();
    for name in ["avx512", "avx2", "sha-ni"] {
        if alone.iter().all(|kernel| kernel.name() != name) {
            println!("skipped: this CPU can't run `{name}`");
        }
    }
    let with = Kernel::available().map(ShaKernel::with);
    alone.into_iter().chain(with).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The judge: the crate, twice, on the whole message.
fn judge(message: &[u8]) -> Hash {
    Sha256::digest(Sha256::digest(message)).into()
}

/// Bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[2])
        .collect()
}

/// Messages cut from `bytes`, each at its own alignment and from its own place.
fn messages(bytes: &[u8], lanes: usize, len: usize, at: usize) -> Vec<&[u8]> {
    (0..lanes)
        .map(|lane| &bytes[lane * 67 + at..][..len])
        .collect()
}

/// What each message hashes to, asked once.
#[derive(Default)]
struct Judgements(HashMap<Vec<u8>, Hash>);

impl Judgements {
    fn of(&mut self, message: Vec<u8>) -> Hash {
        *self
            .0
            .entry(message)
            .or_insert_with_key(|message| judge(message))
    }
}

/// Feeds `messages`, each after `prefix`, in parts that end at `cuts`, and checks every hash.
fn check(
    lanes: &mut Lanes,
    prefix: &[u8],
    messages: &[&[u8]],
    cuts: &[usize],
    judgements: &mut Judgements,
    kernel: ShaKernel,
) {
    let len = messages[0].len();
    lanes.restart(messages.len(), prefix);
    let mut at = 0;
    for &cut in cuts.iter().chain([&len]) {
        let to = cut.clamp(at, len);
        let parts: Vec<&[u8]> = messages.iter().map(|message| &message[at..to]).collect();
        lanes.update(&parts);
        at = to;
    }
    let mut hashes = vec![Hash::default(); messages.len()];
    lanes.finish(&mut hashes);
    for (lane, (message, hash)) in messages.iter().zip(hashes).enumerate() {
        let expected = judgements.of([prefix, message].concat());
        let count = messages.len();
        assert!(
            hash == expected,
            "{kernel:?}: lane {lane} of {count}, {len} bytes, cut at {cuts:?}"
        );
    }
}

/// The messages of FIPS 180-4's examples (NIST's "SHA-256" example values, and a million times "a").
/// Their hashes are published; what those hash to is left to the judge.
#[test]
fn fips_180_4() {
    let a = vec![b'a'; 1_000_000];
    let examples: [(&[u8], &str); 3] = [
        (
            b"abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            &a,
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ];
    for (message, published) in examples {
        let once = Sha256::digest(message);
        assert_eq!(hex(&once), published);
        let expected: Hash = Sha256::digest(once).into();
        assert_eq!(sha256d(&[message]), expected);
        for kernel in kernels() {
            let mut lanes = Lanes::with_kernel(3, kernel);
            lanes.update(&[message; 3]);
            let mut hashes = [Hash::default(); 3];
            lanes.finish(&mut hashes);
            assert_eq!(hashes, [expected; 3], "{kernel:?}");
        }
    }
}

/// Messages and hashes published for SHA-256d: the empty one, "abc", and hashes by which Tahoe-LAFS
/// derives a storage index and the nodes of a tree (of tagged messages: a netstring comes first).
#[test]
fn known_answers() {
    let tag = b"43:allmydata_immutable_key_to_storage_index_v1,";
    let node = b"25:Merkle tree internal node,";
    let pair = [
        node.as_slice(),
        b"32:",
        &[0x11; 32],
        b",32:",
        &[0x22; 32],
        b",",
    ];
    let answers: [(&[&[u8]], &str); 4] = [
        (
            &[],
            "5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456",
        ),
        (
            &[b"abc"],
            "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358",
        ),
        (
            &[tag, &[0; 16]],
            "d2bc0abd2606c6776f324bbcd6aa7f6ff7b62a05e4f0a5879459b8ec0a222da2",
        ),
        (
            &pair,
            "4d727d908032c79af5d2b033c31b099462a10e248d430861c98443de0d6087aa",
        ),
    ];
    for (parts, hash) in answers {
        assert_eq!(hex(&sha256d(parts)), hash);
        for kernel in kernels() {
            let mut lanes = Lanes::with_kernel(1, kernel);
            for &part in parts {
                lanes.update(&[part]);
            }
            let mut hashes = [Hash::default()];
            lanes.finish(&mut hashes);
            assert_eq!(hex(&hashes[0]), hash, "{kernel:?}");
        }
    }
}

#[test]
fn parts_make_no_difference() {
    let message = noise(300);
    for len in 0..=300 {
        let expected = judge(&message[..len]);
        for cut in [0, 1, 55, 56, 63, 64, 65, 128, 200] {
            let (a, b) = message[..len].split_at(cut.min(len));
            assert_eq!(sha256d(&[a, b]), expected, "{len} bytes, cut at {cut}");
        }
    }
}

#[test]
fn every_length_up_to_1024() {
    let bytes = noise(40 * 67 + 2048);
    let mut judgements = Judgements::default();
    for kernel in kernels() {
        let mut lanes = Lanes::with_kernel(40, kernel);
        for len in 0..=1024 {
            // Groups of all sizes, whole and in part.
            for count in [1 + len % 5, 1 + len % 40] {
                let messages = messages(&bytes, count, len, len % 64);
                let cuts = [len * 7 % (len + 1), len * 3 % 200, len / 2];
                check(&mut lanes, b"", &messages, &cuts, &mut judgements, kernel);
            }
        }
    }
}

#[test]
fn every_count_of_lanes() {
    let bytes = noise(LANES_MAX * 67 + 2048);
    let mut judgements = Judgements::default();
    for kernel in kernels() {
        let mut lanes = Lanes::with_kernel(LANES_MAX, kernel);
        // The largest first: nothing of it may be left for the smaller.
        for count in [LANES_MAX].into_iter().chain(1..=40) {
            for len in [0, 1, 23, 24, 31, 32, 33, 64, 96, 127, 128, 777] {
                let messages = messages(&bytes, count, len, count % 64);
                for cuts in [&[][..], &[len / 3], &[1, 2, 66, 67]] {
                    let prefix = b"29:allmydata_encoded_subshare_v1,";
                    check(&mut lanes, prefix, &messages, cuts, &mut judgements, kernel);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parts(
        count in 1usize..=50,
        len in 0usize..3000,
        prefix in 0usize..200,
        at in 0usize..64,
        mut cuts in prop::collection::vec(0usize..3000, 0..6),
    ) {
        cuts.sort_unstable();
        let bytes = noise(50 * 67 + 4000);
        let mut judgements = Judgements::default();
        for kernel in kernels() {
            let mut lanes = Lanes::with_kernel(count, kernel);
            let messages = messages(&bytes, count, len, at);
            check(&mut lanes, &bytes[..prefix], &messages, &cuts, &mut judgements, kernel);
        }
    }
}

#[test]
fn finished_lanes_begin_anew() {
    for kernel in kernels() {
        let mut lanes = Lanes::with_kernel(2, kernel);
        let mut hashes = [Hash::default(); 2];
        lanes.update(&[b"one", b"two"]);
        lanes.finish(&mut hashes);
        lanes.update(&[b"three", b"seven"]);
        lanes.finish(&mut hashes);
        assert_eq!(hashes, [judge(b"three"), judge(b"seven")], "{kernel:?}");
        // What was begun is forgotten.
        lanes.update(&[b"x", b"y"]);
        lanes.restart(1, b"");
        assert_eq!(lanes.lanes(), 1);
        lanes.finish(&mut hashes[..1]);
        assert_eq!(hashes[0], judge(b""), "{kernel:?}");
    }
}

#[test]
#[should_panic(expected = "inputs of one length")]
fn unequal_inputs() {
    Lanes::new(2).update(&[b"long", b"short"]);
}

#[test]
#[should_panic(expected = "an input per lane")]
fn too_few_inputs() {
    Lanes::new(2).update(&[b"one"]);
}

#[test]
#[should_panic(expected = "3 lanes, with room for 2")]
fn more_lanes_than_room() {
    Lanes::new(2).restart(3, b"");
}
