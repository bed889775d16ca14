//! AES-128-CTR against known answers, from any byte on.

use decode_kernel::aes::Aes128Ctr;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keystreams of Tahoe-LAFS, which encrypts a whole file from counter zero on.
#[test]
fn known_answers() {
    let key = std::array::from_fn(|i| i as u8);
    let cipher = Aes128Ctr::new(&key);
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
        assert_eq!(hex(&data), keystream, "from byte {offset}");
    }
}

#[test]
fn debug_shows_no_key() {
    let cipher = Aes128Ctr::new(&[0xAB; 16]);
    assert_eq!(format!("{cipher:?}"), "Aes128Ctr { .. }");
}
