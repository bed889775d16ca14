//! Erasure codes, share formats, hashes and ciphers for Penstock: bytes in, bytes out. No I/O and
//! no threads; all buffers are the caller's. A call allocates nothing if its erasure pattern was
//! used before.
//!
//! An object is cut into segments, a segment into `k` data blocks, and the code adds `n - k` parity
//! blocks. From any byte range of any `k` of the `n` shares, the same range of any other share can
//! be computed. So only missing bytes are computed, and only in the range that is needed.
//!
//! - [`code`]: the two codes, `rs8` (GF(2^8), zfec's code) and `rs16` (GF(2^16), wide), behind one
//!   [`code::Coder`].
//! - [`arch`]: the arithmetic of all these, one back-end per instruction set, and the choice among
//!   them.
//! - [`share`]: the share format: header, geometry, leaf checksums, names.
//! - [`tahoe`]: the format of Tahoe-LAFS immutable files: caps, shares, hash trees.
//! - [`sha256`], [`aes`]: what that format hashes and encrypts with: SHA-256d of many blocks in
//!   lockstep, AES-128-CTR from any byte on.
//!
//! # Example
//!
//! Two of six shares are lost; the range of the missing data share is rebuilt from four others.
//!
//! ```
//! use decode_kernel::code::{Code, CodeKind, Coder};
//!
//! let code = Code::new(CodeKind::Rs8, 4, 6)?;
//! let mut coder = Coder::new(16);
//!
//! let data: Vec<Vec<u8>> = (0..4u8).map(|j| vec![j * 31 + 7; 1000]).collect();
//! let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
//! let mut parity = vec![vec![0u8; 1000]; 2];
//! let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
//! coder.encode(&code, &data, &mut outputs)?;
//!
//! // Shares 1 and 4 are gone. Bytes 100..228 of share 1, from shares 0, 2, 3 and 5:
//! let inputs = [&data[0][100..228], &data[2][100..228], &data[3][100..228], &parity[1][100..228]];
//! let mut rebuilt = [0u8; 128];
//! coder.rebuild(&code, &[0, 2, 3, 5], &inputs, &[1], &mut [&mut rebuilt])?;
//! assert_eq!(rebuilt, data[1][100..228]);
//! # Ok::<(), decode_kernel::CodeError>(())
//! ```

pub mod aes;
pub mod arch;
pub mod code;
mod field;
pub mod sha256;
pub mod share;
pub mod tahoe;

pub use code::{CodeError, Role};

/// README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
