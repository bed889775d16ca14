//! 32 bytes at a time: `vpshufb` looks up the products of a byte's two halves.

#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::arch::grouped::Grouped;
use crate::arch::tables::Nibbles;
use crate::arch::vector::{Vector, pass};

/// A value exists only where the CPU has AVX2.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Avx2(());

/// Sums of 4 outputs x 64 bytes take 8 of the 16 registers, the inputs' halves another 4.
const OUTPUTS_MAX: usize = 4;

impl Avx2 {
    pub(in crate::arch) fn detect() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
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
        // SAFETY: `self` is the proof that the CPU has AVX2. `Products::apply`, the only caller,
        // has checked the slices.
        unsafe {
            if matrix.ones() {
                apply::<Adder<Nibbles>>(matrix, inputs, outputs);
            } else {
                apply::<Multiplier>(matrix, inputs, outputs);
            }
        }
    }
}

/// # Safety
///
/// The CPU has AVX2; the slices fit the matrix and are of one length.
#[target_feature(enable = "avx2")]
unsafe fn apply<V: Vector<Entry = Nibbles>>(
    matrix: &Grouped<Nibbles>,
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
                2 => pass::<V, 2, 2>(step.entries, inputs, outputs, step.bytes),
                3 => pass::<V, 3, 2>(step.entries, inputs, outputs, step.bytes),
                4 => pass::<V, 4, 2>(step.entries, inputs, outputs, step.bytes),
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
    type Entry = Nibbles;
    /// Products of low halves and of high halves, each in both halves of the register, because
    /// `vpshufb` looks up within 16 bytes.
    type Table = [__m256i; 2];
    /// The low and high halves of each byte.
    type Operand = [__m256i; 2];
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Multiplier(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [__m256i; 2] {
        // SAFETY: 32 bytes are readable, by the caller's promise.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            let mask = _mm256_set1_epi8(0x0F);
            // AVX2 has no shift of bytes; the mask removes the bits that cross over.
            let high = _mm256_srli_epi16::<4>(bytes);
            [_mm256_and_si256(bytes, mask), _mm256_and_si256(high, mask)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: 32 bytes are writable, by the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn table(entry: &Nibbles) -> [__m256i; 2] {
        [&entry.low, &entry.high].map(|half| {
            // SAFETY: `half` is 16 bytes; the CPU has AVX2, by the caller's promise.
            unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(half.as_ptr().cast())) }
        })
    }

    #[inline(always)]
    unsafe fn add(self, [low, high]: [__m256i; 2], [of_low, of_high]: [__m256i; 2]) -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe {
            let low = _mm256_shuffle_epi8(of_low, low);
            let high = _mm256_shuffle_epi8(of_high, high);
            Multiplier(_mm256_xor_si256(_mm256_xor_si256(self.0, low), high))
        }
    }
}

/// Sums up unmultiplied inputs, for matrices of ones. T is the layout's entry, which it ignores.
#[derive(Clone, Copy)]
pub(super) struct Adder<T>(__m256i, PhantomData<T>);

// SAFETY: loads and stores are of 32 bytes and take any alignment.
unsafe impl<T: Copy> Vector for Adder<T> {
    type Entry = T;
    type Table = ();
    type Operand = __m256i;
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Adder(_mm256_setzero_si256(), PhantomData) }
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
    unsafe fn table(_: &T) {}

    #[inline(always)]
    unsafe fn add(self, operand: __m256i, (): ()) -> Self {
        // SAFETY: the CPU has AVX2, by the caller's promise.
        unsafe { Adder(_mm256_xor_si256(self.0, operand), PhantomData) }
    }
}
