//! Back-ends for 64-bit ARM; for rs8, and for rs16 (`wide_`).

pub(super) mod neon;
mod wide_neon;
