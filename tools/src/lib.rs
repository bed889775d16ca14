//! File work for Penstock: the directory stores and what is done with the objects in them. All of it
//! blocks; the server calls [`store`] from where blocking is allowed, and the rest is for the command line.
//! [`load`] stands apart: a load generator for any HTTP server.

mod error;
pub mod get;
pub mod load;
mod progress;
pub mod put;
mod rows;
pub mod store;
mod temp;
mod write;

pub use error::FileError;
pub use progress::Progress;
pub use rows::{ReadStats, RowError};
