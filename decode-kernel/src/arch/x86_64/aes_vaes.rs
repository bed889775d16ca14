//! AES-128 on four blocks of 16 bytes per register, eight registers interleaved.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::aes_ni::{AesNi, RoundKeys};

/// A value exists only where the CPU has VAES, AVX-512F, AVX-512BW and AES-NI.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Vaes(AesNi);

/// Interleaved registers: a round takes several cycles, in which rounds of others can start.
const TURNS: usize = 8;

/// Bytes of a register.
const BYTES: usize = 64;

impl Vaes {
    pub(in crate::arch) fn detect() -> Option<Vaes> {
        let has = is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        Some(Vaes(AesNi::detect().filter(|_| has)?))
    }

    /// The back-end that expands keys.
    pub(in crate::arch) fn narrow(self) -> AesNi {
        self.0
    }

    /// Adds the keystream from block number `first` on to `data`.
    pub(in crate::arch) fn apply(self, keys: &RoundKeys, first: u64, data: &mut [u8]) {
        // SAFETY: `self` is the proof that the CPU has the instructions.
        unsafe { apply(keys, first, data) }
    }
}

/// # Safety
///
/// The CPU has VAES, AVX-512F and AVX-512BW.
#[target_feature(enable = "vaes,avx512f,avx512bw")]
unsafe fn apply(keys: &RoundKeys, first: u64, data: &mut [u8]) {
    let keys = keys.0.map(|key| {
        // SAFETY: each key is of 16 bytes, and any alignment does.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) })
    });
    // The numbers of four blocks, little-endian. The upper halves stay zero: byte offsets have 64 bits, so block
    // numbers have fewer.
    let places = _mm512_setr_epi64(0, 0, 0, 1, 0, 2, 0, 3);
    let next = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    let mut numbers = _mm512_add_epi64(places, _mm512_maskz_set1_epi64(0b1010_1010, first as i64));
    let (groups, rest) = data.as_chunks_mut::<{ BYTES * TURNS }>();
    for group in groups {
        let mut counters = [numbers; TURNS];
        for counter in &mut counters {
            *counter = numbers;
            numbers = _mm512_add_epi64(numbers, next);
        }
        // SAFETY: as for this function.
        let streams = unsafe { keystream(&keys, counters) };
        for (bytes, stream) in group.as_chunks_mut::<BYTES>().0.iter_mut().zip(streams) {
            // SAFETY: a chunk is of 64 bytes, and any alignment does.
            unsafe {
                let sum = _mm512_xor_si512(_mm512_loadu_si512(bytes.as_ptr().cast()), stream);
                _mm512_storeu_si512(bytes.as_mut_ptr().cast(), sum);
            }
        }
    }
    for bytes in rest.chunks_mut(BYTES) {
        // SAFETY: as for this function.
        let [stream] = unsafe { keystream(&keys, [numbers]) };
        numbers = _mm512_add_epi64(numbers, next);
        // A chunk has 1 to 64 bytes.
        let mask = u64::MAX >> (BYTES - bytes.len());
        // SAFETY: the bytes under the mask are the chunk's, and any alignment does.
        unsafe {
            let from = _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast());
            let sum = _mm512_xor_si512(from, stream);
            _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, sum);
        }
    }
}

/// The blocks of these numbers.
///
/// # Safety
///
/// The CPU has VAES, AVX-512F and AVX-512BW.
#[inline]
#[target_feature(enable = "vaes,avx512f,avx512bw")]
unsafe fn keystream<const N: usize>(keys: &[__m512i; 11], numbers: [__m512i; N]) -> [__m512i; N] {
    // Big-endian: the low half comes last, its bytes reversed.
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 15, 14, 13, 12, 11, 10, 9, 8,
    ));
    let mut blocks =
        numbers.map(|numbers| _mm512_xor_si512(_mm512_shuffle_epi8(numbers, order), keys[0]));
    for key in &keys[1..10] {
        for block in &mut blocks {
            *block = _mm512_aesenc_epi128(*block, *key);
        }
    }
    blocks.map(|block| _mm512_aesenclast_epi128(block, keys[10]))
}
