//! The limit set by the multiplying instruction: the bytes of products that `vgf2p8affineqb` can
//! make in a second from registers alone. No kernel that uses it can rebuild e blocks faster than
//! one e-th of that.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Products in flight: more than the instruction's latency times its rate.
const CHAINS: usize = 16;

/// Bytes of products that one [`round`] makes.
pub(crate) const ROUND_BYTES: usize = 64 * CHAINS * STEPS;

const STEPS: usize = 512;

/// Whether this CPU has the instruction at 64 bytes.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Makes [`ROUND_BYTES`] of products. Returns a word that depends on all of them.
pub(crate) fn round(seed: u64) -> u64 {
    assert!(available(), "asked for on a CPU without the instruction");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the CPU has the instructions, as asserted above.
    return unsafe { products(seed) };
    #[cfg(not(target_arch = "x86_64"))]
    return seed;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,gfni")]
fn products(seed: u64) -> u64 {
    let matrix = _mm512_set1_epi64(seed.cast_signed());
    let mut chains: [__m512i; CHAINS] =
        std::array::from_fn(|i| _mm512_set1_epi64(seed.cast_signed() ^ i as i64));
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = _mm512_gf2p8affine_epi64_epi8::<0>(*chain, matrix);
        }
    }
    let sum = chains
        .into_iter()
        .fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, b));
    fold(sum)
}

/// The XOR of a register's words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fold(sum: __m512i) -> u64 {
    let mut words = [0u64; 8];
    // SAFETY: 64 bytes are written to 64 bytes of room, at any alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), sum) };
    words.into_iter().fold(0, |a, b| a ^ b)
}
