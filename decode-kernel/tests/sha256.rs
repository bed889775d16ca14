//! SHA-256d, in lanes and alone, against known answers and the crate `sha2`.

use decode_kernel::sha256::{Hash, LANES_MAX, Lanes, sha256d};
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The judge: the crate, twice, on the whole message.
fn judge(message: &[u8]) -> Hash {
    Sha256::digest(Sha256::digest(message)).into()
}

/// Bytes without a pattern, different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| {
            (seed << 32 | i)
                .wrapping_add(1)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_be_bytes()[2]
        })
        .collect()
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
    }
}

#[test]
fn parts_make_no_difference() {
    let message = noise(1, 300);
    for len in 0..=300 {
        let expected = judge(&message[..len]);
        for cut in [0, 1, 55, 56, 63, 64, 65, 128, 200] {
            let (a, b) = message[..len].split_at(cut.min(len));
            assert_eq!(sha256d(&[a, b]), expected, "{len} bytes, cut at {cut}");
        }
    }
}

#[test]
fn lanes_agree_with_the_crate() {
    let mut lanes = Lanes::new(LANES_MAX);
    for count in [1, 2, 3, 17, LANES_MAX] {
        for len in [0, 1, 63, 64, 65, 1000] {
            let messages: Vec<Vec<u8>> = (0..count).map(|lane| noise(lane as u64, len)).collect();
            lanes.restart(count, b"prefix");
            for cut in [0..len / 3, len / 3..len] {
                let parts: Vec<&[u8]> = messages.iter().map(|m| &m[cut.clone()]).collect();
                lanes.update(&parts);
            }
            let mut hashes = vec![Hash::default(); count];
            lanes.finish(&mut hashes);
            for (message, hash) in messages.iter().zip(hashes) {
                assert_eq!(hash, judge(&[b"prefix", message.as_slice()].concat()));
            }
        }
    }
}
