//! Tahoe-LAFS immutable files: get, verify and inspect them in the directories in which storage
//! nodes keep shares. The format itself is in [`decode_kernel::tahoe`].
//!
//! ```text
//! <node>/storage/shares/<ab>/<storage index>/<share number>    one or many shares on a node
//! <node>/storage/shares/incoming/...                           unfinished uploads, never looked at
//! ```
//!
//! No index says which node has which share, so all nodes are searched. A share's number is taken
//! from its file name and then checked against the share's hash chain. Unusable shares are skipped
//! and reported. Caps are secrets and are never printed: messages name the storage index.
//!
//! The feature `test-writer` adds `write`, which makes share files for tests and benchmarks.

mod blocks;
pub mod get;
pub mod inspect;
mod nodes;
mod open;
mod reader;
mod rejected;
pub mod verify;
#[cfg(feature = "test-writer")]
pub mod write;

pub use nodes::share_root;
pub use open::{
    Limits, NodeLook, OpenError, OpenFile, OpenShare, SEGMENT_MAX_DEFAULT, assemble, look, open,
};
pub use reader::{ReadError, ReadStats, Reader};
pub use rejected::{RejectReason, Rejected};
