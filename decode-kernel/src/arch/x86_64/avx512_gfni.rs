//! 64 bytes at a time: `vgf2p8affineqb` multiplies by a bit matrix, and `vpternlogq` adds two
//! products to a sum at once.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::arch::grouped::Grouped;
use crate::arch::tables::bit_matrix;
use crate::arch::vector::{Vector, pass};

/// A value exists only where the CPU has AVX-512F, AVX-512BW and GFNI.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Avx512Gfni(());

/// Sums of 6 outputs x 256 bytes fill 24 of the 32 registers.
const OUTPUTS_MAX: usize = 6;

impl Avx512Gfni {
    pub(in crate::arch) fn detect() -> Option<Avx512Gfni> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni");
        has.then_some(Avx512Gfni(()))
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
                apply::<Adder>(matrix, inputs, outputs);
            } else {
                apply::<Multiplier>(matrix, inputs, outputs);
            }
        }
    }
}

/// # Safety
///
/// The CPU has the instructions; the slices fit the matrix and are of one length.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
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
                3 => pass::<V, 3, 4>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<V, 4, 4>(step.entries, inputs, outputs, step.bytes),
                5 => pass::<V, 5, 4>(step.entries, inputs, outputs, step.bytes),
                6 => pass::<V, 6, 3>(step.entries, inputs, outputs, step.bytes),
                wide => unreachable!("{wide} outputs in a group of at most {OUTPUTS_MAX}"),
            }
        }
    }
}

/// Adds up products.
#[derive(Clone, Copy)]
struct Multiplier(__m512i);

/// Sums up unmultiplied inputs, for matrices of ones.
#[derive(Clone, Copy)]
struct Adder(__m512i);

/// `vpternlogq`'s truth table of a XOR b XOR c.
const XOR3: i32 = 0x96;

// SAFETY: loads and stores are of 64 bytes and take any alignment.
unsafe impl Vector for Multiplier {
    type Entry = u64;
    type Table = __m512i;
    type Operand = __m512i;
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { Multiplier(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 64 bytes are writable, by the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn table(entry: &u64) -> __m512i {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { _mm512_set1_epi64(entry.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn add(self, operand: __m512i, table: __m512i) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI, by the caller's promise.
        unsafe {
            let product = _mm512_gf2p8affine_epi64_epi8::<0>(operand, table);
            Multiplier(_mm512_xor_si512(self.0, product))
        }
    }

    #[inline(always)]
    unsafe fn add_two(self, a: __m512i, ta: __m512i, b: __m512i, tb: __m512i) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI, by the caller's promise.
        unsafe {
            let a = _mm512_gf2p8affine_epi64_epi8::<0>(a, ta);
            let b = _mm512_gf2p8affine_epi64_epi8::<0>(b, tb);
            Multiplier(_mm512_ternarylogic_epi64::<XOR3>(self.0, a, b))
        }
    }
}

// SAFETY: loads and stores are those of `Multiplier`.
unsafe impl Vector for Adder {
    type Entry = u64;
    type Table = ();
    type Operand = __m512i;
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { Adder(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: 64 bytes are readable, by the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 64 bytes are writable, by the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn table(_: &u64) {}

    #[inline(always)]
    unsafe fn add(self, operand: __m512i, (): ()) -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { Adder(_mm512_xor_si512(self.0, operand)) }
    }

    #[inline(always)]
    unsafe fn add_two(self, a: __m512i, (): (), b: __m512i, (): ()) -> Self {
        // SAFETY: the CPU has AVX-512F, by the caller's promise.
        unsafe { Adder(_mm512_ternarylogic_epi64::<XOR3>(self.0, a, b)) }
    }
}
