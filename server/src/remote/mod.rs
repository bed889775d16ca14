//! Shares in remote stores: local files that are filled as their bytes are wanted (0044).
//!
//! ```text
//! body/fetch: k of n are chosen -> Fetcher: a slot -> ranged GET -> CachedShare: units of a sparse file
//!      ^                                                                |
//!      +---------------- progress, or the alarm of a late one ----------+
//! ```
//!
//! A share of a remote store has a file in the [`Cache`], of the share's own format, and from there on everything is as
//! for a local store. Requests run on the one thread of [`penstock_remote::Client`].

mod cache;
mod context;
mod fetch;
mod fetcher;
mod listing;
mod origin;
mod pace;
mod share;
mod space;

pub use cache::{Cache, CacheError};
pub use context::{Remote, RemoteOptions, StartError};
pub use fetch::{Fetch, Outcome};
pub use fetcher::{FetchCounts, Fetcher, HedgeRefusal};
pub use origin::{Counts, Origin};
pub use pace::Pace;
pub use share::CachedShare;
pub use space::Place;
