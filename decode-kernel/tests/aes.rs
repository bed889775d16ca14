//! AES-128-CTR of every kernel against known answers and block-by-block encryption, from any byte on.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use decode_kernel::aes::Aes128Ctr;
use decode_kernel::arch::AesKernel;
use proptest::prelude::*;

/// The kernels to test; says which are not.
fn kernels() -> Vec<AesKernel> {
    let kernels: Vec<AesKernel> = AesKernel::available().collect();
    for name in ["vaes-512", "aes-ni"] {
        if kernels.iter().all(|kernel| kernel.name() != name) {
            println!("skipped: this CPU can't run `{name}`");
        }
    }
    kernels
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(text: &str) -> [u8; 16] {
    u128::from_str_radix(text, 16).unwrap().to_be_bytes()
}

/// The judge: adds the keystream to `data`, a block at a time, from byte `skip` of the block
/// numbered `counter` on.
fn judge(key: &[u8; 16], counter: u128, skip: usize, data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    for (at, byte) in (skip..).zip(data) {
        let mut block = (counter + at as u128 / 16).to_be_bytes().into();
        cipher.encrypt_block(&mut block);
        *byte ^= block[at % 16];
    }
}

/// Each kernel's keystream, added to the same bytes at several alignments.
fn check(key: &[u8; 16], offset: u64, len: usize) {
    let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + 7) as u8).collect();
    let mut expected = bytes.clone();
    let (counter, skip) = (u128::from(offset / 16), (offset % 16) as usize);
    judge(key, counter, skip, &mut expected);
    for kernel in kernels() {
        let mut room = vec![0xA5; len + 64];
        let margin = (len * 13 + skip) % 63;
        room[margin..][..len].copy_from_slice(&bytes);
        Aes128Ctr::with_kernel(key, kernel).apply(offset, &mut room[margin..][..len]);
        assert!(
            room[margin..][..len] == expected,
            "{kernel:?}: {len} bytes from {offset}"
        );
        let outside = room[..margin].iter().chain(&room[margin + len..]);
        assert!(
            outside.copied().all(|byte| byte == 0xA5),
            "{kernel:?}: wrote outside {len} bytes"
        );
    }
}

/// NIST SP 800-38A, section F.5.1. Its counter begins where no file's does, so the kernels are held
/// against this through the judge.
#[test]
fn the_judge_is_sp_800_38a() {
    let plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                 30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";
    let mut data: Vec<u8> = (0..64)
        .map(|i| u8::from_str_radix(&plain[2 * i..][..2], 16).unwrap())
        .collect();
    let counter = u128::from_be_bytes(key("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
    judge(
        &key("2b7e151628aed2a6abf7158809cf4f3c"),
        counter,
        0,
        &mut data,
    );
    assert_eq!(
        hex(&data),
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff\
         5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    );
}

/// NIST's AESAVS, KeySbox and VarKey: keys whose encryption of zero, the first block of keystream,
/// is published.
#[test]
fn published_keys() {
    for (name, block) in [
        (
            "10a58869d74be5a374cf867cfb473859",
            "6d251e6944b051e04eaa6fb4dbf78465",
        ),
        (
            "80000000000000000000000000000000",
            "0edd33d3c621e546455bd8ba1418bec8",
        ),
    ] {
        for kernel in kernels() {
            let mut data = [0; 16];
            Aes128Ctr::with_kernel(&key(name), kernel).apply(0, &mut data);
            assert_eq!(hex(&data), block, "{kernel:?}");
        }
    }
}

/// Keystreams of Tahoe-LAFS, which encrypts a whole file from counter zero on.
#[test]
fn known_answers() {
    for kernel in kernels() {
        let cipher = Aes128Ctr::with_kernel(&std::array::from_fn(|i| i as u8), kernel);
        for (offset, keystream) in [
            (0, "c6a13b37878f5b826f4f8162a1c8d87973461395"),
            (5, "8f5b826f4f8162a1c8d8797346139595c0b41e49"),
            (16, "7346139595c0b41e497bbde365f42d0a49d68753"),
            (4080, "39bbd9edf829063d5e7e702ebea40a381337d531"),
            // Past 2^32 blocks.
            (68_719_476_743, "72ab103951259ba14ad4826774d118c5351aa481"),
        ] {
            let mut data = [0; 20];
            cipher.apply(offset, &mut data);
            assert_eq!(hex(&data), keystream, "{kernel:?} from byte {offset}");
        }
    }
}

#[test]
fn every_length_up_to_1024() {
    let key = key("000102030405060708090a0b0c0d0e0f");
    for len in 0..=1024 {
        check(&key, (len * 5 % 37) as u64, len);
    }
}

#[test]
fn where_the_counter_carries() {
    let key = key("2b7e151628aed2a6abf7158809cf4f3c");
    for bits in [8, 16, 32, 36, 48, 56, 60, 63] {
        // The counter's byte carries in the middle of what is asked for.
        let edge = 1u64 << bits;
        for before in [1, 15, 16, 100, 513] {
            check(&key, edge - edge.min(before), 1100);
            check(&key, edge.saturating_mul(16) - before, 1100);
        }
    }
    // The last bytes that an offset reaches, and on.
    for before in [0, 1, 15, 16, 600] {
        check(&key, u64::MAX - before, 1100);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_range(key in any::<[u8; 16]>(), offset in any::<u64>(), len in 0usize..3000) {
        check(&key, offset, len);
    }
}

#[test]
fn debug_shows_no_key() {
    let cipher = Aes128Ctr::new(&[0xAB; 16]);
    assert_eq!(format!("{cipher:?}"), "Aes128Ctr { .. }");
}
