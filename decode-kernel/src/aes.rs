//! AES-128 in counter mode (FIPS 197, NIST SP 800-38A section 6.5), from any byte on.
//!
//! A whole file has one keystream. Its block number i is the encryption of i, written as 16 bytes,
//! big-endian. So any range of a file can be decrypted, or encrypted, by itself.

use crate::arch::{AesKernel, Cipher};

/// Bytes of a block of keystream.
const BLOCK_BYTES: usize = 16;

/// A key, ready for use. It is overwritten when dropped.
///
/// ```
/// use decode_kernel::aes::Aes128Ctr;
///
/// let cipher = Aes128Ctr::new(b"a key that's old");
/// let mut text = *b"flow, and be measured";
/// cipher.apply(1000, &mut text);
/// assert_ne!(&text, b"flow, and be measured");
/// // Any part can be decrypted by itself, from its offset on.
/// cipher.apply(1006, &mut text[6..]);
/// assert_eq!(&text[6..], b"and be measured");
/// ```
pub struct Aes128Ctr(Cipher);

impl Aes128Ctr {
    /// Makes the key ready.
    pub fn new(key: &[u8; 16]) -> Aes128Ctr {
        Aes128Ctr::with_kernel(key, AesKernel::chosen())
    }

    /// As [`Aes128Ctr::new`], with a kernel of the caller's choice.
    pub fn with_kernel(key: &[u8; 16], kernel: AesKernel) -> Aes128Ctr {
        Aes128Ctr(Cipher::new(kernel, key))
    }

    /// Decrypts (or encrypts, which is the same operation) `data` in place; `data` starts at byte
    /// `offset` of the file. The counter has 128 bits, so it continues past byte 2^64.
    pub fn apply(&self, offset: u64, data: &mut [u8]) {
        let mut number = offset / BLOCK_BYTES as u64;
        let skip = (offset % BLOCK_BYTES as u64) as usize;
        let mut data = data;
        if skip > 0 {
            let (head, rest) = data.split_at_mut(data.len().min(BLOCK_BYTES - skip));
            let mut room = [0; BLOCK_BYTES];
            let part = skip..skip + head.len();
            room[part.clone()].copy_from_slice(head);
            self.0.apply(number, &mut room);
            head.copy_from_slice(&room[part]);
            number += 1;
            data = rest;
        }
        self.0.apply(number, data);
    }
}

/// Does not show the key.
impl std::fmt::Debug for Aes128Ctr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aes128Ctr").finish_non_exhaustive()
    }
}
