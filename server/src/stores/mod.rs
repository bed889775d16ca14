//! The stores: directories, and buckets of remote stores, that may hang, fail or be slow, each with a deadline and threads of its own.
//!
//! All cores share one [`Stores`]. A call on a store runs on one of its few [threads](crate::io::Threads), and is waited
//! for until the deadline. A store that is late, fails or is slow is suspended ([`health`]): nobody asks it any more, its
//! shares count as lost, and it is tried again in the background (`watch.rs`) until it answers. Other stores don't notice.

mod all;
mod ask;
pub mod counts;
pub mod health;
mod look_up;
mod probe;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use all::{Stores, StoresError};
pub use health::{Cause, State};
pub use look_up::Recheck;
pub use probe::{Disk, Found};
pub use store::{Hung, OpenHere, Report, Store, object_number};
