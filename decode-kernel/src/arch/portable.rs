//! The back-end for any CPU, in plain Rust.
//!
//! Instead of looking products up byte by byte, it doubles and adds whole blocks, which a compiler
//! turns into the vector instructions every target has. Written out by the bits of its coefficients
//! (Horner's rule), an output is
//!
//! ```text
//! ((sum of inputs with bit 7) * 2 + sum of inputs with bit 6) * 2 + ... + sum of inputs with bit 0
//! ```
//!
//! so a block costs seven doublings in all and, on average, four additions per input.

use crate::field::gf8::POLYNOMIAL_LOW;

/// Bytes summed at once: as many as the smallest vector register files hold.
const BLOCK_BYTES: usize = 128;

/// For each output and each bit of its coefficients, from the highest, the inputs that have it.
pub(super) struct BitLists {
    /// The end of each list in `members`: per output, bit 7 first.
    ends: Box<[[usize; 8]]>,
    /// Input numbers (there are at most 256).
    members: Box<[u8]>,
}

impl BitLists {
    pub(super) fn new(inputs: usize, coefficients: &[u8]) -> BitLists {
        let mut members = Vec::new();
        let ends = coefficients.chunks_exact(inputs).map(|row| {
            let mut bit = 8;
            [(); 8].map(|()| {
                bit -= 1;
                let has = row.iter().enumerate().filter(|(_, c)| **c >> bit & 1 == 1);
                members.extend(has.map(|(input, _)| input as u8));
                members.len()
            })
        });
        BitLists {
            ends: ends.collect(),
            members: members.into(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[[usize; 8]]>(&self.ends) + self.members.len()
    }
}

/// Applies the lists; inputs and outputs are of one length.
pub(super) fn apply(lists: &BitLists, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let len = inputs[0].len();
    // The work goes block by block, so that the inputs' blocks stay in the cache for all outputs.
    for from in (0..len).step_by(BLOCK_BYTES) {
        let to = len.min(from + BLOCK_BYTES);
        let mut start = 0;
        for (ends, output) in lists.ends.iter().zip(&mut *outputs) {
            let mut sum = [0; BLOCK_BYTES];
            for &end in ends {
                double(&mut sum);
                for &input in &lists.members[start..end] {
                    add(&mut sum, &inputs[usize::from(input)][from..to]);
                }
                start = end;
            }
            output[from..to].copy_from_slice(&sum[..to - from]);
        }
    }
}

/// Doubles each byte of the block. (The first of the eight doublings doubles zeros, which is
/// harmless.)
#[inline(always)]
fn double(block: &mut [u8; BLOCK_BYTES]) {
    for byte in block {
        // All ones where the top bit falls out, spread by a shift that keeps the sign.
        let overflow = (*byte as i8 >> 7) as u8;
        *byte = (*byte << 1) ^ (overflow & POLYNOMIAL_LOW);
    }
}

/// Adds up to a block's length of input.
#[inline(always)]
fn add(block: &mut [u8; BLOCK_BYTES], input: &[u8]) {
    match input.first_chunk::<BLOCK_BYTES>() {
        Some(input) => block
            .iter_mut()
            .zip(input)
            .for_each(|(sum, byte)| *sum ^= byte),
        None => block
            .iter_mut()
            .zip(input)
            .for_each(|(sum, byte)| *sum ^= byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::gf8;

    /// Every coefficient times every byte, at a length with whole blocks and a part.
    #[test]
    fn every_product() {
        let input: Vec<u8> = (0..300).map(|i| i as u8).collect();
        for coefficient in 0..=255 {
            let mut output = vec![0xAA; input.len()];
            let lists = BitLists::new(1, &[coefficient]);
            apply(&lists, &[&input], &mut [&mut output]);
            for (&x, &y) in input.iter().zip(&output) {
                assert_eq!(y, gf8::mul(coefficient, x), "{coefficient} * {x}");
            }
        }
    }
}
