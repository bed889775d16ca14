//! Back-ends for x86-64, from the widest; for rs8, for rs16 (`wide_`), SHA-256 (`sha_`) and AES
//! (`aes_`).

pub(super) mod aes_ni;
pub(super) mod aes_vaes;
pub(super) mod avx2;
pub(super) mod avx2_gfni;
pub(super) mod avx512_gfni;
pub(super) mod sha_avx2;
pub(super) mod sha_avx512;
pub(super) mod sha_ni;
mod wide_avx2;
mod wide_avx2_gfni;
mod wide_avx512_gfni;
