//! The fields that the codes compute in, one element at a time. It is the lowest room of the crate.
//! Only plans, tables and tests compute with single elements; [`crate::arch`] computes with whole
//! slices.

pub(crate) mod gf16;
pub(crate) mod gf8;
