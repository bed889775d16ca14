//! What a key names: an object, its shares, and what is known of their health.
//!
//! One core has one [`Catalogue`]. This room reads directories and headers; the bytes of blocks are read above.

pub mod catalogue;
pub mod checksums;
pub mod codes;
pub mod error;
pub mod handle;
pub mod layout;
pub mod lines;
pub mod object;
pub mod open_files;
pub mod servable;
pub mod share;
pub mod survey;
pub mod verified;

pub use catalogue::{Catalogue, Health, ObjectHandle};
pub use error::LookupError;
pub use handle::Handle;
pub use layout::Layout;
pub use object::{Lacking, Object};
pub use share::{DirectFile, Share};
pub use survey::Survey;
