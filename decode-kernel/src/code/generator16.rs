//! rs16 as a matrix: the crate's parity shares as sums of products of the data shares.
//!
//! The crate computes parity by transforms and documents no matrix. But its code is linear, so
//! encoding the unit vectors shows the matrix. With it, a few lost shares are rebuilt by sums of
//! products of k shares. That is many times faster than the crate's decoder, which transforms
//! 65,536 points on every call.

use reed_solomon_simd::{Error, ReedSolomonEncoder};

use super::rs16::GRANULARITY;
use crate::field::gf16::{invert, mul};

/// Elements in one of the crate's chunks; the low bytes of all come first.
const CHUNK_ELEMENTS: usize = GRANULARITY / 2;

/// Unit vectors encoded at once. This bounds the crate's space to some KiB per share.
const BATCH: usize = 16 * CHUNK_ELEMENTS;

/// The largest matrix (in entries; 2 MiB). Wider codes are left to the crate.
const ENTRIES_MAX: usize = 1 << 20;

/// The rows of the parity shares, k coefficients each.
pub(crate) struct Generator {
    k: usize,
    rows: Box<[u16]>,
}

impl Generator {
    /// The generator of the crate's code with these numbers of shares, unless it is too large to
    /// keep (or there is no parity).
    pub(crate) fn new(data: usize, parity: usize) -> Result<Option<Generator>, Error> {
        let entries = data
            .checked_mul(parity)
            .filter(|&n| 0 < n && n <= ENTRIES_MAX);
        let Some(entries) = entries else {
            return Ok(None);
        };
        let mut rows = vec![0u16; entries];
        let len = BATCH.min(data).next_multiple_of(CHUNK_ELEMENTS) * 2;
        let mut encoder = ReedSolomonEncoder::new(data, parity, len)?;
        let mut share = vec![0u8; len];
        for first in (0..data).step_by(BATCH) {
            for number in 0..data {
                // In share `first + i` the i-th element is 1, and everything else is 0.
                let unit = number.checked_sub(first).filter(|&i| i < len / 2);
                if let Some(i) = unit {
                    share[low_byte(i)] = 1;
                }
                encoder.add_original_shard(&share)?;
                if let Some(i) = unit {
                    share[low_byte(i)] = 0;
                }
            }
            let result = encoder.encode()?;
            for (row, parity) in rows.chunks_exact_mut(data).zip(result.recovery_iter()) {
                for (i, entry) in row[first..].iter_mut().take(len / 2).enumerate() {
                    let low = low_byte(i);
                    *entry = u16::from_le_bytes([parity[low], parity[low + CHUNK_ELEMENTS]]);
                }
            }
        }
        Ok(Some(Generator {
            k: data,
            rows: rows.into(),
        }))
    }

    /// Bytes held on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val::<[u16]>(&self.rows)
    }

    /// The coefficients that give each share of `wanted` from `sources` (which are k, all numbers
    /// different and of the code): row-major, one row of k per wanted share.
    pub(crate) fn coefficients(&self, sources: &[usize], wanted: &[usize]) -> Vec<u16> {
        let k = self.k;
        let row = |share: usize| &self.rows[(share - k) * k..][..k];
        // The position of each data share among the sources, and the data shares that are not among
        // them.
        let mut place = vec![None; k];
        for (at, &s) in sources.iter().enumerate().filter(|&(_, &s)| s < k) {
            place[s] = Some(at);
        }
        let lost: Vec<usize> = (0..k).filter(|&j| place[j].is_none()).collect();
        let parity: Vec<(usize, usize)> = sources
            .iter()
            .copied()
            .enumerate()
            .filter(|&(_, s)| s >= k)
            .collect();

        // Each parity source gives an equation for the lost shares: known = square * lost.
        let square: Vec<u16> = parity
            .iter()
            .flat_map(|&(_, p)| lost.iter().map(move |&l| row(p)[l]))
            .collect();
        let inverse = invert_matrix(square, lost.len());
        let lost_row = |at: usize| {
            let mut coefficients = vec![0u16; k];
            for (&(place_p, p), &factor) in parity.iter().zip(&inverse[at * lost.len()..]) {
                coefficients[place_p] = factor;
                for (&entry, place) in row(p).iter().zip(&place) {
                    if let Some(at) = *place {
                        coefficients[at] ^= mul(factor, entry);
                    }
                }
            }
            coefficients
        };

        // A wanted parity share needs the rows of all lost shares; a wanted data share needs only
        // its own.
        let lost_rows: Vec<Vec<u16>> = if wanted.iter().any(|&w| w >= k) {
            (0..lost.len()).map(lost_row).collect()
        } else {
            Vec::new()
        };
        let mut rows = Vec::with_capacity(wanted.len() * k);
        for &w in wanted {
            if w < k {
                let at = lost
                    .binary_search(&w)
                    .expect("wanted data is no source, so it is lost");
                rows.extend(lost_row(at));
                continue;
            }
            let mut coefficients = vec![0u16; k];
            for (&entry, place) in row(w).iter().zip(&place) {
                if let Some(at) = *place {
                    coefficients[at] = entry;
                }
            }
            for (&l, lost_row) in lost.iter().zip(&lost_rows) {
                let factor = row(w)[l];
                for (sum, &c) in coefficients.iter_mut().zip(lost_row) {
                    *sum ^= mul(factor, c);
                }
            }
            rows.extend(coefficients);
        }
        rows
    }
}

/// The offset in a share of the low byte of its i-th element.
fn low_byte(i: usize) -> usize {
    i / CHUNK_ELEMENTS * GRANULARITY + i % CHUNK_ELEMENTS
}

/// Inverts a square matrix by Gauss-Jordan elimination. The matrices here have inverses, because
/// any k rows of an erasure code's generator are independent.
fn invert_matrix(mut matrix: Vec<u16>, n: usize) -> Vec<u16> {
    let mut inverse = vec![0u16; n * n];
    (0..n).for_each(|i| inverse[i * n + i] = 1);
    for column in 0..n {
        let pivot = (column..n).find(|&row| matrix[row * n + column] != 0);
        let pivot = pivot.expect("the code's generator has independent rows");
        let factor = invert(matrix[pivot * n + column]);
        for half in [&mut matrix, &mut inverse] {
            for i in 0..n {
                half.swap(pivot * n + i, column * n + i);
                half[column * n + i] = mul(half[column * n + i], factor);
            }
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = matrix[row * n + column];
            if factor == 0 {
                continue;
            }
            for half in [&mut matrix, &mut inverse] {
                for i in 0..n {
                    half[row * n + i] ^= mul(factor, half[column * n + i]);
                }
            }
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses() {
        for n in 1..20usize {
            let matrix: Vec<u16> = (0..n * n)
                .map(|i| (i as u16 ^ 0x5A5).wrapping_mul(40503) | 1)
                .collect();
            let inverse = invert_matrix(matrix.clone(), n);
            for r in 0..n {
                for c in 0..n {
                    let products = (0..n).map(|i| mul(matrix[r * n + i], inverse[i * n + c]));
                    assert_eq!(
                        products.fold(0, |a, b| a ^ b),
                        u16::from(r == c),
                        "{n}: {r}, {c}"
                    );
                }
            }
        }
    }

    #[test]
    fn very_wide_codes_have_none() {
        assert!(Generator::new(2000, 2000).unwrap().is_none());
        assert!(Generator::new(7, 0).unwrap().is_none());
        assert_eq!(Generator::new(600, 5).unwrap().unwrap().bytes(), 6000);
    }
}
