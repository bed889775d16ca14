//! Penstock's server: erasure-coded objects over HTTP in bounded memory.
//!
//! The rooms in the order that data moves, from the command line down to the kernel; each imports only rooms below it.
//! `http` knows bytes and heads, neither sockets nor objects; `io` knows sockets and files, neither HTTP nor objects.
//! `connection` drives both: it opens what a request names and lets `body` send it, by an `engine` that reads `objects`.

pub mod control;

pub mod connection;

pub mod http;

pub mod s3;

pub mod body;

pub mod tahoe;

pub mod engine;

pub mod objects;

pub mod stores;

pub mod remote;

pub mod config;

pub mod io;

pub mod tls;

pub mod memory;

pub mod stats;

pub mod units;
