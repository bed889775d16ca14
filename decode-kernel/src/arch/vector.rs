//! The one loop that all SIMD back-ends run, over a small trait that each implements.
//!
//! A pass holds the sums of E outputs x N vectors in registers and runs over all inputs, so that
//! inputs are loaded once for E outputs and outputs are stored once.

#![allow(unsafe_code)]

/// A register of bytes that sums up products.
///
/// # Safety
///
/// `BYTES` is at most [`PART_BYTES`], and `load` and `store` touch that many bytes and no more.
/// All methods may only be called where the CPU has the implementing back-end's instructions;
/// where they take a pointer, `BYTES` bytes behind it must be readable (or writable), at any
/// alignment.
pub(super) unsafe trait Vector: Copy {
    /// The entry of one coefficient in the layout.
    type Entry: Copy;
    /// An entry, loaded.
    type Table: Copy;
    /// A vector of input, ready to be multiplied.
    type Operand: Copy;
    const BYTES: usize;

    /// All zero: an empty sum.
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const u8) -> Self::Operand;
    unsafe fn store(self, to: *mut u8);
    unsafe fn table(entry: &Self::Entry) -> Self::Table;
    /// The sum plus the operand times the table's coefficient.
    unsafe fn add(self, operand: Self::Operand, table: Self::Table) -> Self;
    /// The sum plus two products; some CPUs fold both at once.
    #[inline(always)]
    unsafe fn add_two(
        self,
        a: Self::Operand,
        ta: Self::Table,
        b: Self::Operand,
        tb: Self::Table,
    ) -> Self {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.add(a, ta).add(b, tb) }
    }
}

/// Room for part of a vector, of any back-end.
const PART_BYTES: usize = 64;

/// With at most this many inputs, each is prefetched one column ahead, which keeps the multiplier busy while data come
/// from the second-level cache (measured: 4 outputs of 10 inputs 8% faster, 6 of 12 15%). Columns of more inputs would
/// evict each other from the first-level cache.
const PREFETCH_INPUTS_MAX: usize = 24;
/// With more than this many inputs at the same offset within their pages, as blocks of shares are, columns would evict
/// each other too. They compete for the same set of the cache, whose sets are chosen by the offset within a page, and
/// which has eight ways on many CPUs. Measured on Zen 4 (AVX-512 and GFNI), 1 output of 10 and 16 such inputs: 65 to 76
/// and 61 GB/s with prefetching, 82 to 85 and 71 to 78 without. With 8, AVX-512 gains 4% without, AVX2 and GFNI lose
/// 10%.
const PREFETCH_SAME_OFFSET_MAX: usize = 8;

/// How many bytes ahead of the loads inputs are prefetched, with columns of `column` bytes.
fn prefetch_distance(inputs: &[&[u8]], column: usize) -> usize {
    /// The number of different offsets that a column of 256 bytes, the usual length, can have in a page of 4 KiB.
    const OFFSETS: usize = 16;
    let mut counts = [0; OFFSETS];
    for input in inputs.iter().take(PREFETCH_INPUTS_MAX) {
        counts[input.as_ptr().addr() / (4096 / OFFSETS) % OFFSETS] += 1;
    }
    let fits = inputs.len() <= PREFETCH_INPUTS_MAX
        && counts
            .iter()
            .all(|&count| count <= PREFETCH_SAME_OFFSET_MAX);
    if fits { column } else { 0 }
}

/// Prefetches the cache line at an address, which may be any.
#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    // On other CPUs the hardware prefetches by itself.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Sums `bytes` of all inputs into the E outputs, N vectors at a time.
///
/// # Safety
///
/// The CPU has V's instructions. `entries` has E entries per input, there are E outputs, and every
/// input and output reaches to the end of `bytes`.
#[inline(always)]
pub(super) unsafe fn pass<V: Vector, const E: usize, const N: usize>(
    entries: &[V::Entry],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    bytes: std::ops::Range<usize>,
) {
    debug_assert_eq!(entries.len(), inputs.len() * E);
    debug_assert_eq!(outputs.len(), E);
    debug_assert!(inputs.iter().all(|input| input.len() >= bytes.end));
    debug_assert!(outputs.iter().all(|output| output.len() >= bytes.end));
    let (mut at, to) = (bytes.start, bytes.end);
    let ahead = prefetch_distance(inputs, N * V::BYTES);
    // SAFETY: the caller's promise is passed on; each column ends at or before `to`.
    unsafe {
        while to - at >= N * V::BYTES {
            column::<V, E, N, false>(entries, inputs, outputs, at, V::BYTES, ahead);
            at += N * V::BYTES;
        }
        if N > 2 && to - at >= 2 * V::BYTES {
            column::<V, E, 2, false>(entries, inputs, outputs, at, V::BYTES, ahead);
            at += 2 * V::BYTES;
        }
        while to - at >= V::BYTES {
            column::<V, E, 1, false>(entries, inputs, outputs, at, V::BYTES, ahead);
            at += V::BYTES;
        }
        if at < to {
            column::<V, E, 1, true>(entries, inputs, outputs, at, to - at, 0);
        }
    }
}

/// One column of N vectors from `at`; or, where PART, of one vector that has only `part` bytes. The bytes `ahead` of
/// each load are prefetched.
///
/// # Safety
///
/// As for [`pass`], and every slice reaches `at` + N vectors (where PART, `at` + `part`).
#[inline(always)]
unsafe fn column<V: Vector, const E: usize, const N: usize, const PART: bool>(
    entries: &[V::Entry],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    at: usize,
    part: usize,
    ahead: usize,
) {
    // SAFETY: the slices reach past what is loaded here, by the caller's promise; a part is shorter
    // than a vector, so it fits into the room, from which a whole vector can be loaded.
    let load = |input: usize, n: usize| unsafe {
        let from = inputs.get_unchecked(input).as_ptr().add(at + n * V::BYTES);
        if PART {
            let mut room = [0u8; PART_BYTES];
            std::ptr::copy_nonoverlapping(from, room.as_mut_ptr(), part);
            V::load(room.as_ptr())
        } else {
            if N > 2 {
                prefetch(from.wrapping_add(ahead));
            }
            V::load(from)
        }
    };
    // SAFETY: there are E entries per input, and `input` is one of them.
    let table = |input: usize, e: usize| unsafe { V::table(entries.get_unchecked(input * E + e)) };

    // SAFETY: the CPU has the instructions, by the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); N]; E];
        let mut input = 0;
        while input + 2 <= inputs.len() {
            let a: [_; N] = std::array::from_fn(|n| load(input, n));
            let b: [_; N] = std::array::from_fn(|n| load(input + 1, n));
            for (e, sums) in sums.iter_mut().enumerate() {
                let (ta, tb) = (table(input, e), table(input + 1, e));
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add_two(a[n], ta, b[n], tb);
                }
            }
            input += 2;
        }
        if input < inputs.len() {
            let a: [_; N] = std::array::from_fn(|n| load(input, n));
            for (e, sums) in sums.iter_mut().enumerate() {
                let ta = table(input, e);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(a[n], ta);
                }
            }
        }
        for (e, sums) in sums.iter().enumerate() {
            let to = outputs.get_unchecked_mut(e).as_mut_ptr().add(at);
            for (n, sum) in sums.iter().enumerate() {
                if PART {
                    let mut room = [0u8; PART_BYTES];
                    sum.store(room.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(room.as_ptr(), to, part);
                } else {
                    sum.store(to.add(n * V::BYTES));
                }
            }
        }
    }
}
