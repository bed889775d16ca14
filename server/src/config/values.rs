//! The types of the options' values, each with the words that the command line and the TOML file accept.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

/// How the cores talk to the kernel (`--io`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// io_uring if the kernel allows it, else epoll
    #[default]
    Auto,
    /// io_uring; the server does not start without it
    Uring,
    /// epoll, never io_uring
    Epoll,
}

/// What happens to a connection beyond the limit (`--over-limit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLimit {
    /// It gets 503 with Retry-After
    #[default]
    Refuse,
    /// It waits in the listen backlog until another connection ends
    Wait,
}

/// When leaves are verified (`--verify`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyWhen {
    /// When they are first read, after their file changed or their pages left the page cache, and after --verify-age
    #[default]
    Once,
    /// Every time they are sent; nothing is sent straight from the page cache
    Always,
}

/// When pieces are sent zero-copy (`--zero-copy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopyMode {
    /// Fast clients, except on networks where the kernel reports that it copies
    #[default]
    Auto,
    /// All clients, whatever the kernel reports: for tests. The limits on pinned buffers hold
    Always,
    /// No client
    Off,
}

impl fmt::Display for ZeroCopyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ZeroCopyMode::Auto => "auto",
            ZeroCopyMode::Always => "always",
            ZeroCopyMode::Off => "off",
        })
    }
}

/// Reads a time such as `500ms`, `10s` or `2m` from a TOML file, as the command line does.
pub(super) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<humantime::Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
