//! Machine facts, seeds, interleaving, statistics and records.

pub mod blocks;
pub mod interleave;
pub mod machine;
pub mod record;
pub mod seed;
pub mod stats;
