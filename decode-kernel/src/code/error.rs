//! Errors of calls to a code, with the numbers that disagreed.

use super::kind::CodeKind;

/// Why a code could not be made, or a call to it was refused. No output is written on error.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CodeError {
    /// A number that names no code.
    #[error("unknown code number {0}: 1 is rs8, 2 is rs16")]
    UnknownKind(u8),
    /// A name that names no code.
    #[error("unknown code name: known are rs8 and rs16")]
    UnknownName,
    /// No such code exists: `k` must be at least 1, `n` at least `k`, and both within the field.
    #[error("{kind} has no {k}-of-{n} code: 1 <= k <= n <= {n_max} is needed")]
    Shape {
        /// The requested code.
        kind: CodeKind,
        /// Requested data shares.
        k: usize,
        /// Requested shares in all.
        n: usize,
        /// The most shares this code can have (for rs16 the exact bound depends on k as well).
        n_max: usize,
    },
    /// The number of sources is not `k`.
    #[error("{got} source shares given, the code rebuilds from exactly {k}")]
    Sources {
        /// Data shares of the code.
        k: usize,
        /// Sources given.
        got: usize,
    },
    /// The number of slices is not the number of shares.
    #[error("{got} {role} slices given for {expected} {role} shares")]
    Slices {
        /// Which list of slices.
        role: Role,
        /// The number of shares.
        expected: usize,
        /// Slices given.
        got: usize,
    },
    /// A share number the code does not have.
    #[error("{role} share {number} is out of range: the code has shares 0..{n}")]
    Number {
        /// Which list of shares.
        role: Role,
        /// The number given.
        number: usize,
        /// Shares of the code.
        n: usize,
    },
    /// A share number given twice.
    #[error("{role} share {number} is given twice")]
    Twice {
        /// The list in which it occurs the second time.
        role: Role,
        /// The number given.
        number: usize,
    },
    /// A wanted share that is also a source.
    #[error("share {number} is wanted, but it is one of the sources")]
    WantedIsSource {
        /// The number given.
        number: usize,
    },
    /// Slices of unequal lengths.
    #[error("{role} slice {index} has {got} bytes, the first input has {expected}")]
    Length {
        /// Which list of slices.
        role: Role,
        /// Its position in that list.
        index: usize,
        /// Bytes of the first input.
        expected: usize,
        /// Bytes of this slice.
        got: usize,
    },
    /// A length the code cannot work on.
    #[error("{got} bytes are not a multiple of the code's {granularity}")]
    Granularity {
        /// Bytes of the slices.
        got: usize,
        /// The unit that lengths must be a multiple of.
        granularity: usize,
    },
    /// The crate behind rs16 refused a call that was checked here: a bug, not a caller's mistake.
    #[error("rs16: {0}")]
    Rs16(#[from] reed_solomon_simd::Error),
}

/// The list of a call that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Source shares, `sources` and `inputs`.
    Source,
    /// Wanted shares, `wanted` and `outputs`.
    Wanted,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Source => "source",
            Role::Wanted => "wanted",
        })
    }
}
