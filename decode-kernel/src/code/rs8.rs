//! rs8: the systematic Reed-Solomon code over GF(2^8) that zfec and Tahoe-LAFS use.
//!
//! zfec defines it by matrices: V is the n x k Vandermonde matrix on the points 0, 1, 2, 4, ...
//! (share 0 is the point 0, share r the point 2^(r-1)), U its top k x k part, and M = V U^-1 the
//! generator. Read as polynomials, V U^-1 interpolates: the k data bytes of a column are the values
//! at the first k points of one polynomial of degree below k, and share r is its value at point r.
//! So *any* share is found from *any* k others by Lagrange's formula, without a matrix to invert:
//!
//! ```text
//! share w = sum over sources s of  share s * product over other sources t of (w - t) / (s - t)
//! ```
//!
//! where letters stand for the shares' points. It costs k^2 + k * wanted table look-ups.

use crate::field::gf8;

/// The field has 256 points, and each share is the value at one of them.
pub(crate) const SHARES_MAX: usize = 256;

/// The point of the field at which the polynomial's value is share `number`.
fn point(number: usize) -> u8 {
    if number == 0 { 0 } else { gf8::exp(number - 1) }
}

/// log2 of (a - b) for two different shares. (Subtraction is XOR here.)
fn log_distance(a: usize, b: usize) -> usize {
    gf8::log(point(a) ^ point(b))
}

/// The coefficients that give each share of `wanted` from `sources`: row-major, one row of
/// `sources.len()` per wanted share. The numbers must be below [`SHARES_MAX`] and all different.
pub(crate) fn coefficients(sources: &[usize], wanted: &[usize]) -> Vec<u8> {
    // Logarithms are added modulo 255, the order of the multiplicative group.
    let weights: Vec<usize> = sources
        .iter()
        .map(|&s| {
            let others = sources.iter().filter(|&&t| t != s);
            let product: usize = others.map(|&t| log_distance(s, t)).sum();
            255 - product % 255
        })
        .collect();
    let mut rows = Vec::with_capacity(wanted.len() * sources.len());
    for &w in wanted {
        let all: usize = sources.iter().map(|&t| log_distance(w, t)).sum();
        rows.extend(sources.iter().zip(&weights).map(|(&s, &weight)| {
            let without_s = all - log_distance(w, s);
            gf8::exp((without_s + weight) % 255)
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parity rows as zfec 1.6 computes them.
    const ZFEC_ROWS: &[(usize, &[&[u8]])] = &[
        (1, &[&[1], &[1]]),
        (2, &[&[3, 2], &[5, 4]]),
        (
            3,
            &[
                &[15, 8, 6],
                &[45, 48, 28],
                &[153, 224, 120],
                &[11, 231, 237],
                &[137, 59, 179],
                &[70, 241, 182],
                &[186, 217, 98],
            ],
        ),
        (
            7,
            &[
                &[155, 117, 49, 58, 158, 4, 126],
                &[140, 165, 195, 210, 182, 123, 244],
                &[14, 216, 65, 213, 83, 65, 81],
                &[217, 122, 2, 218, 10, 10, 122],
                &[152, 108, 8, 9, 20, 255, 31],
            ],
        ),
        (
            16,
            &[
                &[
                    197, 59, 31, 45, 79, 170, 131, 194, 97, 105, 119, 166, 226, 95, 55, 58,
                ],
                &[
                    125, 23, 215, 19, 96, 169, 168, 157, 205, 163, 125, 180, 171, 40, 109, 26,
                ],
                &[
                    64, 36, 60, 18, 75, 98, 6, 211, 46, 174, 241, 199, 168, 78, 180, 83,
                ],
                &[
                    201, 188, 123, 46, 109, 15, 101, 43, 75, 20, 152, 70, 88, 142, 1, 91,
                ],
            ],
        ),
        (
            25,
            &[
                &[
                    46, 193, 108, 199, 208, 173, 79, 45, 133, 251, 125, 44, 167, 198, 150, 174,
                    252, 218, 8, 197, 195, 20, 33, 197, 244,
                ],
                &[
                    52, 180, 229, 218, 124, 64, 99, 84, 165, 39, 208, 146, 186, 229, 180, 7, 250,
                    65, 41, 75, 132, 207, 11, 98, 98,
                ],
                &[
                    142, 144, 111, 36, 70, 55, 225, 127, 244, 116, 240, 174, 42, 25, 141, 89, 229,
                    149, 118, 44, 31, 127, 113, 14, 183,
                ],
                &[
                    169, 224, 2, 26, 204, 52, 2, 2, 191, 106, 238, 164, 126, 232, 162, 59, 229,
                    175, 68, 112, 191, 70, 171, 119, 99,
                ],
                &[
                    61, 81, 87, 4, 86, 42, 218, 51, 39, 149, 192, 188, 187, 27, 22, 225, 37, 80,
                    144, 132, 231, 80, 217, 107, 86,
                ],
            ],
        ),
    ];

    #[test]
    fn parity_rows_are_those_of_zfec() {
        for &(k, rows) in ZFEC_ROWS {
            let data: Vec<usize> = (0..k).collect();
            let parity: Vec<usize> = (k..k + rows.len()).collect();
            assert_eq!(coefficients(&data, &parity), rows.concat(), "k = {k}");
        }
    }

    /// zfec defines M = V U^-1; checked as M U = V, also for the widest codes there are.
    #[test]
    fn interpolation_is_vandermonde_times_inverse() {
        for (k, n) in [(1, 256), (2, 256), (5, 9), (100, 256), (255, 256)] {
            let row = |share: usize| -> Vec<u8> {
                let mut power = 1;
                (0..k)
                    .map(|_| {
                        let this = power;
                        power = gf8::mul(power, point(share));
                        this
                    })
                    .collect()
            };
            // M U = V, so row r of M times U must be row r of V.
            let data: Vec<usize> = (0..k).collect();
            let parity: Vec<usize> = (k..n).collect();
            let m = coefficients(&data, &parity);
            let u: Vec<Vec<u8>> = data.iter().map(|&s| row(s)).collect();
            for (&share, m_row) in parity.iter().zip(m.chunks(k)) {
                let mut product = vec![0u8; k];
                for (&c, u_row) in m_row.iter().zip(&u) {
                    for (p, &x) in product.iter_mut().zip(u_row) {
                        *p ^= gf8::mul(c, x);
                    }
                }
                assert_eq!(product, row(share), "k = {k}, share {share}");
            }
        }
    }

    #[test]
    fn every_share_has_its_own_point() {
        let mut points: Vec<u8> = (0..SHARES_MAX).map(point).collect();
        points.sort_unstable();
        assert!(points.iter().copied().eq(0..=255));
    }
}
