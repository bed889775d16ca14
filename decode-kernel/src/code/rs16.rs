//! rs16: the code of the crate `reed-solomon-simd`, and its working space.
//!
//! The crate copies every share into its own space and transforms there. A coder has one [`Space`]
//! and resets it between calls. It grows to the largest call and then needs no more allocations.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::CodeError;

/// The field's elements without zero bound the number of shares.
pub(crate) const SHARES_MAX: usize = 65535;

/// The crate lays shares out in chunks of 64 bytes, half low bytes and half high bytes of 32
/// elements. Ranges of whole chunks are independent of one another.
pub(crate) const GRANULARITY: usize = 64;

/// Whether the crate has this code. A code without parity needs no arithmetic, so it always exists.
pub(crate) fn supports(data: usize, parity: usize) -> bool {
    parity == 0 || ReedSolomonEncoder::supports(data, parity)
}

/// The crate's encoder and decoder, made when first needed.
#[derive(Default)]
pub(crate) struct Space {
    encoder: Option<ReedSolomonEncoder>,
    decoder: Option<ReedSolomonDecoder>,
    encoder_bytes: usize,
    decoder_bytes: usize,
}

impl Space {
    /// Bytes that the crate holds for this coder. Its working space only grows.
    pub(crate) fn bytes(&self) -> usize {
        self.encoder_bytes + self.decoder_bytes
    }

    /// The largest value of [`Space::bytes`] for one code and ranges of up to `len` bytes.
    pub(crate) fn bytes_max(k: usize, m: usize, len: usize) -> usize {
        if m == 0 {
            0
        } else {
            (encoder_shares(k, m) + decoder_shares(k, m)) * len
        }
    }

    /// Rebuilds `wanted` from `sources`. The caller has checked both; lengths are equal, not 0, and
    /// whole chunks. Parity shares are rarely wanted (by repair), and are encoded again from the
    /// data.
    pub(crate) fn rebuild(
        &mut self,
        k: usize,
        n: usize,
        sources: &[usize],
        inputs: &[&[u8]],
        wanted: &[usize],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        let (m, len) = (n - k, inputs[0].len());
        let parity_wanted = wanted.iter().any(|&w| w >= k);
        let data_missing = sources.iter().any(|&s| s >= k);
        let decoder = match self.decoder.as_mut().filter(|_| data_missing) {
            Some(decoder) => {
                decoder.reset(k, m, len)?;
                Some(decoder)
            }
            None if data_missing => Some(self.decoder.insert(ReedSolomonDecoder::new(k, m, len)?)),
            None => None,
        };
        let mut encoder = match self.encoder.as_mut().filter(|_| parity_wanted) {
            Some(encoder) => {
                encoder.reset(k, m, len)?;
                Some(encoder)
            }
            None if parity_wanted => Some(self.encoder.insert(ReedSolomonEncoder::new(k, m, len)?)),
            None => None,
        };
        if decoder.is_some() {
            self.decoder_bytes = self.decoder_bytes.max(decoder_shares(k, m) * len);
        }
        if encoder.is_some() {
            self.encoder_bytes = self.encoder_bytes.max(encoder_shares(k, m) * len);
        }

        let restored = match decoder {
            Some(decoder) => {
                for (&s, input) in sources.iter().zip(inputs) {
                    if s < k {
                        decoder.add_original_shard(s, input)?;
                    } else {
                        decoder.add_recovery_shard(s - k, input)?;
                    }
                }
                Some(decoder.decode()?)
            }
            None => None,
        };
        let restored = |number| {
            let restored = restored.as_ref().and_then(|r| r.restored_original(number));
            restored.expect("a data share that is no source was restored")
        };

        let recovery = match &mut encoder {
            Some(encoder) => {
                // Sources come in any order, and the encoder needs shares 0..k in order. Data
                // sources are found by a scan, which is cheap beside the transforms.
                for number in 0..k {
                    match sources.iter().position(|&s| s == number) {
                        Some(at) => encoder.add_original_shard(inputs[at])?,
                        None => encoder.add_original_shard(restored(number))?,
                    }
                }
                Some(encoder.encode()?)
            }
            None => None,
        };
        for (&w, output) in wanted.iter().zip(outputs) {
            let share = if w < k {
                restored(w)
            } else {
                let recovery = recovery.as_ref().and_then(|r| r.recovery(w - k));
                recovery.expect("parity is encoded when wanted")
            };
            output.copy_from_slice(share);
        }
        Ok(())
    }
}

/// The number of shares in the encoder's working space: the larger side of the code, rounded up to
/// a multiple of the smaller side's next power of two.
fn encoder_shares(k: usize, m: usize) -> usize {
    k.next_multiple_of(m.next_power_of_two())
        .max(m.next_multiple_of(k.next_power_of_two()))
}

/// The number of shares in the decoder's working space: one side rounded up to a power of two, plus
/// the other, rounded up again. The crate's rate decides the side, so the larger result counts.
fn decoder_shares(k: usize, m: usize) -> usize {
    let high = (m.next_power_of_two() + k).next_power_of_two();
    let low = (k.next_power_of_two() + m).next_power_of_two();
    high.max(low)
}
