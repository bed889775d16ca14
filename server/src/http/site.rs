//! What the operator says of the site as a whole.

use super::cors::Cors;
use crate::config::proxies::Proxies;

/// Rules for all objects of the site.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Which pages of other origins may read responses.
    pub cors: Cors,
    /// The file that a path ending in `/` means, if there is one.
    pub index: Option<String>,
    /// The proxies in front.
    pub proxies: Proxies,
}
