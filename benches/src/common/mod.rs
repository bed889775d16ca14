//! Machine facts, buffers, clocks, seeds, interleaving, statistics, records and pictures; servers as child
//! processes, what they use, and the objects they serve.

pub mod blocks;
pub mod certificate;
pub mod cpu;
pub mod gets;
pub mod interleave;
pub mod launch;
pub mod lines;
pub mod machine;
pub mod nginx;
pub mod object;
pub mod picture;
pub mod record;
pub mod scratch;
pub mod seaweed;
pub mod seed;
pub mod sink;
pub mod stats;
pub mod tahoe_lafs;
pub mod usage;
