//! Cuts bytes into six shares, loses two of them, and rebuilds what is missing: a whole block, and a few bytes of one.
//!
//! `cargo run -p decode-kernel --example rebuild_segment`

use decode_kernel::code::{Code, CodeKind, Coder};

/// Data shares, and all shares: any 4 of 6 give the segment back.
const K: usize = 4;
const N: usize = 6;
const BLOCK_BYTES: usize = 16 << 10;

pub(crate) fn main() -> Result<(), decode_kernel::CodeError> {
    let segment: Vec<u8> = (0..K * BLOCK_BYTES).map(|i| (i * 31 % 251) as u8).collect();
    let data: Vec<&[u8]> = segment.chunks(BLOCK_BYTES).collect();
    let code = Code::new(CodeKind::Rs8, K, N)?;
    // One coder for each thread. It remembers 16 patterns of losses.
    let mut coder = Coder::new(16);

    let mut parity = vec![vec![0; BLOCK_BYTES]; N - K];
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&code, &data, &mut outputs)?;

    // Shares 1 and 4 are lost: 1 is data, 4 is the first parity share. Shares 0, 2, 3 and 5 are left.
    let left = [0, 2, 3, 5];
    let inputs = [data[0], data[2], data[3], &parity[1]];
    let mut block = vec![0; BLOCK_BYTES];
    coder.rebuild(&code, &left, &inputs, &[1], &mut [&mut block])?;
    assert_eq!(block, data[1]);
    println!(
        "{} bytes of share 1, by {}",
        block.len(),
        coder.kernel_name()
    );

    // A client asked for 100 bytes of that block: only the same range of the other shares is needed.
    let range = 5000..5100;
    let inputs = inputs.map(|input| &input[range.clone()]);
    let mut part = [0; 100];
    coder.rebuild(&code, &left, &inputs, &[1], &mut [&mut part])?;
    assert_eq!(part, data[1][range]);
    println!("{} bytes of share 1", part.len());
    Ok(())
}
