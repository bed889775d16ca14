//! AES-128 by the AES instructions, on blocks of 16 bytes, 8 blocks interleaved.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use zeroize::Zeroizing;

/// A value exists only where the CPU has AES-NI and SSE4.1.
#[derive(Clone, Copy)]
pub(in crate::arch) struct AesNi(());

/// The expanded key: one round key before the first round and one for each of ten (FIPS 197,
/// section 5.2). It is overwritten when dropped.
pub(crate) struct RoundKeys(pub(super) Zeroizing<[[u8; 16]; 11]>);

/// Interleaved blocks: a round takes several cycles, in which rounds of other blocks can start.
const TURNS: usize = 8;

impl AesNi {
    pub(in crate::arch) fn detect() -> Option<AesNi> {
        let has = is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse4.1");
        has.then_some(AesNi(()))
    }

    pub(in crate::arch) fn expand(self, key: &[u8; 16]) -> RoundKeys {
        let mut keys = RoundKeys(Zeroizing::new([[0; 16]; 11]));
        // SAFETY: `self` is the proof that the CPU has the instructions.
        unsafe { expand(key, &mut keys.0) };
        keys
    }

    /// Adds the keystream from block number `first` on to `data`.
    pub(in crate::arch) fn apply(self, keys: &RoundKeys, first: u64, data: &mut [u8]) {
        // SAFETY: `self` is the proof that the CPU has the instructions.
        unsafe { apply(keys, first, data) }
    }
}

/// # Safety
///
/// The CPU has AES-NI and SSE4.1.
#[target_feature(enable = "aes,sse4.1")]
unsafe fn expand(key: &[u8; 16], keys: &mut [[u8; 16]; 11]) {
    // SAFETY: each pointer is of 16 bytes, and any alignment does.
    let mut last = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
    // The round's constant is part of the instruction.
    macro_rules! next {
        ($constant:literal) => {{
            let word = _mm_shuffle_epi32::<0xFF>(_mm_aeskeygenassist_si128::<$constant>(last));
            // Each word is added to all that follow it.
            last = _mm_xor_si128(last, _mm_slli_si128::<4>(last));
            last = _mm_xor_si128(last, _mm_slli_si128::<8>(last));
            last = _mm_xor_si128(last, word);
            last
        }};
    }
    let expanded = [
        last,
        next!(0x01),
        next!(0x02),
        next!(0x04),
        next!(0x08),
        next!(0x10),
        next!(0x20),
        next!(0x40),
        next!(0x80),
        next!(0x1B),
        next!(0x36),
    ];
    for (bytes, key) in keys.iter_mut().zip(expanded) {
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), key) };
    }
}

/// # Safety
///
/// The CPU has AES-NI and SSE4.1.
#[target_feature(enable = "aes,sse4.1")]
unsafe fn apply(keys: &RoundKeys, first: u64, data: &mut [u8]) {
    let keys = keys.0.map(|key| {
        // SAFETY: each key is of 16 bytes, and any alignment does.
        unsafe { _mm_loadu_si128(key.as_ptr().cast()) }
    });
    // The upper half of the counter is zero: byte offsets have 64 bits, so block numbers have
    // fewer.
    let mut number = first;
    let (groups, rest) = data.as_chunks_mut::<{ 16 * TURNS }>();
    for group in groups {
        // SAFETY: as for this function.
        let streams = unsafe { keystream::<TURNS>(&keys, number) };
        for (bytes, stream) in group.as_chunks_mut::<16>().0.iter_mut().zip(streams) {
            // SAFETY: a chunk is of 16 bytes, and any alignment does.
            unsafe {
                let sum = _mm_xor_si128(_mm_loadu_si128(bytes.as_ptr().cast()), stream);
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), sum);
            }
        }
        number += TURNS as u64;
    }
    for bytes in rest.chunks_mut(16) {
        // SAFETY: as for this function.
        let [stream] = unsafe { keystream::<1>(&keys, number) };
        let mut room = [0u8; 16];
        // SAFETY: the room is of 16 bytes, and any alignment does.
        unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), stream) };
        for (byte, stream) in bytes.iter_mut().zip(room) {
            *byte ^= stream;
        }
        number += 1;
    }
}

/// Blocks `number` and following.
///
/// # Safety
///
/// The CPU has AES-NI and SSE4.1.
#[inline]
#[target_feature(enable = "aes,sse4.1")]
unsafe fn keystream<const N: usize>(keys: &[__m128i; 11], number: u64) -> [__m128i; N] {
    let mut blocks = [keys[0]; N];
    for (block, number) in blocks.iter_mut().zip(number..) {
        // Big-endian: the low half comes last.
        let counter = _mm_set_epi64x(number.swap_bytes() as i64, 0);
        *block = _mm_xor_si128(*block, counter);
    }
    for key in &keys[1..10] {
        for block in &mut blocks {
            *block = _mm_aesenc_si128(*block, *key);
        }
    }
    blocks.map(|block| _mm_aesenclast_si128(block, keys[10]))
}
