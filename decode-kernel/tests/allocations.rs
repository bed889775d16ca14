//! Once an erasure pattern has been seen, calls allocate nothing, whatever code and kernel; nor do
//! hashes and ciphers once they are made.

use decode_kernel::aes::Aes128Ctr;
use decode_kernel::arch::{AesKernel, Kernel, ShaKernel};
use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::sha256::{Lanes, sha256d};

#[test]
fn a_pattern_seen_before_allocates_nothing() {
    for kernel in Kernel::available() {
        // Codes with few losses and with so many that rs16 is left to the crate.
        for (kind, k, n) in [
            (CodeKind::Rs8, 10, 14),
            (CodeKind::Rs16, 10, 14),
            (CodeKind::Rs16, 50, 100),
        ] {
            let code = Code::new(kind, k, n).unwrap();
            let mut coder = Coder::with_kernel(4, kernel);
            let data = vec![vec![7u8; 8192]; k];
            let mut parity = vec![vec![0u8; 8192]; n - k];
            let mut rebuilt = vec![vec![0u8; 8192]; n - k];

            let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            coder.encode(&code, &data, &mut outputs).unwrap();
            let again = allocation_counter::measure(|| {
                coder.encode(&code, &data, &mut outputs).unwrap();
            });
            assert_eq!(
                again.count_total,
                0,
                "encoding {code:?} by {}",
                kernel.name()
            );

            let lost = k.min(n - k);
            let sources: Vec<usize> = (lost..k + lost).collect();
            let wanted: Vec<usize> = (0..lost).collect();
            let inputs: Vec<&[u8]> = data[lost..]
                .iter()
                .copied()
                .chain(parity[..lost].iter().map(Vec::as_slice))
                .collect();
            let mut outputs: Vec<&mut [u8]> =
                rebuilt[..lost].iter_mut().map(Vec::as_mut_slice).collect();
            coder
                .rebuild(&code, &sources, &inputs, &wanted, &mut outputs)
                .unwrap();
            // Shorter ranges fit where longer ones did.
            for len in [8192, 64, 4096, 8192] {
                let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[..len]).collect();
                let mut outputs: Vec<&mut [u8]> = outputs
                    .iter_mut()
                    .map(|output| &mut output[..len])
                    .collect();
                let again = allocation_counter::measure(|| {
                    coder
                        .rebuild(&code, &sources, &inputs, &wanted, &mut outputs)
                        .unwrap();
                });
                assert_eq!(
                    again.count_total,
                    0,
                    "{len} bytes of {code:?} by {}",
                    kernel.name()
                );
            }
        }
    }
}

/// What a coder says it holds is what it takes from the allocator, within a tenth and a few KiB of
/// what caches and crates need besides.
#[test]
fn workspace_is_what_is_held() {
    for (kind, k, n) in [
        (CodeKind::Rs8, 64, 80),
        (CodeKind::Rs16, 64, 80),
        (CodeKind::Rs16, 50, 100),
    ] {
        let code = Code::new(kind, k, n).unwrap();
        let data = vec![vec![7u8; 16384]; k];
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0u8; 16384]; n - k];
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        // Tables of the process and of the code are made by another coder first.
        Coder::new(1).encode(&code, &data, &mut outputs).unwrap();
        let mut coder = Coder::new(4);
        let before = coder.workspace_bytes();
        let held = allocation_counter::measure(|| {
            coder.encode(&code, &data, &mut outputs).unwrap();
        });
        let said = coder.workspace_bytes() - before;
        let held = usize::try_from(held.bytes_current).unwrap();
        let near = said.abs_diff(held) <= held / 10 + 4096;
        assert!(near, "{code:?}: says {said}, the allocator {held}");
    }
}

#[test]
fn hashes_and_ciphers_allocate_nothing() {
    let data = vec![7u8; 5000];
    // What the process chooses by is asked first.
    sha256d(&[]);
    for kernel in ShaKernel::available().chain(Kernel::available().map(ShaKernel::with)) {
        let held = allocation_counter::measure(|| {
            drop(Lanes::with_kernel(40, kernel));
        });
        let mut lanes = Lanes::with_kernel(40, kernel);
        assert_eq!(held.bytes_max, lanes.bytes() as u64);
        let inputs = [data.as_slice(); 40];
        let mut hashes = [[0; 32]; 40];
        let calls = allocation_counter::measure(|| {
            for count in [40, 1, 17] {
                lanes.restart(count, b"prefix");
                lanes.update(&inputs[..count]);
                lanes.finish(&mut hashes[..count]);
            }
            sha256d(&[b"prefix", &data]);
        });
        assert_eq!(calls.count_total, 0, "{kernel:?}");
    }
    for kernel in AesKernel::available() {
        let mut data = data.clone();
        let calls = allocation_counter::measure(|| {
            Aes128Ctr::with_kernel(&[7; 16], kernel).apply(7, &mut data);
        });
        assert_eq!(calls.count_total, 0, "{kernel:?}");
    }
}
