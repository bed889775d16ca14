//! What the SIMD back-ends multiply with: a coefficient as a bit matrix or as two small tables.

use crate::code::mul8;

/// A coefficient as the 8x8 bit matrix that `vgf2p8affineqb` multiplies bytes by.
///
/// Multiplying by a constant is linear over bits, whatever the field's polynomial. Bit i of the
/// product is the parity of (matrix byte 7 - i AND x), so bit j of that byte is bit i of c * 2^j.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) fn bit_matrix(coefficient: u8) -> u64 {
    let mut rows = [0u8; 8];
    for j in 0..8 {
        let column = mul8(coefficient, 1 << j);
        for (i, row) in rows.iter_mut().rev().enumerate() {
            *row |= (column >> i & 1) << j;
        }
    }
    u64::from_le_bytes(rows)
}

/// A coefficient's products with all values of a byte's low half, then of its high half: what a
/// byte shuffle looks up. Their sum is the product with the byte.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Nibbles {
    pub(super) low: [u8; 16],
    pub(super) high: [u8; 16],
}

impl Nibbles {
    pub(super) fn new(coefficient: u8) -> Nibbles {
        Nibbles {
            low: std::array::from_fn(|i| mul8(coefficient, i as u8)),
            high: std::array::from_fn(|i| mul8(coefficient, (i as u8) << 4)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_matrices_multiply() {
        for c in 0..=255 {
            let rows = bit_matrix(c).to_le_bytes();
            for x in 0..=255u8 {
                let bit = |i: usize| ((rows[7 - i] & x).count_ones() as u8 & 1) << i;
                assert_eq!(
                    (0..8).fold(0, |sum, i| sum | bit(i)),
                    mul8(c, x),
                    "{c} * {x}"
                );
            }
        }
    }

    #[test]
    fn nibbles_add_up() {
        for c in 0..=255 {
            let tables = Nibbles::new(c);
            for x in 0..=255u8 {
                let product = tables.low[usize::from(x & 15)] ^ tables.high[usize::from(x >> 4)];
                assert_eq!(product, mul8(c, x), "{c} * {x}");
            }
        }
    }
}
