//! Tahoe-LAFS files: files that real uploaders made, files that a lying uploader could make, and
//! shares that decayed or were tampered with.

mod common;
mod damage;
mod lies;
mod report;
mod vectors;
