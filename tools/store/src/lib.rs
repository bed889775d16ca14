//! Objects in directory stores, and all work on their files: [`put`], [`get`], [`ls`], [`verify`],
//! [`repair`], [`inspect`]; and Tahoe-LAFS files in the directories of storage nodes ([`tahoe`]).
//!
//! The formats, codes and checksums are `decode_kernel`'s; arguments, output and exit status are the
//! command line's. Everything here blocks. The server opens objects with [`open_object`], on a thread
//! that may block, and reads shares and verifies leaves by itself.

mod check;
mod error;
pub mod get;
pub mod inspect;
pub mod ls;
mod open;
mod progress;
pub mod put;
pub mod repair;
mod rows;
mod store;
pub mod tahoe;
mod temp;
pub mod verify;
mod write;

pub use check::Finding;
pub use error::FileError;
pub use progress::Progress;
pub use rows::{ReadStats, RowError};
pub use store::{
    OpenError, OpenObject, OpenShare, RejectReason, Rejected, check_stores, fingerprint,
    open_object,
};
