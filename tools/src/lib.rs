//! File work for Penstock: the directory stores and what is done with the objects in them. All of
//! it blocks; the server calls [`store`] from where blocking is allowed, and the rest is for the
//! command line. [`load`] stands apart: a load generator for any HTTP server.

mod check;
mod error;
pub mod get;
pub mod inspect;
pub mod load;
pub mod ls;
mod open;
mod progress;
pub mod put;
pub mod repair;
mod rows;
pub mod store;
pub mod tahoe;
mod temp;
pub mod verify;
mod write;

pub use check::Finding;
pub use error::FileError;
pub use progress::Progress;
pub use rows::{ReadStats, RowError};
