//! 32 bytes at a time: `vgf2p8affineqb` multiplies by a bit matrix. For CPUs without AVX-512.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2::Adder;
use crate::arch::grouped::Grouped;
use crate::arch::tables::bit_matrix;
use crate::arch::vector::{Vector, pass};

/// A value exists only where the CPU has AVX2 and GFNI.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Avx2Gfni(());

/// Sums of 6 outputs x 64 bytes take 12 of the 16 registers.
const OUTPUTS_MAX: usize = 6;

impl Avx2Gfni {
    pub(in crate::arch) fn detect() -> Option<Avx2Gfni> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni");
        has.then_some(Avx2Gfni(()))
    }

    pub(in crate::arch) fn lay_out(
        self,
        inputs: usize,
        outputs: usize,
        coefficients: &[u8],
    ) -> Grouped<u64> {
        Grouped::new(inputs, outputs, coefficients, OUTPUTS_MAX, bit_matrix)
    }

    /// Applies a matrix. The slices are as many as its columns and rows, and of one length.
    pub(in crate::arch) fn apply(
        self,
        matrix: &Grouped<u64>,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) {
        // SAFETY: `self` is the proof that the CPU has the instructions. `Products::apply`, the only
        // caller, has checked the slices.
        unsafe {
            if matrix.ones() {
                apply::<Adder<u64>>(matrix, inputs, outputs);
            } else {
                apply::<Multiplier>(matrix, inputs, outputs);
            }
        }
    }
}

/// # Safety
///
/// The CPU has the instructions; the slices fit the matrix and are of one length.
#[target_feature(enable = "avx2,gfni")]
unsafe fn apply<V: Vector<Entry = u64>>(
    matrix: &Grouped<u64>,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
) {
    for step in matrix.steps(inputs[0].len()) {
        let outputs = &mut outputs[step.outputs];
        // SAFETY: the caller's promise; a step has an entry per input and output of its own, of
        // which there are as many as the arm's first number, and ends within the slices.
        unsafe {
            match outputs.len() {
                1 => pass::<V, 1, 4>(step.entries, inputs, outputs, step.bytes),
                2 => pass::<V, 2, 4>(step.entries, inputs, outputs, step.bytes),
                3 => pass::<V, 3, 3>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<V, 4, 2>(step.entries, inputs, outputs, step.bytes),
                5 => pass::<V, 5, 2>(step.entries, inputs, outputs, step.bytes),
                6 => pass::<V, 6, 2>(step.entries, inputs, outputs, step.bytes),
                wide => unreachable!("{wide} outputs in a group of at most {OUTPUTS_MAX}"),
            }
        }
    }
}

/// Adds up products.
#[derive(Clone, Copy)]
struct Multiplier(__m256i);

// SAFETY: loads and stores are of 32 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = u64;
    type Table = __m256i;
    type Operand = __m256i;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Multiplier(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: 32 bytes are readable, by the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 32 bytes are writable, by the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn table(entry: &u64) -> __m256i {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { _mm256_set1_epi64x(entry.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn add(self, operand: __m256i, table: __m256i) -> Self {
        // SAFETY: the CPU has AVX2 and GFNI, by the caller's promise.
        unsafe {
            let product = _mm256_gf2p8affine_epi64_epi8::<0>(operand, table);
            Multiplier(_mm256_xor_si256(self.0, product))
        }
    }
}
