//! The types of the options' values.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time as people write it: `500ms`, `10s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// When a leaf is verified (`--verify`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyWhen {
    /// When it is read for the first time, when its file changed, and when that is long ago.
    #[default]
    Once,
    /// Every time it is sent.
    Always,
}

impl FromStr for VerifyWhen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "once" => Ok(VerifyWhen::Once),
            "always" => Ok(VerifyWhen::Always),
            _ => Err(format!(
                "`{text}` is not a time to verify: use once or always"
            )),
        }
    }
}
