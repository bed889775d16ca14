//! SHA-256's rounds on many messages at once, over a small trait that each SIMD back-end implements. A register holds
//! word number i of every message, one message in each lane.

#![allow(unsafe_code)]

use super::sha_block::{Block, ROUND_CONSTANTS, State};

/// A register with a word of each of several messages.
///
/// # Safety
///
/// `LANES` is at most [`LANES_MAX`], and methods touch no memory but what is said here. All may only
/// be called where the CPU has the implementing back-end's instructions.
pub(super) unsafe trait Words: Copy {
    const LANES: usize;

    /// `LANES` words, read from any alignment.
    unsafe fn load(from: *const u32) -> Self;
    /// Writes `LANES` words, at any alignment.
    unsafe fn store(self, to: *mut u32);
    /// The sixteen words of each of `LANES` blocks, of which `at` points to the 64 bytes.
    unsafe fn block(at: impl Fn(usize) -> *const u8) -> [Self; 16];
    /// One word in all lanes.
    unsafe fn splat(word: u32) -> Self;
    /// The sum, modulo 2^32.
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn xor3(self, b: Self, c: Self) -> Self;
    /// Ch (FIPS 180-4, section 4.1.2): bits of `f` where `self` has ones, of `g` where it has zeros.
    unsafe fn choose(self, f: Self, g: Self) -> Self;
    /// Maj: each bit has the value of at least two of the three bits.
    unsafe fn majority(self, b: Self, c: Self) -> Self;
    /// Rotates right by R; L is 32 - R.
    unsafe fn rotate<const R: i32, const L: i32>(self) -> Self;
    /// Shifts right.
    unsafe fn shift<const R: u32>(self) -> Self;
}

/// The most lanes of any [`Words`].
const LANES_MAX: usize = 16;

/// Compresses the same number of blocks into each state. There may be fewer states than lanes; the spare lanes repeat
/// the last message.
///
/// # Safety
///
/// The CPU has W's instructions. There are 1 to `W::LANES` states, and as many messages, all of one
/// length.
#[inline(always)]
pub(super) unsafe fn compress<W: Words>(states: &mut [State], messages: &[&[Block]]) {
    debug_assert!((1..=W::LANES).contains(&states.len()));
    debug_assert_eq!(states.len(), messages.len());
    debug_assert!(messages.iter().all(|m| m.len() == messages[0].len()));
    let last = messages.len() - 1;
    let mut turned = [[0; LANES_MAX]; 8];
    for (lane, state) in states.iter().enumerate() {
        for (words, word) in turned.iter_mut().zip(state) {
            words[lane] = *word;
        }
    }
    // SAFETY: the CPU has the instructions, by the caller's promise. A row has room for LANES words,
    // and each message reaches to block number `block`.
    unsafe {
        let mut state = std::array::from_fn(|at| W::load(turned[at].as_ptr()));
        for block in 0..messages[0].len() {
            let words = W::block(|lane| {
                let message = messages.get_unchecked(lane.min(last));
                message.as_ptr().add(block).cast()
            });
            rounds(&mut state, words);
        }
        for (words, row) in state.iter().zip(&mut turned) {
            words.store(row.as_mut_ptr());
        }
    }
    for (lane, state) in states.iter_mut().enumerate() {
        for (words, word) in turned.iter().zip(state) {
            *word = words[lane];
        }
    }
}

/// One block of each lane (FIPS 180-4, section 6.2.2).
///
/// # Safety
///
/// The CPU has W's instructions.
#[inline(always)]
unsafe fn rounds<W: Words>(state: &mut [W; 8], mut w: [W; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // Sixteen rounds are written out, so that all words have names and can be registers.
    macro_rules! round {
        ($k:expr, $i:literal, $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {
            let t = $h.add(W::splat($k[$i])).add(w[$i]);
            let t = t.add($e.choose($f, $g)).add(W::xor3(
                $e.rotate::<6, 26>(),
                $e.rotate::<11, 21>(),
                $e.rotate::<25, 7>(),
            ));
            $d = $d.add(t);
            $h = t.add($a.majority($b, $c)).add(W::xor3(
                $a.rotate::<2, 30>(),
                $a.rotate::<13, 19>(),
                $a.rotate::<22, 10>(),
            ));
        };
    }
    macro_rules! schedule {
        ($i:literal) => {
            let (x, y) = (w[($i + 1) % 16], w[($i + 14) % 16]);
            let s0 = W::xor3(x.rotate::<7, 25>(), x.rotate::<18, 14>(), x.shift::<3>());
            let s1 = W::xor3(y.rotate::<17, 15>(), y.rotate::<19, 13>(), y.shift::<10>());
            w[$i] = w[$i].add(w[($i + 9) % 16]).add(s0).add(s1);
        };
    }
    macro_rules! sixteen {
        ($k:expr, $each:ident) => {
            $each!(0);
            round!($k, 0, a b c d e f g h);
            $each!(1);
            round!($k, 1, h a b c d e f g);
            $each!(2);
            round!($k, 2, g h a b c d e f);
            $each!(3);
            round!($k, 3, f g h a b c d e);
            $each!(4);
            round!($k, 4, e f g h a b c d);
            $each!(5);
            round!($k, 5, d e f g h a b c);
            $each!(6);
            round!($k, 6, c d e f g h a b);
            $each!(7);
            round!($k, 7, b c d e f g h a);
            $each!(8);
            round!($k, 8, a b c d e f g h);
            $each!(9);
            round!($k, 9, h a b c d e f g);
            $each!(10);
            round!($k, 10, g h a b c d e f);
            $each!(11);
            round!($k, 11, f g h a b c d e);
            $each!(12);
            round!($k, 12, e f g h a b c d);
            $each!(13);
            round!($k, 13, d e f g h a b c);
            $each!(14);
            round!($k, 14, c d e f g h a b);
            $each!(15);
            round!($k, 15, b c d e f g h a);
        };
    }
    macro_rules! nothing {
        ($i:literal) => {};
    }
    let (first, rest) = ROUND_CONSTANTS.split_at(1);
    // SAFETY: the CPU has the instructions, by the caller's promise.
    unsafe {
        sixteen!(first[0], nothing);
        for k in rest {
            sixteen!(k, schedule);
        }
        for (sum, word) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.add(word);
        }
    }
}
