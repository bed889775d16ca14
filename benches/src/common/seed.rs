//! Bytes that look random and are the same in every run.

/// Fills `bytes` from `seed` (SplitMix64).
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let word = (z ^ (z >> 31)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    /// The first outputs of SplitMix64's reference implementation for seed 1234567.
    #[test]
    fn is_splitmix64() {
        let mut bytes = [0; 20];
        super::fill(&mut bytes, 1234567);
        let mut expected = 6_457_827_717_110_365_317_u64.to_le_bytes().to_vec();
        expected.extend(3_203_168_211_198_807_973_u64.to_le_bytes());
        expected.extend(&9_817_491_932_198_370_423_u64.to_le_bytes()[..4]);
        assert_eq!(bytes[..], expected);
    }
}
