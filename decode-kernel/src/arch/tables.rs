//! The operands that the SIMD back-ends multiply with: a coefficient as a bit matrix or as two
//! small tables.

use crate::field::{gf8, gf16};

/// A coefficient of GF(2^8) as the 8x8 bit matrix that `vgf2p8affineqb` multiplies bytes by.
///
/// Multiplying by a constant is linear over bits, whatever the field's polynomial.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) fn bit_matrix(coefficient: u8) -> u64 {
    matrix_of_columns(|j| gf8::mul(coefficient, 1 << j))
}

/// The bit matrix whose product with 2^j is `column(j)`. As the instruction has it: bit i of a
/// product is the parity of (matrix byte 7 - i AND x), so bit j of that byte is bit i of column j.
fn matrix_of_columns(column: impl Fn(u32) -> u8) -> u64 {
    let mut rows = [0u8; 8];
    for j in 0..8 {
        for (i, row) in rows.iter_mut().rev().enumerate() {
            *row |= (column(j) >> i & 1) << j;
        }
    }
    u64::from_le_bytes(rows)
}

/// A coefficient of GF(2^16) as four bit matrices: the contributions of an element's low and high
/// bytes to the product's low and high bytes.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy)]
pub(super) struct WideMatrix {
    pub(super) low_from_low: u64,
    pub(super) low_from_high: u64,
    pub(super) high_from_low: u64,
    pub(super) high_from_high: u64,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
impl WideMatrix {
    pub(super) fn new(coefficient: u16) -> WideMatrix {
        let columns: [[u8; 2]; 16] =
            std::array::from_fn(|j| gf16::mul(coefficient, 1 << j).to_le_bytes());
        let [low, high]: [usize; 2] = [0, 8];
        let matrix = |to: usize, from: usize| matrix_of_columns(|j| columns[from + j as usize][to]);
        WideMatrix {
            low_from_low: matrix(0, low),
            low_from_high: matrix(0, high),
            high_from_low: matrix(1, low),
            high_from_high: matrix(1, high),
        }
    }
}

/// A coefficient of GF(2^16) as tables for byte shuffles: the contribution of each of an element's
/// four half-bytes, lowest first, to the product's low byte and to its high byte.
#[derive(Clone, Copy)]
pub(super) struct WideNibbles {
    pub(super) low: [[u8; 16]; 4],
    pub(super) high: [[u8; 16]; 4],
}

impl WideNibbles {
    pub(super) fn new(coefficient: u16) -> WideNibbles {
        let product =
            |at: usize, i: usize| gf16::mul(coefficient, (i as u16) << (4 * at)).to_le_bytes();
        let tables =
            |byte: usize| std::array::from_fn(|at| std::array::from_fn(|i| product(at, i)[byte]));
        WideNibbles {
            low: tables(0),
            high: tables(1),
        }
    }
}

/// A coefficient's products with all values of a byte's low half, then of its high half, as tables
/// for byte shuffles. The sum of the two entries is the product with the byte.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Nibbles {
    pub(super) low: [u8; 16],
    pub(super) high: [u8; 16],
}

impl Nibbles {
    pub(super) fn new(coefficient: u8) -> Nibbles {
        Nibbles {
            low: std::array::from_fn(|i| gf8::mul(coefficient, i as u8)),
            high: std::array::from_fn(|i| gf8::mul(coefficient, (i as u8) << 4)),
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
                    gf8::mul(c, x),
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
                assert_eq!(product, gf8::mul(c, x), "{c} * {x}");
            }
        }
    }
}
