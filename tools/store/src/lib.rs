//! Objects in directory stores and all operations on their files: [`put`], [`get`], [`ls`], [`verify`], [`repair`],
//! [`inspect`]. Also Tahoe-LAFS files in the directories of storage nodes ([`tahoe`]).
//!
//! Formats, codes and checksums are in `decode_kernel`; arguments, output and exit status are in the server's command
//! line. Every function here blocks. The server opens objects with [`open_object`] on a thread that may block, and then
//! reads shares and verifies leaves itself.

mod check;
mod error;
pub mod get;
pub mod inspect;
pub mod ls;
#[cfg(test)]
mod model_tests;
mod open;
mod progress;
pub mod put;
pub mod repair;
pub mod rm;
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
    Id, Look, Marker, NewStore, OpenError, OpenObject, OpenShare, PassedOver, Presence,
    RejectReason, Rejected, Scan, StoreError, check_stores, fingerprint, init, look, open_object,
    presence, refuse_duplicates,
};
