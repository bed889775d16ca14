//! What an operator may set: options from the command line and a TOML file, checked to become settings.

pub mod address;
pub mod bounds;
pub mod bucket;
mod commented;
pub mod file;
mod live;
pub mod options;
pub mod origin;
pub mod proxies;
pub mod settings;
mod token;
pub mod values;

pub use commented::commented;
pub use file::{ConfigError, load, stores};
pub use live::Live;
pub use options::Options;
pub use settings::Settings;
pub use token::Token;
