//! GF(2^16), 32 elements at a time: low bytes in one register, high bytes in another.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2_gfni::Avx2Gfni;
use crate::arch::grouped::Grouped;
use crate::arch::tables::WideMatrix;
use crate::arch::vector::{Vector, pass};

/// Sums of 4 outputs x 64 bytes take 8 of the 16 registers.
const OUTPUTS_MAX: usize = 4;

impl Avx2Gfni {
    pub(in crate::arch) fn lay_out_wide(
        self,
        inputs: usize,
        outputs: usize,
        coefficients: &[u16],
    ) -> Grouped<WideMatrix> {
        Grouped::new(inputs, outputs, coefficients, OUTPUTS_MAX, WideMatrix::new)
    }

    /// Applies a matrix. The slices are as many as its columns and rows, and of one length, a
    /// multiple of 64.
    pub(in crate::arch) fn apply_wide(
        self,
        matrix: &Grouped<WideMatrix>,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) {
        // SAFETY: `self` is the proof that the CPU has the instructions. `WideProducts::apply`, the
        // only caller, has checked the slices.
        unsafe { apply(matrix, inputs, outputs) }
    }
}

/// # Safety
///
/// The CPU has the instructions; the slices fit the matrix and are of one length.
#[target_feature(enable = "avx2,gfni")]
unsafe fn apply(matrix: &Grouped<WideMatrix>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    for step in matrix.steps(inputs[0].len()) {
        let outputs = &mut outputs[step.outputs];
        // SAFETY: the caller's promise; a step has an entry per input and output of its own, of
        // which there are as many as the arm's first number, and ends within the slices.
        unsafe {
            match outputs.len() {
                1 => pass::<Multiplier, 1, 2>(step.entries, inputs, outputs, step.bytes),
                2 => pass::<Multiplier, 2, 2>(step.entries, inputs, outputs, step.bytes),
                3 => pass::<Multiplier, 3, 1>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<Multiplier, 4, 1>(step.entries, inputs, outputs, step.bytes),
                wide => unreachable!("{wide} outputs in a group of at most {OUTPUTS_MAX}"),
            }
        }
    }
}

/// Adds up products: low bytes and high bytes.
#[derive(Clone, Copy)]
struct Multiplier([__m256i; 2]);

// SAFETY: loads and stores are of 2 x 32 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = WideMatrix;
    /// The contributions of the low bytes to low and high bytes, then those of the high bytes.
    type Table = [__m256i; 4];
    /// Low bytes and high bytes.
    type Operand = [__m256i; 2];
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Multiplier([_mm256_setzero_si256(); 2]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [__m256i; 2] {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe {
            [
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 64 bytes are writable, by the caller's promise.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0[0]);
            _mm256_storeu_si256(to.add(32).cast(), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn table(entry: &WideMatrix) -> [__m256i; 4] {
        [
            entry.low_from_low,
            entry.high_from_low,
            entry.low_from_high,
            entry.high_from_high,
        ]
        .map(
            // SAFETY: the CPU has AVX2, by the caller's promise.
            |matrix| unsafe { _mm256_set1_epi64x(matrix.cast_signed()) },
        )
    }

    #[inline(always)]
    unsafe fn add(self, [low, high]: [__m256i; 2], [ll, hl, lh, hh]: [__m256i; 4]) -> Self {
        let sum = |sum, of_low, of_high| {
            // SAFETY: the CPU has AVX2 and GFNI, by the caller's promise.
            unsafe {
                let a = _mm256_gf2p8affine_epi64_epi8::<0>(low, of_low);
                let b = _mm256_gf2p8affine_epi64_epi8::<0>(high, of_high);
                _mm256_xor_si256(_mm256_xor_si256(sum, a), b)
            }
        };
        Multiplier([sum(self.0[0], ll, lh), sum(self.0[1], hl, hh)])
    }
}
