//! The types of the options' values, each with the words that the command line and the TOML file accept.

use std::fmt;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::ValueEnum;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use toml::Value;

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

/// Bytes per second.
pub type Rate = u64;

/// What is limited; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Each connection (`--rate-per-connection`).
    pub per_connection: Option<Rate>,
    /// All connections of one IPv4 address, or of one IPv6 /64 (`--rate-per-address`).
    pub per_address: Option<Rate>,
    /// All connections of one network: IPv4 /24, IPv6 /48 (`--rate-per-network`).
    pub per_network: Option<Rate>,
}

/// How many connections one address may have (`--max-connections-per-address`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum PerAddress {
    /// A quarter of all, but 64 at least; any number for clients on this machine, where a proxy may be
    #[default]
    Usual,
    /// Any number
    Unlimited,
    /// So many
    Most(usize),
}

impl PerAddress {
    fn number(most: usize) -> PerAddress {
        match most {
            0 => PerAddress::Unlimited,
            most => PerAddress::Most(most),
        }
    }
}

impl std::str::FromStr for PerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<PerAddress, &'static str> {
        match text {
            "unlimited" => Ok(PerAddress::Unlimited),
            text => text
                .parse()
                .map(PerAddress::number)
                .map_err(|_| "not a number of connections, nor `unlimited`"),
        }
    }
}

impl TryFrom<Value> for PerAddress {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<PerAddress, &'static str> {
        match value {
            Value::String(text) => text.parse(),
            Value::Integer(number) => usize::try_from(number)
                .map(PerAddress::number)
                .map_err(|_| "not a number of connections"),
            _ => Err("not a number of connections, nor \"unlimited\""),
        }
    }
}

/// How a line of the access log is written (`--access-log-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// As Apache and nginx have it, with request id, seconds, seconds to the first byte and notes behind
    #[default]
    Combined,
    /// A JSON object per line
    Json,
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

/// A size as it was probably written: a whole number of the largest unit that allows one.
#[derive(Clone, Copy, Debug)]
pub struct Exact(pub u64);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = |base: u64, names: [&'static str; 5]| {
            let mut unit = (self.0, "B");
            for name in names {
                match unit.0 {
                    0 => break,
                    n if !n.is_multiple_of(base) => break,
                    n => unit = (n / base, name),
                }
            }
            unit
        };
        let binary = units(1024, ["KiB", "MiB", "GiB", "TiB", "PiB"]);
        let decimal = units(1000, ["KB", "MB", "GB", "TB", "PB"]);
        let (number, name) = binary.min(decimal);
        write!(f, "{number}{name}")
    }
}

/// Reads a size of the command line.
pub(super) fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse()
        .map_err(|_| "not a size, such as 512MiB, 10GB, or 4096 for bytes")
}

// The TOML file's values. `Options` holds each value as `Some`, as the command line does.

/// Reads a size, in bytes if it is a number.
pub(super) fn size_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ByteSize>, D::Error> {
    let size = match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        Value::Integer(bytes) => u64::try_from(bytes).ok().map(ByteSize),
        _ => None,
    };
    size.map(Some).ok_or_else(|| Error::custom("not a size"))
}

/// Reads a time such as `500ms`, `10s` or `2m`.
pub(super) fn time_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<humantime::Duration>, D::Error> {
    let time = match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    time.map(Some).ok_or_else(|| Error::custom("not a time"))
}

/// Reads a number of things.
pub(super) fn number_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<usize>, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Integer(number) => usize::try_from(number).ok(),
        _ => None,
    };
    number
        .map(Some)
        .ok_or_else(|| Error::custom("not a whole number"))
}

/// Reads a list of texts, or one text.
pub(super) fn list_key<'de, D: Deserializer<'de>, T: std::str::FromStr>(
    deserializer: D,
) -> Result<Vec<T>, D::Error>
where
    T::Err: fmt::Display,
{
    let texts = match Value::deserialize(deserializer)? {
        Value::Array(values) => values,
        value => vec![value],
    };
    let text = |value: Value| match value {
        Value::String(text) => text.parse().map_err(Error::custom),
        _ => Err(Error::custom("not a text, nor a list of texts")),
    };
    texts.into_iter().map(text).collect()
}

/// Reads a list of directories, or one directory.
pub(super) fn directories_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<PathBuf>, D::Error> {
    let path = |value: Value| match value {
        Value::String(path) => Some(PathBuf::from(path)),
        _ => None,
    };
    let paths = match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(path).collect(),
        value => path(value).map(|path| vec![path]),
    };
    paths.ok_or_else(|| Error::custom("not a directory, nor a list of directories"))
}

/// Reads a list of files, or one file.
pub(super) fn files_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<PathBuf>, D::Error> {
    directories_key(deserializer).map_err(|_| Error::custom("not a file, nor a list of files"))
}

/// Reads a port, or that there is one.
pub(super) fn port_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u16>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Boolean(is_wanted) => Ok(is_wanted.then_some(0)),
        Value::Integer(port) => match u16::try_from(port) {
            Ok(port) => Ok(Some(port)),
            Err(_) => Err(Error::custom("not a port")),
        },
        _ => Err(Error::custom("neither a port nor true or false")),
    }
}

/// Reads a list of words, or one word.
pub(super) fn words_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let word = |value: Value| match value {
        Value::String(word) => Some(word),
        _ => None,
    };
    let words = match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().map(word).collect(),
        value => word(value).map(|word| vec![word]),
    };
    words.ok_or_else(|| Error::custom("not a text, nor a list of texts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_they_were_written() {
        for text in [
            "0B",
            "1B",
            "1023B",
            "4KiB",
            "70KB",
            "512MiB",
            "1GiB",
            "64TiB",
            "10GB",
            "100000001B",
        ] {
            assert_eq!(Exact(size(text).unwrap().0).to_string(), text);
        }
        for text in ["", "big", "-1", "1 parsec", "MiB", "0x10"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
