//! GF(2^16), 32 elements at a time: `vpshufb` looks up what each half of a byte adds to a product.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx2::Avx2;
use crate::arch::grouped::Grouped;
use crate::arch::tables::WideNibbles;
use crate::arch::vector::{Vector, pass};

/// Sums of 2 outputs x 64 bytes and the halves of one input's bytes take 8 of the 16 registers.
const OUTPUTS_MAX: usize = 2;

impl Avx2 {
    pub(in crate::arch) fn lay_out_wide(
        self,
        inputs: usize,
        outputs: usize,
        coefficients: &[u16],
    ) -> Grouped<WideNibbles> {
        Grouped::new(inputs, outputs, coefficients, OUTPUTS_MAX, WideNibbles::new)
    }

    /// Applies a matrix. The slices are as many as its columns and rows, and of one length, a
    /// multiple of 64.
    pub(in crate::arch) fn apply_wide(
        self,
        matrix: &Grouped<WideNibbles>,
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
#[target_feature(enable = "avx2")]
unsafe fn apply(matrix: &Grouped<WideNibbles>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    for step in matrix.steps(inputs[0].len()) {
        let outputs = &mut outputs[step.outputs];
        // SAFETY: the caller's promise; a step has an entry per input and output of its own, of
        // which there are as many as the arm's first number, and ends within the slices.
        unsafe {
            match outputs.len() {
                1 => pass::<Multiplier, 1, 1>(step.entries, inputs, outputs, step.bytes),
                2 => pass::<Multiplier, 2, 1>(step.entries, inputs, outputs, step.bytes),
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
    type Entry = WideNibbles;
    /// The contributions of each half-byte to the low bytes, and to the high bytes.
    type Table = [[__m256i; 4]; 2];
    /// The halves of the low bytes, then of the high bytes.
    type Operand = [__m256i; 4];
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Multiplier([_mm256_setzero_si256(); 2]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [__m256i; 4] {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe {
            let mask = _mm256_set1_epi8(0x0F);
            // AVX2 has no shift of bytes; the mask removes the bits that cross over.
            let halves = |bytes| {
                let high = _mm256_srli_epi16::<4>(bytes);
                [_mm256_and_si256(bytes, mask), _mm256_and_si256(high, mask)]
            };
            let [a, b] = halves(_mm256_loadu_si256(from.cast()));
            let [c, d] = halves(_mm256_loadu_si256(from.add(32).cast()));
            [a, b, c, d]
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
    unsafe fn table(entry: &WideNibbles) -> [[__m256i; 4]; 2] {
        [&entry.low, &entry.high].map(|tables| {
            std::array::from_fn(|at| {
                // SAFETY: a table is 16 bytes; the CPU has AVX2, by the caller's promise.
                unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(tables[at].as_ptr().cast())) }
            })
        })
    }

    #[inline(always)]
    unsafe fn add(self, halves: [__m256i; 4], tables: [[__m256i; 4]; 2]) -> Self {
        let mut sums = self.0;
        for (sum, tables) in sums.iter_mut().zip(tables) {
            for (half, table) in halves.into_iter().zip(tables) {
                // SAFETY: the CPU has AVX2, by the caller's promise.
                *sum = unsafe { _mm256_xor_si256(*sum, _mm256_shuffle_epi8(table, half)) };
            }
        }
        Multiplier(sums)
    }
}
