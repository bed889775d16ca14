//! GF(2^16), 32 elements at a time: a register holds their low bytes and their high bytes, and is
//! multiplied once as it is and once with its halves swapped.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx512_gfni::Avx512Gfni;
use crate::arch::grouped::Grouped;
use crate::arch::tables::WideMatrix;
use crate::arch::vector::{Vector, pass};

/// Sums of 6 outputs x 128 bytes take 12 of the 32 registers, inputs and their swapped twins 8.
const OUTPUTS_MAX: usize = 6;

impl Avx512Gfni {
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
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn apply(matrix: &Grouped<WideMatrix>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    for step in matrix.steps(inputs[0].len()) {
        let outputs = &mut outputs[step.outputs];
        // SAFETY: the caller's promise; a step has an entry per input and output of its own, of
        // which there are as many as the arm's first number, and ends within the slices.
        unsafe {
            match outputs.len() {
                1 => pass::<Multiplier, 1, 4>(step.entries, inputs, outputs, step.bytes),
                2 => pass::<Multiplier, 2, 4>(step.entries, inputs, outputs, step.bytes),
                3 => pass::<Multiplier, 3, 3>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<Multiplier, 4, 3>(step.entries, inputs, outputs, step.bytes),
                5 => pass::<Multiplier, 5, 2>(step.entries, inputs, outputs, step.bytes),
                6 => pass::<Multiplier, 6, 2>(step.entries, inputs, outputs, step.bytes),
                wide => unreachable!("{wide} outputs in a group of at most {OUTPUTS_MAX}"),
            }
        }
    }
}

/// Adds up products: low bytes below, high bytes above.
#[derive(Clone, Copy)]
struct Multiplier(__m512i);

/// `vpternlogq`'s truth table of a XOR b XOR c.
const XOR3: i32 = 0x96;

/// The register's upper half, as a mask of its words.
const UPPER: u8 = 0xF0;

// SAFETY: loads and stores are of 64 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = WideMatrix;
    /// For the register as it is (low from low, high from high), and for the swapped one (low from
    /// high, high from low).
    type Table = [__m512i; 2];
    /// The register as it is, and with its halves swapped.
    type Operand = [__m512i; 2];
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { Multiplier(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [__m512i; 2] {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            [bytes, _mm512_shuffle_i64x2::<0b01_00_11_10>(bytes, bytes)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 64 bytes are writable, by the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn table(entry: &WideMatrix) -> [__m512i; 2] {
        let halves = |lower: u64, upper: u64| {
            // SAFETY: the CPU has AVX-512F, by the caller's promise.
            unsafe {
                let lower = _mm512_set1_epi64(lower.cast_signed());
                _mm512_mask_set1_epi64(lower, UPPER, upper.cast_signed())
            }
        };
        [
            halves(entry.low_from_low, entry.high_from_high),
            halves(entry.low_from_high, entry.high_from_low),
        ]
    }

    #[inline(always)]
    unsafe fn add(self, [bytes, swapped]: [__m512i; 2], [same, other]: [__m512i; 2]) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI, by the caller's promise.
        unsafe {
            let a = _mm512_gf2p8affine_epi64_epi8::<0>(bytes, same);
            let b = _mm512_gf2p8affine_epi64_epi8::<0>(swapped, other);
            Multiplier(_mm512_ternarylogic_epi64::<XOR3>(self.0, a, b))
        }
    }
}
