//! Penstock's server: erasure-coded objects over HTTP in bounded memory.
//!
//! The modules in the order that data moves. `http`, `plan`, `gate` and `conn` know no ring, clock or
//! descriptor; `io` knows no HTTP; only `drive`, `produce` and `pass` see both.

pub mod config;
pub mod limits;

pub mod serve;
pub mod worker;

pub mod accept;
pub mod admission;
pub mod budget;
pub mod core;
pub mod watch;

pub mod conn;
pub mod http;
pub mod object;
pub mod open_files;
pub mod resource;
pub mod tables;
pub mod tahoe;

pub mod gate;
pub mod pace;
pub mod plan;

pub mod ahead;
pub mod drive;
pub mod hot;
pub mod pass;
pub mod produce;
pub mod rebuilt;
pub mod ring;
pub mod verified;
pub mod zero_copy;

pub mod io;

pub mod admin;
pub mod stats;
