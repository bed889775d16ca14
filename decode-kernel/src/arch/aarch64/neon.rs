//! 16 bytes at a time: `tbl` looks up the products of a byte's two halves.

#![allow(unsafe_code)]

use std::arch::aarch64::*;

use crate::arch::grouped::Grouped;
use crate::arch::tables::Nibbles;
use crate::arch::vector::{Vector, pass};

/// A value exists only where the CPU has NEON.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Neon(());

/// Sums of 4 outputs x 64 bytes take 16 of the 32 registers, the inputs' halves another 8.
const OUTPUTS_MAX: usize = 4;

impl Neon {
    pub(in crate::arch) fn detect() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    pub(in crate::arch) fn lay_out(
        self,
        inputs: usize,
        outputs: usize,
        coefficients: &[u8],
    ) -> Grouped<Nibbles> {
        Grouped::new(inputs, outputs, coefficients, OUTPUTS_MAX, Nibbles::new)
    }

    /// Applies a matrix. The slices are as many as its columns and rows, and of one length.
    pub(in crate::arch) fn apply(
        self,
        matrix: &Grouped<Nibbles>,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) {
        // SAFETY: `self` is the proof that the CPU has NEON. `Products::apply`, the only caller,
        // has checked the slices.
        unsafe { apply(matrix, inputs, outputs) }
    }
}

/// # Safety
///
/// The CPU has NEON; the slices fit the matrix and are of one length.
#[target_feature(enable = "neon")]
unsafe fn apply(matrix: &Grouped<Nibbles>, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    for step in matrix.steps(inputs[0].len()) {
        let outputs = &mut outputs[step.outputs];
        // SAFETY: the caller's promise; a step has an entry per input and output of its own, of
        // which there are as many as the arm's first number, and ends within the slices.
        unsafe {
            match outputs.len() {
                1 => pass::<Multiplier, 1, 4>(step.entries, inputs, outputs, step.bytes),
                2 => pass::<Multiplier, 2, 4>(step.entries, inputs, outputs, step.bytes),
                3 => pass::<Multiplier, 3, 4>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<Multiplier, 4, 4>(step.entries, inputs, outputs, step.bytes),
                wide => unreachable!("{wide} outputs in a group of at most {OUTPUTS_MAX}"),
            }
        }
    }
}

/// Adds up products.
#[derive(Clone, Copy)]
struct Multiplier(uint8x16_t);

// SAFETY: loads and stores are of 16 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = Nibbles;
    /// Products of low halves and of high halves.
    type Table = [uint8x16_t; 2];
    /// The low and high halves of each byte.
    type Operand = [uint8x16_t; 2];
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has NEON, by the caller's promise.
        unsafe { Multiplier(vdupq_n_u8(0)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [uint8x16_t; 2] {
        // SAFETY: 16 bytes are readable, by the caller's promise.
        unsafe {
            let bytes = vld1q_u8(from);
            [vandq_u8(bytes, vdupq_n_u8(0x0F)), vshrq_n_u8::<4>(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 16 bytes are writable, by the caller's promise.
        unsafe { vst1q_u8(to, self.0) }
    }

    #[inline(always)]
    unsafe fn table(entry: &Nibbles) -> [uint8x16_t; 2] {
        // SAFETY: each half is 16 bytes; the CPU has NEON, by the caller's promise.
        unsafe { [vld1q_u8(entry.low.as_ptr()), vld1q_u8(entry.high.as_ptr())] }
    }

    #[inline(always)]
    unsafe fn add(self, [low, high]: [uint8x16_t; 2], [of_low, of_high]: [uint8x16_t; 2]) -> Self {
        // SAFETY: the CPU has NEON, by the caller's promise.
        unsafe {
            let low = vqtbl1q_u8(of_low, low);
            let high = vqtbl1q_u8(of_high, high);
            Multiplier(veorq_u8(veorq_u8(self.0, low), high))
        }
    }
}
