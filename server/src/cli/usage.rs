//! What several commands have to say of a command line: keys in it, and what is wrong with it.

use std::process::ExitCode;

use decode_kernel::share::Key;

/// Reads a key from the command line.
pub(super) fn key(text: &str) -> Result<Key, String> {
    Key::new(text).map_err(|error| error.to_string())
}

/// Options that make no sense together, or without one that is missing, where clap can't tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WrongUsage(pub(super) &'static str);

/// The exit status for an error: that of a wrong command line, or 1.
pub(crate) fn status_of(error: &anyhow::Error) -> ExitCode {
    match error.is::<WrongUsage>() {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}
