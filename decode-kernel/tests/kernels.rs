//! Every kernel against multiplication by the book, at every small length and any alignment.

use std::process::Command;

use decode_kernel::arch::{AesKernel, KERNEL_VARIABLE, Kernel, KernelError, Products, ShaKernel};
use decode_kernel::code::Coder;
use proptest::prelude::*;

/// The judge: a product in GF(2^8) modulo 0x11D, bit by bit.
fn product(a: u8, b: u8) -> u8 {
    let sum = (0..8)
        .filter(|bit| b >> bit & 1 == 1)
        .fold(0u16, |sum, bit| sum ^ u16::from(a) << bit);
    let reduce = |x: u16, bit: u16| {
        if x >> bit & 1 == 1 {
            x ^ 0x11D << (bit - 8)
        } else {
            x
        }
    };
    (8..15).rev().fold(sum, reduce) as u8
}

/// The kernels to test; says which are not.
fn kernels() -> Vec<Kernel> {
    let kernel = |&name: &&'static str| match Kernel::named(name) {
        Ok(kernel) => Some(kernel),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    };
    Kernel::names().iter().filter_map(kernel).collect()
}

/// Applies `coefficients` to inputs cut from `bytes`, each at its own alignment, and holds every
/// output against the judge. What surrounds an output must stay as it was.
fn check(
    kernel: Kernel,
    inputs: usize,
    outputs: usize,
    coefficients: &[u8],
    len: usize,
    at: usize,
) {
    let bytes: Vec<u8> = (0..inputs * (len + 64) + 256)
        .map(|i| {
            (i as u64 + at as u64)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_be_bytes()[1]
        })
        .collect();
    let start = |i: usize| i * (len + 64) + (at + i * 7) % 64;
    let sources: Vec<&[u8]> = (0..inputs).map(|i| &bytes[start(i)..][..len]).collect();
    let mut room = vec![0xA5u8; outputs * (len + 128)];
    let margin = |o: usize| 1 + (at + o * 13) % 63;
    {
        let mut targets: Vec<&mut [u8]> = room
            .chunks_exact_mut(len + 128)
            .enumerate()
            .map(|(o, room)| &mut room[margin(o)..][..len])
            .collect();
        Products::new(kernel, inputs, outputs, coefficients).apply(&sources, &mut targets);
    }
    for (o, room) in room.chunks_exact(len + 128).enumerate() {
        let row = &coefficients[o * inputs..][..inputs];
        let (before, rest) = room.split_at(margin(o));
        let (output, after) = rest.split_at(len);
        let expected: Vec<u8> = (0..len)
            .map(|x| {
                row.iter()
                    .zip(&sources)
                    .fold(0, |sum, (&c, s)| sum ^ product(c, s[x]))
            })
            .collect();
        let name = kernel.name();
        assert!(
            output == expected,
            "{name}: {inputs} x {outputs}, {len} bytes, output {o}"
        );
        let untouched = before.iter().chain(after).all(|&byte| byte == 0xA5);
        assert!(
            untouched,
            "{name}: {inputs} x {outputs}, {len} bytes: wrote outside output {o}"
        );
    }
}

#[test]
fn every_length_up_to_1024() {
    let coefficients: Vec<u8> = (0..5 * 8).map(|i| (i * 41 + 3) as u8).collect();
    for kernel in kernels() {
        for len in 0..=1024 {
            // One output, an even and an odd number of inputs, and two groups of outputs.
            check(
                kernel,
                1 + len % 5,
                1,
                &coefficients[..1 + len % 5],
                len,
                len,
            );
            check(kernel, 3, 7, &coefficients[..21], len, len + 1);
        }
    }
}

#[test]
fn every_coefficient_times_every_byte() {
    let input: Vec<u8> = (0..=255).collect();
    for kernel in kernels() {
        for c in 0..=255 {
            let mut output = [0u8; 256];
            Products::new(kernel, 1, 1, &[c]).apply(&[&input], &mut [&mut output]);
            assert!(
                (0..=255).all(|x| output[usize::from(x)] == product(c, x)),
                "{}",
                kernel.name()
            );
        }
    }
}

#[test]
fn every_width() {
    let coefficients: Vec<u8> = (0..9 * 40).map(|i| (i * 89 + i / 256 + 5) as u8).collect();
    for kernel in kernels() {
        for outputs in 0..=40 {
            for inputs in [1, 2, 9] {
                check(
                    kernel,
                    inputs,
                    outputs,
                    &coefficients[..inputs * outputs],
                    777,
                    outputs,
                );
            }
        }
        // Ones take a path of their own in some kernels.
        for outputs in 1..=7 {
            check(kernel, 5, outputs, &[1; 35][..5 * outputs], 777, outputs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_matrix(
        (inputs, outputs) in (1usize..=256, 1usize..=20),
        seed in any::<u64>(),
        len in 0usize..3000,
        at in 0usize..64,
    ) {
        let coefficients: Vec<u8> = (0..(inputs * outputs) as u64)
            .map(|i| seed.wrapping_add(i).wrapping_mul(0xD134_2543_DE82_EF95).to_be_bytes()[0])
            .collect();
        for kernel in kernels() {
            check(kernel, inputs, outputs, &coefficients, len.min(60_000 / inputs), at);
        }
    }
}

#[test]
fn kernels_by_name() {
    for kernel in Kernel::available() {
        assert_eq!(Kernel::named(kernel.name()).unwrap().name(), kernel.name());
    }
    assert_eq!(Kernel::named("portable").unwrap().name(), "portable");
    assert_eq!(Kernel::available().last().unwrap().name(), "portable");
    let error = Kernel::named("sse9").unwrap_err();
    assert_eq!(
        error,
        KernelError::Unknown {
            name: "sse9".into()
        }
    );
    assert!(error.to_string().contains("avx2-gfni"), "{error}");
    // No CPU is both.
    let missing = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neon"
    };
    let error = Kernel::named(missing).unwrap_err();
    assert!(matches!(error, KernelError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("portable"), "{error}");
}

#[test]
fn other_arithmetic_goes_with_the_kernel() {
    // With the best goes all that there is; below, what a lesser CPU has.
    for kernel in Kernel::available().skip(1) {
        let names = [
            ShaKernel::with(kernel).name(),
            AesKernel::with(kernel).name(),
        ];
        println!("{}: {names:?}", kernel.name());
        match kernel.name() {
            "portable" => assert_eq!(names, ["portable"; 2]),
            _ => assert!(names.iter().all(|name| !name.contains("512")), "{names:?}"),
        }
    }
}

/// Says which kernel a coder gets; `the_environment_chooses` runs it in processes of their own.
#[test]
fn the_chosen_kernel_is_available() {
    let name = Coder::new(1).kernel_name();
    println!("chosen: {name}");
    assert!(Kernel::named(name).is_ok());
}

#[test]
fn the_environment_chooses() {
    let run = |name: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_chosen_kernel_is_available", "--nocapture"])
            .env(KERNEL_VARIABLE, name)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    for kernel in Kernel::available() {
        let (stdout, stderr) = run(kernel.name());
        assert!(
            stdout.contains(&format!("chosen: {}\n", kernel.name())),
            "{stdout}"
        );
        assert!(!stderr.contains("ignored"), "{stderr}");
    }
    let best = Kernel::available().next().unwrap().name();
    for (name, warned) in [("", false), ("sse9", true)] {
        let (stdout, stderr) = run(name);
        assert!(stdout.contains(&format!("chosen: {best}\n")), "{stdout}");
        assert_eq!(
            stderr.contains("PENSTOCK_KERNEL is ignored: no kernel is called"),
            warned
        );
    }
}
