//! Objects in stores, which are directories or buckets, and all operations on their files: [`put`], [`get`], [`ls`], [`stat`], [`df`],
//! [`verify`], [`repair`], [`inspect`]. Also Tahoe-LAFS files in the directories of storage nodes ([`tahoe`]).
//!
//! Formats, codes and checksums are in `decode_kernel`; arguments, output and exit status are in the server's command
//! line. Every function here blocks. The server opens objects with [`open_object`] on a thread that may block, and then
//! reads shares and verifies leaves itself.

mod check;
mod count;
mod date;
pub mod df;
mod error;
pub mod get;
pub mod inspect;
mod json;
pub mod ls;
#[cfg(test)]
mod model_tests;
mod new_file;
mod open;
mod pace;
mod parallel;
mod progress;
pub mod put;
mod rate;
pub mod rebalance;
pub mod repair;
pub mod rm;
mod rows;
mod size;
pub mod stat;
mod store;
pub mod survey;
pub mod tahoe;
mod temp;
pub mod verify;
mod walk;
mod write;

pub use check::{Finding, Subject};
pub use count::Count;
pub use error::FileError;
pub use progress::Progress;
pub use rows::{ReadStats, RowError};
pub use store::{
    Backing, BucketFile, BucketStore, Id, Listed, Look, MARKER, Marker, NewStore, OpenError,
    OpenFile, OpenObject, OpenShare, PassedOver, Presence, RejectReason, Rejected, Scan, Store,
    StoreError, check_stores, fingerprint, init, look, open_object, presence, read_header,
    refuse_duplicates,
};
pub use temp::without_temporary_name;
pub use walk::Walk;
