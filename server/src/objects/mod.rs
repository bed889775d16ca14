//! Objects: what a key names, its shares, and what is known of them.

pub mod checksums;
pub mod object;
pub mod open_files;
pub mod verified;
