//! Bodies: where a piece comes from, and how it leaves.

pub mod hot;
pub mod produce;
pub mod readahead;
pub mod rebuilt;
pub mod resource;
pub mod ring;
pub mod splice;
pub mod zero_copy;
