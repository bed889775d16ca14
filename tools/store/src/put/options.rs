//! What a put is to do.

use std::num::NonZeroU64;

use decode_kernel::code::CodeKind;
use decode_kernel::share::{Fields, Key};

use crate::store::Store;

/// The default block length in bytes: as long as k blocks are at most 480 KiB, from 16 to 64 KiB in steps of 16. Long
/// blocks mean fewer reads for the same bytes. A whole segment and its rebuilt blocks should fit one of the server's
/// pool buffers (768 KiB), or ranges are read more than once. They are also read more than once where a connection's
/// piece (128 KiB and more) covers only few of the blocks that are lost together. Measured with k = 10 and four shares
/// lost, each block rebuilt for one connection only: see docs/decisions/0014.
pub fn default_block_bytes(k: u16) -> u32 {
    const STEP: u32 = 16 << 10;
    let most = (480 << 10) / u32::from(k.max(1));
    (most / STEP * STEP).clamp(STEP, 4 * STEP)
}
/// The longest segment (k blocks) that put accepts, in bytes: put holds one whole segment in memory.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// The object to store, its code, and the stores.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// The stores of one set. At most one share of the object goes to each.
    pub stores: Vec<Store>,
    /// k: the number of data shares, which is also the number needed to read.
    pub data: u16,
    /// m: the number of parity shares, which is also the number that may be lost. n = k + m.
    pub parity: u16,
    /// The object's name.
    pub key: Key,
    /// Block length in bytes: a multiple of 4096 up to 16 MiB, with k of them at most
    /// [`SEGMENT_BYTES_MAX`].
    pub block_size: u32,
    /// The code. If `None`, rs8 up to n = 256 and rs16 above.
    pub code: Option<CodeKind>,
    /// The media type; guessed from the extension of the key if `None`.
    pub content_type: Option<String>,
    /// When the object expires, in seconds since 1970. A time that has passed is accepted.
    pub expires: Option<NonZeroU64>,
    /// Header fields that a server sends with it.
    pub fields: Fields,
    /// Length of the source in bytes, if known. Stores without room for their share are passed over.
    pub size_hint: Option<u64>,
    /// How many shares must be written at least, from k + 1 to n; all of them if `None`. A repair adds those that are
    /// missing.
    pub min_shares: Option<u16>,
    /// Whether an object that exists is left as it is.
    pub no_clobber: bool,
    /// Which stores get the shares.
    pub placement: Placement,
}

/// Which stores get the shares of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Those that the key prefers, spread over failure domains.
    #[default]
    Hashed,
    /// Share i to the i-th store, for tests and benchmarks that lose a certain share.
    Listed,
}
