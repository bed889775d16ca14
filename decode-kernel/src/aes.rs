//! AES-128 in counter mode (FIPS 197, NIST SP 800-38A section 6.5), from any byte on.
//!
//! The keystream is one for a whole file: block number i of it is the encryption of i, written as
//! 16 bytes, big-endian. So any range of a file can be decrypted, or encrypted, by itself.

use aes::Aes128;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher};
use ctr::{Ctr128BE, CtrCore};

/// Bytes of a block of keystream.
const BLOCK_BYTES: u64 = 16;

/// A key, ready for use. It is overwritten when dropped.
pub struct Aes128Ctr {
    cipher: Aes128,
}

impl Aes128Ctr {
    /// Makes the key ready.
    pub fn new(key: &[u8; 16]) -> Aes128Ctr {
        Aes128Ctr {
            cipher: Aes128::new(key.into()),
        }
    }

    /// Decrypts (or encrypts, which is the same) `data` in place: bytes of the file from byte
    /// `offset` on.
    pub fn apply(&self, offset: u64, data: &mut [u8]) {
        let counter = u128::from(offset / BLOCK_BYTES).to_be_bytes();
        let core = CtrCore::inner_iv_init(self.cipher.clone(), &counter.into());
        let mut stream = Ctr128BE::<Aes128>::from_core(core);
        let mut skipped = [0; BLOCK_BYTES as usize];
        stream.apply_keystream(&mut skipped[..(offset % BLOCK_BYTES) as usize]);
        stream.apply_keystream(data);
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for Aes128Ctr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aes128Ctr").finish_non_exhaustive()
    }
}
