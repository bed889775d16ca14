//! Penstock's server: erasure-coded objects over HTTP in bounded memory.
//!
//! The modules in the order that data moves. `http`, `engine::plan` and `connection::gate` know no ring, clock or
//! descriptor; `io` knows no HTTP; only `connection::driver` and `body` see both.

pub mod config;
pub mod control;

pub mod connection;

pub mod http;

pub mod body;

pub mod tahoe;

pub mod engine;

pub mod objects;

pub mod io;

pub mod memory;

pub mod stats;
