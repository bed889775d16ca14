//! The fields that the codes compute in, one element at a time: below everything else. Only plans,
//! tables and tests compute with single elements; whole slices are the business of [`crate::arch`].

pub(crate) mod gf16;
pub(crate) mod gf8;
