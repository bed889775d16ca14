//! An address to listen on, in the forms that other servers take.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// An address to listen on. Names are resolved when the server starts to listen, and not before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// This one.
    Exact(SocketAddr),
    /// All addresses of the machine: `:8080`, `*:8080` or `8080`, as nginx and Caddy have it.
    All(u16),
    /// What this name resolves to.
    Named {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A text that is no [`Address`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address to listen on; the forms are {FORMS}")]
pub struct AddressError;

/// The forms of an address, for messages.
pub const FORMS: &str = "127.0.0.1:8080, [::1]:8080, localhost:8080, and :8080 or 8080 for all addresses of the machine";

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Ok(address) = text.parse() {
            return Ok(Address::Exact(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        // `parse` would take a sign.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError);
        }
        let port = port.parse().map_err(|_| AddressError)?;
        if matches!(host, "" | "*") {
            return Ok(Address::All(port));
        }
        // An IPv6 address without brackets has colons too, and nobody can tell which of them ends it.
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        // A resolver would take a part of an IPv4 address, such as 127.1, for a whole one, and so a typing error.
        let number = host
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !host.bytes().all(of_a_name) || number {
            return Err(AddressError);
        }
        let host = host.to_owned();
        Ok(Address::Named { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Exact(address) => address.fmt(f),
            Address::All(port) => write!(f, ":{port}"),
            Address::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Exact(address)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            // `listen = 8080`
            toml::Value::Integer(port) => port.to_string(),
            _ => return Err(serde::de::Error::custom(AddressError)),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the admin listener is: an address, or a socket in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address, as for objects.
    Tcp(Address),
    /// `unix:/run/penstock/admin.sock`.
    Unix(PathBuf),
}

/// A text that is no [`AdminAddress`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address to listen on; the forms are unix:/path/of/a/socket, {FORMS}")]
pub struct AdminAddressError;

impl FromStr for AdminAddress {
    type Err = AdminAddressError;

    fn from_str(text: &str) -> Result<AdminAddress, AdminAddressError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(AdminAddress::Unix(path.into())),
            Some(_) => Err(AdminAddressError),
            None => text
                .parse()
                .map(AdminAddress::Tcp)
                .map_err(|_| AdminAddressError),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for AdminAddress {
    fn from(address: SocketAddr) -> AdminAddress {
        AdminAddress::Tcp(address.into())
    }
}

impl<'de> Deserialize<'de> for AdminAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AdminAddress, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Integer(port) => port.to_string(),
            _ => return Err(serde::de::Error::custom(AdminAddressError)),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_listener_may_be_a_socket_file() {
        let unix = AdminAddress::Unix("/run/a.sock".into());
        assert_eq!("unix:/run/a.sock".parse(), Ok(unix.clone()));
        assert_eq!(unix.to_string(), "unix:/run/a.sock");
        assert_eq!(":9090".parse(), Ok(AdminAddress::Tcp(Address::All(9090))));
        for text in ["unix:", "unix:a.sock", "/run/a.sock"] {
            assert_eq!(
                text.parse::<AdminAddress>(),
                Err(AdminAddressError),
                "{text}"
            );
        }
    }

    #[test]
    fn the_forms() {
        let named = |host: &str| Address::Named {
            host: host.to_owned(),
            port: 80,
        };
        for (text, address) in [
            ("127.0.0.1:80", Address::Exact(([127, 0, 0, 1], 80).into())),
            ("[::1]:80", Address::Exact("[::1]:80".parse().unwrap())),
            ("[::]:80", Address::Exact("[::]:80".parse().unwrap())),
            (":80", Address::All(80)),
            ("*:80", Address::All(80)),
            ("80", Address::All(80)),
            (":0", Address::All(0)),
            ("localhost:80", named("localhost")),
            ("edge-1.example.org:80", named("edge-1.example.org")),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
        for text in [
            "",
            ":",
            "localhost",
            "localhost:",
            "localhost:http",
            "127.0.0.1",
            "127.1:80",
            "1.2.3.4.5:80",
            "::1:80",
            ":+80",
            "+80",
            "65536",
            ":65536",
            "http://localhost:80",
            "a b:80",
            "[::1]",
            "[localhost]:80",
            "-1",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains(FORMS), "{text}");
        }
    }
}
