//! Back-ends for x86-64, from the widest; for rs8, and for rs16 (`wide_`).

pub(super) mod avx2;
pub(super) mod avx2_gfni;
pub(super) mod avx512_gfni;
mod wide_avx2;
mod wide_avx2_gfni;
mod wide_avx512_gfni;
