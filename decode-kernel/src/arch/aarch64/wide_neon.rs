//! GF(2^16), 32 elements at a time: `tbl` looks up what each half of a byte adds to a product.

#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::neon::Neon;
use crate::arch::grouped::Grouped;
use crate::arch::tables::WideNibbles;
use crate::arch::vector::{Vector, pass};

/// Sums of 2 outputs x 64 bytes and the halves of one input's bytes take 16 of the 32 registers.
const OUTPUTS_MAX: usize = 2;

impl Neon {
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
#[target_feature(enable = "neon")]
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

/// Adds up products: low bytes in the first two registers, high bytes in the others.
#[derive(Clone, Copy)]
struct Multiplier([uint8x16_t; 4]);

// SAFETY: loads and stores are of 4 x 16 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = WideNibbles;
    /// The contributions of each half-byte to the low bytes, and to the high bytes.
    type Table = [[uint8x16_t; 4]; 2];
    /// For the first 16 elements and the others: the halves of the low bytes, then of the high.
    type Operand = [[uint8x16_t; 4]; 2];
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has NEON, by the caller's promise.
        unsafe { Multiplier([vdupq_n_u8(0); 4]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [[uint8x16_t; 4]; 2] {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe {
            let halves = |bytes| [vandq_u8(bytes, vdupq_n_u8(0x0F)), vshrq_n_u8::<4>(bytes)];
            let elements = |from: *const u8| {
                let [a, b] = halves(vld1q_u8(from));
                let [c, d] = halves(vld1q_u8(from.add(32)));
                [a, b, c, d]
            };
            [elements(from), elements(from.add(16))]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 64 bytes are writable, by the caller's promise.
        unsafe {
            for (at, sum) in self.0.into_iter().enumerate() {
                vst1q_u8(to.add(16 * at), sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn table(entry: &WideNibbles) -> [[uint8x16_t; 4]; 2] {
        [&entry.low, &entry.high].map(|tables| {
            // SAFETY: a table is 16 bytes; the CPU has NEON, by the caller's promise.
            std::array::from_fn(|at| unsafe { vld1q_u8(tables[at].as_ptr()) })
        })
    }

    #[inline(always)]
    unsafe fn add(self, halves: [[uint8x16_t; 4]; 2], tables: [[uint8x16_t; 4]; 2]) -> Self {
        let mut sums = self.0;
        for (at, sum) in sums.iter_mut().enumerate() {
            // Sums 0 and 1 are of low bytes, 2 and 3 of high bytes; elements alternate.
            for (half, table) in halves[at % 2].into_iter().zip(tables[at / 2]) {
                // SAFETY: the CPU has NEON, by the caller's promise.
                *sum = unsafe { veorq_u8(*sum, vqtbl1q_u8(table, half)) };
            }
        }
        Multiplier(sums)
    }
}
