//! What producing bytes takes.

pub mod plan;
