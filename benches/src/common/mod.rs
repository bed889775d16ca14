//! Machine facts, buffers, clocks, seeds, interleaving, statistics and records.

pub mod blocks;
pub mod cpu;
pub mod interleave;
pub mod machine;
pub mod record;
pub mod seed;
pub mod stats;
