//! How the bytes of an object become shares: its geometry and code, and parity made in steps of bounded memory.

use decode_kernel::code::{Code, CodeKind, Coder};
use decode_kernel::share::{Geometry, GeometryError};

use super::error::PutError;
use super::options::{PutOptions, SEGMENT_BYTES_MAX};
use super::syntax::{check_fields, check_type};
use crate::store::Places;
use crate::write::NewShares;

/// Bytes of parity made in one step, unless one leaf of each parity share is more.
const PARITY_BYTES: usize = 8 << 20;

/// How the bytes of an object become shares.
pub(super) struct Encoding {
    pub(super) code: Code,
    pub(super) geometry: Geometry,
    pub(super) content_type: String,
    /// Shares that must be written.
    pub(super) least: u16,
}

impl Encoding {
    pub(super) fn new(options: &PutOptions) -> Result<Encoding, PutError> {
        let PutOptions {
            data: k,
            parity,
            key,
            block_size,
            ..
        } = options;
        let n = u32::from(*k) + u32::from(*parity);
        let n = u16::try_from(n).map_err(|_| GeometryError::Shares { k: *k, n: u16::MAX })?;
        let leaf_bytes = Geometry::default_leaf_bytes(*k);
        let geometry = Geometry::new(0, *k, n, *block_size, leaf_bytes)?;
        if geometry.segment_bytes() > SEGMENT_BYTES_MAX {
            return Err(PutError::Segment {
                k: *k,
                block_size: *block_size,
            });
        }
        let least = options.min_shares.unwrap_or(n);
        if least > n || least <= *k && least < n {
            return Err(PutError::MinShares { least, data: *k, n });
        }
        let kind = options.code.unwrap_or(if n <= 256 {
            CodeKind::Rs8
        } else {
            CodeKind::Rs16
        });
        let content_type = match &options.content_type {
            Some(given) => given.clone(),
            None => mime_guess::from_path(key.as_str())
                .first_or_octet_stream()
                .to_string(),
        };
        check_type(&content_type)?;
        check_fields(&options.fields)?;
        Ok(Encoding {
            code: Code::new(kind, (*k).into(), n.into())?,
            geometry,
            content_type,
            least,
        })
    }

    /// The error where only `have` stores can take a share of so many bytes.
    pub(super) fn too_few(&self, places: &Places, have: usize, share_bytes: u64) -> PutError {
        PutError::TooFewStores {
            need: self.least,
            have,
            data: self.geometry.k(),
            reasons: places.out_of_use(share_bytes),
        }
    }

    /// The geometry of an object of `size` bytes.
    pub(super) fn geometry_of(&self, size: u64) -> Result<Geometry, GeometryError> {
        let geometry = &self.geometry;
        let (block_bytes, leaf_bytes) = (geometry.block_bytes(), geometry.leaf_bytes());
        Geometry::new(size, geometry.k(), geometry.n(), block_bytes, leaf_bytes)
    }
}

/// Block `number` of a segment of k blocks.
pub(super) fn block(segment: &[u8], k: usize, number: usize) -> &[u8] {
    let len = segment.len() / k;
    &segment[number * len..][..len]
}

/// Makes parity shares from segments, in steps of bounded memory.
pub(super) struct Parity<'a> {
    code: &'a Code,
    coder: Coder,
    /// One buffer for each parity share.
    buffers: Vec<Vec<u8>>,
    /// Length of each buffer, a multiple of the leaf's.
    capacity: usize,
}

impl Parity<'_> {
    pub(super) fn new<'a>(
        code: &'a Code,
        geometry: &Geometry,
        batch_segments: usize,
    ) -> Parity<'a> {
        let m = code.n() - code.k();
        let leaf = geometry.leaf_bytes() as usize;
        let most = batch_segments * geometry.block_bytes() as usize;
        let capacity = (PARITY_BYTES / m.max(1) / leaf * leaf).clamp(leaf, most);
        Parity {
            code,
            coder: Coder::new(1),
            buffers: vec![vec![0; capacity]; m],
            capacity,
        }
    }

    /// Appends the parity blocks of `segments` to the parity shares.
    pub(super) fn append(
        &mut self,
        segments: &[&[u8]],
        slots: &[Option<usize>],
        shares: &mut NewShares,
    ) -> Result<(), PutError> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        let k = self.code.k();
        let mut filled = 0;
        for segment in segments {
            let block_len = segment.len() / k;
            for start in (0..block_len).step_by(self.capacity) {
                let len = self.capacity.min(block_len - start);
                if filled + len > self.capacity {
                    self.flush(&mut filled, slots, shares);
                }
                let data: Vec<&[u8]> = (0..k)
                    .map(|share| &block(segment, k, share)[start..][..len])
                    .collect();
                let mut outputs: Vec<&mut [u8]> = self
                    .buffers
                    .iter_mut()
                    .map(|buffer| &mut buffer[filled..][..len])
                    .collect();
                self.coder.encode(self.code, &data, &mut outputs)?;
                filled += len;
            }
        }
        self.flush(&mut filled, slots, shares);
        Ok(())
    }

    pub(super) fn flush(
        &self,
        filled: &mut usize,
        slots: &[Option<usize>],
        shares: &mut NewShares,
    ) {
        for (buffer, slot) in self.buffers.iter().zip(&slots[self.code.k()..]) {
            if let Some(slot) = slot {
                shares.append(*slot, &[&buffer[..*filled]]);
            }
        }
        *filled = 0;
    }
}
