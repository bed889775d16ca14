//! What an operator may set: options from the command line and a TOML file, checked to become settings.

pub mod address;
pub mod bounds;
pub mod file;
pub mod options;
pub mod origin;
pub mod settings;
pub mod values;

pub use file::{ConfigError, load};
pub use options::Options;
pub use settings::Settings;
