//! SHA-256 by the SHA instructions, on up to 4 interleaved messages: `sha256rnds2` takes several
//! cycles, in which rounds of other messages can start.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::arch::sha_block::{Block, ROUND_CONSTANTS, State};

/// A value exists only where the CPU has the SHA extensions and SSE4.1.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ShaNi(());

impl ShaNi {
    /// The most interleaved messages.
    pub(in crate::arch) const STREAMS_MAX: usize = 4;

    pub(in crate::arch) fn detect() -> Option<ShaNi> {
        let has = is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1");
        has.then_some(ShaNi(()))
    }

    /// Compresses messages of equal length, up to STREAMS_MAX.
    pub(in crate::arch) fn compress(self, states: &mut [State], messages: &[&[Block]]) {
        // SAFETY: `self` is the proof that the CPU has the instructions. `ShaKernel::compress`, the
        // only caller, gives a message per state, all of one length.
        unsafe {
            match states.len() {
                1 => compress::<1>(states, messages),
                2 => compress::<2>(states, messages),
                3 => compress::<3>(states, messages),
                4 => compress::<4>(states, messages),
                many => unreachable!("{many} messages, of at most {}", Self::STREAMS_MAX),
            }
        }
    }
}

/// # Safety
///
/// The CPU has the instructions. There are N states and N messages, all messages of one length.
#[target_feature(enable = "sha,sse4.1")]
unsafe fn compress<const N: usize>(states: &mut [State], messages: &[&[Block]]) {
    debug_assert_eq!((states.len(), messages.len()), (N, N));
    debug_assert!(messages.iter().all(|m| m.len() == messages[0].len()));
    // SAFETY: there are N states of eight words and N messages, which reach to block number
    // `block`, by the caller's promise; loads and stores take any alignment.
    unsafe {
        let order = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
        // The instruction wants the words A, B, E, F in one register and C, D, G, H in another, the
        // first word highest.
        let mut abef = [_mm_setzero_si128(); N];
        let mut cdgh = abef;
        for n in 0..N {
            let state = states.get_unchecked(n).as_ptr();
            let cdab = _mm_shuffle_epi32::<0xB1>(_mm_loadu_si128(state.cast()));
            let efgh = _mm_shuffle_epi32::<0x1B>(_mm_loadu_si128(state.add(4).cast()));
            abef[n] = _mm_alignr_epi8::<8>(cdab, efgh);
            cdgh[n] = _mm_blend_epi16::<0xF0>(efgh, cdab);
        }
        for block in 0..messages[0].len() {
            let (abef_before, cdgh_before) = (abef, cdgh);
            let mut w = [[_mm_setzero_si128(); 4]; N];
            for (n, w) in w.iter_mut().enumerate() {
                let from: *const __m128i = messages.get_unchecked(n).as_ptr().add(block).cast();
                for (at, w) in w.iter_mut().enumerate() {
                    *w = _mm_shuffle_epi8(_mm_loadu_si128(from.add(at)), order);
                }
            }
            // Four rounds; then, unless they are the last sixteen, the four words that take the
            // place of those used up.
            macro_rules! four {
                ($k:expr, $i:literal, $last:literal) => {
                    let k = _mm_loadu_si128($k.as_ptr().add(4 * $i).cast());
                    for n in 0..N {
                        let wk = _mm_add_epi32(w[n][$i], k);
                        cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], wk);
                        let wk = _mm_shuffle_epi32::<0x0E>(wk);
                        abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], wk);
                        if !$last {
                            let [w0, w1] = [w[n][$i], w[n][($i + 1) % 4]];
                            let [w2, w3] = [w[n][($i + 2) % 4], w[n][($i + 3) % 4]];
                            let sum = _mm_sha256msg1_epu32(w0, w1);
                            let sum = _mm_add_epi32(sum, _mm_alignr_epi8::<4>(w3, w2));
                            w[n][$i] = _mm_sha256msg2_epu32(sum, w3);
                        }
                    }
                };
            }
            let [start @ .., last] = &ROUND_CONSTANTS;
            for k in start {
                four!(k, 0, false);
                four!(k, 1, false);
                four!(k, 2, false);
                four!(k, 3, false);
            }
            four!(last, 0, true);
            four!(last, 1, true);
            four!(last, 2, true);
            four!(last, 3, true);
            for n in 0..N {
                abef[n] = _mm_add_epi32(abef[n], abef_before[n]);
                cdgh[n] = _mm_add_epi32(cdgh[n], cdgh_before[n]);
            }
        }
        for n in 0..N {
            let feba = _mm_shuffle_epi32::<0x1B>(abef[n]);
            let dchg = _mm_shuffle_epi32::<0xB1>(cdgh[n]);
            let state = states.get_unchecked_mut(n).as_mut_ptr();
            _mm_storeu_si128(state.cast(), _mm_blend_epi16::<0xF0>(feba, dchg));
            _mm_storeu_si128(state.add(4).cast(), _mm_alignr_epi8::<8>(dchg, feba));
        }
    }
}
