//! GF(2^16) as `reed-solomon-simd` represents it, with the crate's tables.

use reed_solomon_simd::engine::tables::get_exp_log;

/// The order of the multiplicative group; logarithms are modulo this.
const ORDER: u32 = 65535;

/// a times b.
pub(crate) fn mul(a: u16, b: u16) -> u16 {
    if a == 0 || b == 0 {
        return 0;
    }
    let tables = get_exp_log();
    let log = |x: u16| u32::from(tables.log[usize::from(x)]);
    tables.exp[((log(a) + log(b)) % ORDER) as usize]
}

/// 1 over a, which must not be 0.
pub(crate) fn invert(a: u16) -> u16 {
    debug_assert!(a != 0, "0 has no inverse");
    let tables = get_exp_log();
    tables.exp[((ORDER - u32::from(tables.log[usize::from(a)])) % ORDER) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_axioms() {
        let some = (0..=65535u16).step_by(97).chain([1, 2, 255, 256, 65535]);
        for a in some.clone() {
            assert_eq!(mul(a, 1), a);
            assert_eq!(mul(a, 0), 0);
            if a != 0 {
                assert_eq!(mul(a, invert(a)), 1, "{a}");
            }
            for b in some.clone() {
                assert_eq!(mul(a, b), mul(b, a));
                for c in [3, 0x8001, 0xACCA] {
                    assert_eq!(mul(mul(a, b), c), mul(a, mul(b, c)));
                    assert_eq!(mul(a, b ^ c), mul(a, b) ^ mul(a, c));
                }
            }
        }
    }
}
