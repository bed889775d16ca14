//! The codes that exist.

/// A code. The numbers are those of the share format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodeKind {
    /// GF(2^8), polynomial 0x11D, zfec's systematic matrix; up to 256 shares.
    Rs8 = 1,
    /// GF(2^16), the code of the crate `reed-solomon-simd`; for wide codes.
    Rs16 = 2,
}

impl std::fmt::Display for CodeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            CodeKind::Rs8 => "rs8",
            CodeKind::Rs16 => "rs16",
        })
    }
}
