//! The codes as their users see them: whatever is lost, any range of it comes back from any k
//! shares, and mistakes are refused with the numbers that disagree.

use decode_kernel::arch::Kernel;
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::{CodeError, Role};
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

/// All n shares of a segment whose data is a fixed scramble of its position.
fn shares(coder: &mut Coder, code: &Code, len: usize) -> Vec<Vec<u8>> {
    let scramble = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0];
    let mut all: Vec<Vec<u8>> = (0..code.k())
        .map(|j| (0..len).map(|i| scramble(j * len + i + 1)).collect())
        .chain((code.k()..code.n()).map(|_| vec![0xAA; len]))
        .collect();
    let (data, parity) = all.split_at_mut(code.k());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder
        .encode(code, &data, &mut parity)
        .expect("a good segment");
    all
}

/// Rebuilds `wanted` from `sources` over `range` and compares with the truth.
fn check(
    coder: &mut Coder,
    code: &Code,
    all: &[Vec<u8>],
    sources: &[usize],
    wanted: &[usize],
    range: std::ops::Range<usize>,
) {
    let inputs: Vec<&[u8]> = sources.iter().map(|&s| &all[s][range.clone()]).collect();
    let mut rebuilt = vec![vec![0x55; range.len()]; wanted.len()];
    let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
    coder
        .rebuild(code, sources, &inputs, wanted, &mut outputs)
        .expect("good arguments");
    for (&w, rebuilt) in wanted.iter().zip(&rebuilt) {
        let good = rebuilt[..] == all[w][range.clone()];
        assert!(
            good,
            "{code:?}: share {w} from {sources:?}, range {range:?}"
        );
    }
}

/// A coder for each kernel; says which are not tested. The last is portable, and for rs16 all the
/// crate's own arithmetic: what it encodes is the truth for the others.
fn coders(plans_max: usize) -> Vec<Coder> {
    let kernel = |&name: &&'static str| match Kernel::named(name) {
        Ok(kernel) => Some(Coder::with_kernel(plans_max, kernel)),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    };
    Kernel::names().iter().filter_map(kernel).collect()
}

/// Every choice of k sources of n, all others wanted, at a few ranges, by every kernel.
fn every_pattern(kind: CodeKind, k: usize, n: usize) {
    let code = Code::new(kind, k, n).unwrap();
    let mut coders = coders(8);
    let len = 5 * code.granularity();
    let all = shares(coders.last_mut().unwrap(), &code, len);
    for coder in &mut coders {
        assert!(
            shares(coder, &code, len) == all,
            "{code:?} by {}",
            coder.kernel_name()
        );
        every_pattern_of(coder, &code, &all);
    }
}

fn every_pattern_of(coder: &mut Coder, code: &Code, all: &[Vec<u8>]) {
    let (k, n, unit) = (code.k(), code.n(), code.granularity());
    for set in 0u32..1 << n {
        if set.count_ones() as usize != k {
            continue;
        }
        let (sources, wanted): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|number| set >> number & 1 == 1);
        for range in [0..5 * unit, unit..3 * unit, 4 * unit..5 * unit, unit..unit] {
            check(coder, code, all, &sources, &wanted, range);
        }
        // One at a time, from sources in another order.
        let reversed: Vec<usize> = sources.into_iter().rev().collect();
        for &w in &wanted {
            check(coder, code, all, &reversed, &[w], 0..5 * unit);
        }
    }
}

#[test]
fn rs8_every_pattern_of_small_codes() {
    for (k, n) in [
        (1, 1),
        (1, 4),
        (2, 4),
        (3, 10),
        (4, 6),
        (5, 9),
        (6, 6),
        (8, 11),
    ] {
        every_pattern(CodeKind::Rs8, k, n);
    }
}

#[test]
fn rs16_every_pattern_of_small_codes() {
    for (k, n) in [(1, 1), (1, 3), (2, 4), (3, 5), (4, 6), (3, 3)] {
        every_pattern(CodeKind::Rs16, k, n);
    }
}

/// A code of up to `n_max` shares, some k of its numbers in some order, and the ends of a range.
fn patterns(n_max: usize) -> impl Strategy<Value = (usize, usize, Vec<usize>, Index, Index)> {
    (1..=n_max)
        .prop_flat_map(|n| (1..=n, Just(n)))
        .prop_flat_map(|(k, n)| {
            let sources = subsequence((0..n).collect::<Vec<_>>(), k).prop_shuffle();
            (Just(k), Just(n), sources, any::<Index>(), any::<Index>())
        })
}

fn random_pattern(
    kind: CodeKind,
    units: usize,
    (k, n, sources, a, b): (usize, usize, Vec<usize>, Index, Index),
) {
    let code = Code::new(kind, k, n).unwrap();
    let mut coders = coders(2);
    let unit = code.granularity();
    let all = shares(coders.last_mut().unwrap(), &code, units * unit);
    let (a, b) = (a.index(units + 1), b.index(units + 1));
    let wanted: Vec<usize> = (0..n).filter(|number| !sources.contains(number)).collect();
    let range = a.min(b) * unit..a.max(b) * unit;
    let bound = code.workspace_bytes_max(units * unit, 2);
    for coder in &mut coders {
        check(coder, &code, &all, &sources, &wanted, range.clone());
        // Few, which kernels may do another way than many.
        let few = &wanted[wanted.len() - wanted.len().min(1 + k % 7)..];
        check(coder, &code, &all, &sources, few, range.clone());
        let held = coder.workspace_bytes();
        assert!(
            held <= bound,
            "{code:?} by {}: {held} of {bound} bytes",
            coder.kernel_name()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rs8_random_patterns(pattern in patterns(256)) {
        random_pattern(CodeKind::Rs8, 700, pattern);
    }

    #[test]
    fn rs16_random_patterns(pattern in patterns(600)) {
        random_pattern(CodeKind::Rs16, 4, pattern);
    }
}

#[test]
fn one_coder_serves_many_codes_within_its_bound() {
    let mut coder = Coder::new(3);
    let codes: Vec<Code> = [
        (CodeKind::Rs8, 4, 6),
        (CodeKind::Rs16, 4, 6),
        (CodeKind::Rs8, 10, 14),
    ]
    .map(|(kind, k, n)| Code::new(kind, k, n).unwrap())
    .into();
    let mut high = 0;
    for round in 0..4 {
        for code in &codes {
            let all = shares(&mut coder, code, 1024);
            for lost in 0..code.k() {
                let sources: Vec<usize> = (0..=code.k()).filter(|&s| s != lost).collect();
                check(&mut coder, code, &all, &sources, &[lost], 0..1024);
            }
        }
        // Dozens of patterns went by; what is held stays what three plans and one space take.
        let held = coder.workspace_bytes();
        assert!(held > 0);
        if round == 0 {
            high = held;
        }
        assert_eq!(held, high, "round {round}");
    }
}

#[test]
fn mistakes_are_refused_with_their_numbers() {
    let code = Code::new(CodeKind::Rs8, 2, 4).unwrap();
    let wide = Code::new(CodeKind::Rs16, 2, 4).unwrap();
    let mut coder = Coder::new(4);
    let block = [1u8; 64];
    let inputs: [&[u8]; 2] = [&block, &block];
    let mut rebuild = |code: &Code, sources: &[usize], inputs: &[&[u8]], wanted: &[usize], len| {
        let mut rebuilt = [[0xAAu8; 64]; 2];
        let [a, b] = &mut rebuilt;
        let mut outputs: [&mut [u8]; 2] = [&mut a[..len], &mut b[..64]];
        let used = wanted.len().min(2);
        let error = coder.rebuild(code, sources, inputs, wanted, &mut outputs[..used]);
        assert_eq!(rebuilt, [[0xAA; 64]; 2], "an error writes nothing");
        error.unwrap_err()
    };
    use CodeError::*;
    use Role::*;
    for code in [&code, &wide] {
        assert_eq!(
            rebuild(code, &[0], &inputs, &[1], 64),
            Sources { k: 2, got: 1 }
        );
        assert_eq!(
            rebuild(code, &[0, 0], &inputs, &[1], 64),
            Twice {
                role: Source,
                number: 0
            }
        );
        assert_eq!(
            rebuild(code, &[0, 1], &inputs, &[3, 3], 64),
            Twice {
                role: Wanted,
                number: 3
            }
        );
        assert_eq!(
            rebuild(code, &[0, 1], &inputs, &[1], 64),
            WantedIsSource { number: 1 }
        );
        for far in [4, usize::MAX] {
            let error = Number {
                role: Source,
                number: far,
                n: 4,
            };
            assert_eq!(rebuild(code, &[0, far], &inputs, &[1], 64), error);
            let error = Number {
                role: Wanted,
                number: far,
                n: 4,
            };
            assert_eq!(rebuild(code, &[0, 1], &inputs, &[far], 64), error);
        }
        let error = Slices {
            role: Source,
            expected: 2,
            got: 1,
        };
        assert_eq!(rebuild(code, &[0, 2], &inputs[..1], &[1], 64), error);
        let error = Slices {
            role: Wanted,
            expected: 3,
            got: 2,
        };
        let mut three = Coder::new(1);
        let mut outputs: [&mut [u8]; 0] = [];
        let got = three.rebuild(code, &[0, 1], &inputs, &[2, 3], &mut outputs);
        assert_eq!(
            got,
            Err(Slices {
                role: Wanted,
                expected: 2,
                got: 0
            })
        );
        assert_eq!(
            error.to_string(),
            "2 wanted slices given for 3 wanted shares"
        );
        let error = Length {
            role: Source,
            index: 1,
            expected: 64,
            got: 63,
        };
        assert_eq!(
            rebuild(code, &[0, 2], &[&block, &block[1..]], &[1], 64),
            error
        );
        let error = Length {
            role: Wanted,
            index: 0,
            expected: 64,
            got: 5,
        };
        assert_eq!(rebuild(code, &[0, 2], &inputs, &[1], 5), error);
    }
    let error = Granularity {
        got: 63,
        granularity: 64,
    };
    assert_eq!(
        rebuild(&wide, &[0, 2], &[&block[1..], &block[1..]], &[1], 63),
        error
    );
    assert_eq!(
        rebuild(&code, &[0, 7], &inputs, &[1], 64).to_string(),
        "source share 7 is out of range: the code has shares 0..4"
    );
}
