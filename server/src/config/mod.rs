//! What an operator may set: options from the command line and a TOML file, checked to become settings.

pub mod options;
pub mod settings;
pub mod values;

pub use options::Options;
pub use settings::Settings;
