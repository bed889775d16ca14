//! SHA-256 of 8 messages in lockstep.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::arch::lockstep::{self, Words};
use crate::arch::sha_block::{Block, State};

/// A value exists only where the CPU has AVX2.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ShaAvx2(());

impl ShaAvx2 {
    /// Messages in lockstep.
    pub(in crate::arch) const LANES: usize = Eight::LANES;

    pub(in crate::arch) fn detect() -> Option<ShaAvx2> {
        is_x86_feature_detected!("avx2").then_some(ShaAvx2(()))
    }

    /// Compresses messages of equal length, up to as many as there are lanes.
    pub(in crate::arch) fn compress(self, states: &mut [State], messages: &[&[Block]]) {
        // SAFETY: `self` is the proof that the CPU has AVX2. `ShaKernel::compress`, the only caller,
        // gives a message per state, all of one length, and no more than LANES.
        unsafe { compress(states, messages) }
    }
}

/// # Safety
///
/// As for [`lockstep::compress`].
#[target_feature(enable = "avx2")]
unsafe fn compress(states: &mut [State], messages: &[&[Block]]) {
    // SAFETY: the caller's promise.
    unsafe { lockstep::compress::<Eight>(states, messages) }
}

/// A word of each of 8 messages.
#[derive(Clone, Copy)]
struct Eight(__m256i);

// SAFETY: loads and stores are of 8 words and take any alignment.
unsafe impl Words for Eight {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: 8 words are readable, by the caller's promise.
        unsafe { Eight(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: 8 words are writable, by the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn block(at: impl Fn(usize) -> *const u8) -> [Self; 16] {
        // SAFETY: 64 bytes are readable at each of 8 places, by the caller's promise.
        unsafe {
            let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
            ));
            let mut words = [Eight(_mm256_setzero_si256()); 16];
            // A row is half a block of one message. Transposing squares of 1, 2 and 4 words turns rows into columns.
            for half in [0, 8] {
                let rows: [__m256i; 8] = std::array::from_fn(|lane| {
                    let row = _mm256_loadu_si256(at(lane).add(4 * half).cast());
                    _mm256_shuffle_epi8(row, order)
                });
                for q in [0, 2] {
                    // Words q and q + 1 of each half of 16 bytes, in fours of lanes.
                    let pair = |i: usize| match q {
                        0 => _mm256_unpacklo_epi32(rows[i], rows[i + 1]),
                        _ => _mm256_unpackhi_epi32(rows[i], rows[i + 1]),
                    };
                    let [p0, p2, p4, p6] = [pair(0), pair(2), pair(4), pair(6)];
                    let low = [_mm256_unpacklo_epi64(p0, p2), _mm256_unpackhi_epi64(p0, p2)];
                    let high = [_mm256_unpacklo_epi64(p4, p6), _mm256_unpackhi_epi64(p4, p6)];
                    for j in 0..2 {
                        let at = half + q + j;
                        words[at] = Eight(_mm256_permute2x128_si256::<0x20>(low[j], high[j]));
                        words[at + 4] = Eight(_mm256_permute2x128_si256::<0x31>(low[j], high[j]));
                    }
                }
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise; also below.
        unsafe { Eight(_mm256_set1_epi32(word as i32)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Eight(_mm256_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn xor3(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { Eight(_mm256_xor_si256(_mm256_xor_si256(self.0, b.0), c.0)) }
    }

    #[inline(always)]
    unsafe fn choose(self, f: Self, g: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let differs = _mm256_and_si256(self.0, _mm256_xor_si256(f.0, g.0));
            Eight(_mm256_xor_si256(g.0, differs))
        }
    }

    #[inline(always)]
    unsafe fn majority(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let both = _mm256_and_si256(self.0, b.0);
            let any = _mm256_or_si256(self.0, b.0);
            Eight(_mm256_or_si256(both, _mm256_and_si256(any, c.0)))
        }
    }

    #[inline(always)]
    unsafe fn rotate<const R: i32, const L: i32>(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (
                _mm256_srli_epi32::<R>(self.0),
                _mm256_slli_epi32::<L>(self.0),
            );
            Eight(_mm256_or_si256(low, high))
        }
    }

    #[inline(always)]
    unsafe fn shift<const R: u32>(self) -> Self {
        // SAFETY: as above. (The count is a constant, whatever the instruction's form.)
        unsafe { Eight(_mm256_srl_epi32(self.0, _mm_cvtsi32_si128(R as i32))) }
    }
}
