//! The marker of a store, as text: which store it is, and of which set.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// The marker's file name, in the store's directory.
pub const MARKER: &str = "penstock-store.toml";
/// The format that this release reads and writes.
pub(super) const FORMAT: u32 = 1;

/// 128 random bits that name a store, or a set of stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(pub u128);

impl Id {
    pub(super) fn random() -> io::Result<Id> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Id(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Id, String> {
        let id = u128::from_str_radix(&text, 16).ok().map(Id);
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not an id: 32 lower-case hex characters"))
    }
}

/// The contents of a store's marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The format of the store: 1.
    pub format: u32,
    /// The store's own id.
    pub store: Id,
    /// The id of the set of stores that objects are spread over.
    pub set: Id,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
    /// What fails together with this store: a host, a controller, a shelf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The fewest shares that a put ever spread over the set: an object has a share in at least as many stores. `None`
    /// before the first put, and in stores that are older than their marker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_shares: Option<u16>,
    /// Whether the store is being emptied: nothing is put there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

impl Marker {
    /// Reads the text of a marker.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Marker, String> {
        let marker: Marker = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if marker.format != FORMAT {
            return Err(format!(
                "its format is {}; this release knows format {FORMAT}: use a newer one",
                marker.format
            ));
        }
        Ok(marker)
    }
}
