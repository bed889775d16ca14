//! Tahoe-LAFS immutable files, read from the directories in which storage nodes keep shares: got,
//! verified and inspected. The format itself is [`decode_kernel::tahoe`].
//!
//! ```text
//! <node>/storage/shares/<ab>/<storage index>/<share number>    one or many shares on a node
//! <node>/storage/shares/incoming/...                           unfinished uploads, never looked at
//! ```
//!
//! Nothing tells which node has what, so all are looked at. A file name is believed only so far as
//! the share's own proof says the same. Shares that are no good are passed over and told of; caps,
//! being secrets, never are: messages name the storage index.
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
pub use open::{Limits, OpenError, OpenFile, OpenShare, SEGMENT_MAX_DEFAULT, open};
pub use reader::{ReadError, ReadStats, Reader};
pub use rejected::{RejectReason, Rejected};
