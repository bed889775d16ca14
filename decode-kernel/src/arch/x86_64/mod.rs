//! Back-ends for x86-64, from the widest.

pub(super) mod avx2;
pub(super) mod avx2_gfni;
pub(super) mod avx512_gfni;
