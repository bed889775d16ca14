//! GF(2^8) with polynomial x^8+x^4+x^3+x^2+1 (0x11D) and generator 2.

/// The field's polynomial without its x^8 term, which is added when a doubling overflows.
pub(crate) const POLYNOMIAL_LOW: u8 = 0x1D;

/// `EXP[i]` = 2^i for i in 0..510: two logarithms can be added without a reduction.
const EXP: [u8; 510] = {
    let mut exp = [0; 510];
    let mut x = 1u8;
    let mut i = 0;
    while i < 255 {
        exp[i] = x;
        exp[i + 255] = x;
        x = double(x);
        i += 1;
    }
    exp
};

/// `LOG[x]` = i with 2^i = x, for x != 0. `LOG[0]` is 0 and means nothing.
const LOG: [u8; 256] = {
    let mut log = [0; 256];
    let mut i = 0;
    while i < 255 {
        log[EXP[i] as usize] = i as u8;
        i += 1;
    }
    log
};

/// x times 2.
pub(crate) const fn double(x: u8) -> u8 {
    (x << 1) ^ (if x & 0x80 != 0 { POLYNOMIAL_LOW } else { 0 })
}

/// a times b.
pub(crate) const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        EXP[LOG[a as usize] as usize + LOG[b as usize] as usize]
    }
}

/// 2^i, for i < 255.
pub(crate) const fn exp(i: usize) -> u8 {
    EXP[i]
}

/// The i in 0..255 with 2^i = x; x must not be 0.
pub(crate) const fn log(x: u8) -> usize {
    debug_assert!(x != 0, "0 has no logarithm");
    LOG[x as usize] as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication from the definition: add shifted copies, then reduce. It does not use the
    /// tables.
    fn mul_by_shifts(a: u8, b: u8) -> u8 {
        let mut product = 0u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..15).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11D << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn products_are_those_of_the_polynomial() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), mul_by_shifts(a, b), "{a} * {b}");
            }
        }
    }

    #[test]
    fn field_axioms() {
        for a in 0..=255u8 {
            assert_eq!(mul(a, 1), a);
            assert_eq!(mul(a, 2), double(a));
            assert_eq!(
                (0..=255).filter(|&b| mul(a, b) == 1).count(),
                usize::from(a != 0),
                "{a}"
            );
            for b in 0..=255u8 {
                assert_eq!(mul(a, b), mul(b, a));
                for c in [1, 2, 3, 0x1D, 0x80, 0x8E, 0xFF] {
                    assert_eq!(mul(mul(a, b), c), mul(a, mul(b, c)));
                    assert_eq!(mul(a, b ^ c), mul(a, b) ^ mul(a, c));
                }
            }
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(exp(8), 0x1D);
        assert_eq!(mul(2, 0x8E), 1);
        assert!((1..=255).all(|x| exp(log(x)) == x));
    }
}
