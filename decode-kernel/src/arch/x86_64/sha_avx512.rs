//! SHA-256 of 16 messages in lockstep: `vprord` rotates, and `vpternlogd` computes any function of
//! three bits.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::arch::lockstep::{self, Words};
use crate::arch::sha_block::{Block, State};

/// A value exists only where the CPU has AVX-512F and AVX-512BW.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ShaAvx512(());

impl ShaAvx512 {
    /// Messages in lockstep.
    pub(in crate::arch) const LANES: usize = Sixteen::LANES;

    pub(in crate::arch) fn detect() -> Option<ShaAvx512> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        has.then_some(ShaAvx512(()))
    }

    /// Compresses messages of equal length, up to as many as there are lanes.
    pub(in crate::arch) fn compress(self, states: &mut [State], messages: &[&[Block]]) {
        // SAFETY: `self` is the proof that the CPU has the instructions. `ShaKernel::compress`, the
        // only caller, gives a message per state, all of one length, and no more than LANES.
        unsafe { compress(states, messages) }
    }
}

/// # Safety
///
/// As for [`lockstep::compress`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn compress(states: &mut [State], messages: &[&[Block]]) {
    // SAFETY: the caller's promise.
    unsafe { lockstep::compress::<Sixteen>(states, messages) }
}

/// A word of each of 16 messages.
#[derive(Clone, Copy)]
struct Sixteen(__m512i);

/// `vpternlogd`'s truth tables. In the index of a bit, A is bit 2, B is bit 1 and C is bit 0.
const XOR3: i32 = 0x96;
const CHOOSE: i32 = 0xCA;
const MAJORITY: i32 = 0xE8;

// SAFETY: loads and stores are of 16 words and take any alignment.
unsafe impl Words for Sixteen {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: 16 words are readable, by the caller's promise.
        unsafe { Sixteen(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: 16 words are writable, by the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn block(at: impl Fn(usize) -> *const u8) -> [Self; 16] {
        // SAFETY: 64 bytes are readable at each of 16 places, by the caller's promise.
        unsafe {
            let order = _mm512_broadcast_i32x4(_mm_setr_epi8(
                3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
            ));
            // Each row is one message. Transposing squares of 1, 2, 4 and 8 words turns rows into
            // columns; the halves of 16 bytes that belong together are joined first.
            let rows: [__m512i; 16] = std::array::from_fn(|lane| {
                _mm512_shuffle_epi8(_mm512_loadu_si512(at(lane).cast()), order)
            });
            let mut pairs = [_mm512_setzero_si512(); 16];
            for i in (0..16).step_by(2) {
                pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
            }
            // quads[4q + j]: of the rows 4q..4q + 4, words j, 4 + j, 8 + j and 12 + j.
            let mut quads = [_mm512_setzero_si512(); 16];
            for i in (0..16).step_by(4) {
                quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
                quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
                quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
                quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
            }
            let mut words = [Sixteen(_mm512_setzero_si512()); 16];
            for j in 0..4 {
                let low = _mm512_shuffle_i32x4::<0x88>(quads[j], quads[4 + j]);
                let high = _mm512_shuffle_i32x4::<0x88>(quads[8 + j], quads[12 + j]);
                words[j] = Sixteen(_mm512_shuffle_i32x4::<0x88>(low, high));
                words[8 + j] = Sixteen(_mm512_shuffle_i32x4::<0xDD>(low, high));
                let low = _mm512_shuffle_i32x4::<0xDD>(quads[j], quads[4 + j]);
                let high = _mm512_shuffle_i32x4::<0xDD>(quads[8 + j], quads[12 + j]);
                words[4 + j] = Sixteen(_mm512_shuffle_i32x4::<0x88>(low, high));
                words[12 + j] = Sixteen(_mm512_shuffle_i32x4::<0xDD>(low, high));
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise; also below.
        unsafe { Sixteen(_mm512_set1_epi32(word as i32)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn xor3(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_ternarylogic_epi32::<XOR3>(self.0, b.0, c.0)) }
    }

    #[inline(always)]
    unsafe fn choose(self, f: Self, g: Self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_ternarylogic_epi32::<CHOOSE>(self.0, f.0, g.0)) }
    }

    #[inline(always)]
    unsafe fn majority(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_ternarylogic_epi32::<MAJORITY>(self.0, b.0, c.0)) }
    }

    #[inline(always)]
    unsafe fn rotate<const R: i32, const L: i32>(self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_ror_epi32::<R>(self.0)) }
    }

    #[inline(always)]
    unsafe fn shift<const R: u32>(self) -> Self {
        // SAFETY: as above.
        unsafe { Sixteen(_mm512_srli_epi32::<R>(self.0)) }
    }
}
