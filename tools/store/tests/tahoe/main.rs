//! Tahoe-LAFS files: those that real uploaders made, those a lying one could make, and shares that
//! decayed or were tampered with.

mod common;
mod damage;
mod lies;
mod report;
mod vectors;
