//! The target: parses a URL, resolves its host once, and refuses other machines.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::error::LoadError;

/// The server and the path requested.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Whether the URL is of `https`.
    pub(crate) tls: bool,
    /// The Host header's value.
    pub(crate) host: String,
    /// Path and query, starting with `/`.
    pub(crate) path: String,
}

impl Target {
    pub(crate) fn parse(url: &str, allow_remote: bool) -> Result<Target, LoadError> {
        let fail = |reason: &str| LoadError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let uri: http::Uri = url.parse().map_err(|error| fail(&format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(fail("not of the form http[s]://host[:port]/path")),
        };
        let authority = uri.authority().ok_or_else(|| fail("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(fail("a user name in it is not supported"));
        }
        // authority.port() is None for an invalid port, too.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port
                .strip_prefix(':')
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| fail("its port is not in 1..=65535"))?,
            None => return Err(fail("it names no host")),
        };
        let bare = bare(authority.host());
        let address = (bare, port)
            .to_socket_addrs()
            .and_then(|mut found| {
                found
                    .next()
                    .ok_or_else(|| std::io::Error::other("the name has no address"))
            })
            .map_err(|source| LoadError::Resolve {
                host: bare.to_owned(),
                source,
            })?;
        if !is_local(address.ip()) && !allow_remote {
            return Err(LoadError::Remote {
                host: bare.to_owned(),
                address: address.ip(),
            });
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            address,
            tls,
            host: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }

    /// The host without port and brackets, as certificates name it.
    pub(crate) fn bare_host(&self) -> &str {
        let host: Option<&str> = match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(host),
            _ => None,
        };
        bare(host.unwrap_or(&self.host))
    }

    pub(crate) fn is_local(&self) -> bool {
        is_local(self.address.ip())
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let target = Target::parse("http://127.0.0.1:8080/a%20b?x=1", false).unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(
            (target.host.as_str(), target.path.as_str()),
            ("127.0.0.1:8080", "/a%20b?x=1")
        );
        let target = Target::parse("https://[::1]", false).unwrap();
        assert_eq!(
            (target.address, target.tls),
            ("[::1]:443".parse().unwrap(), true)
        );
        let target = Target::parse("http://[::1]", false).unwrap();
        assert_eq!(
            (target.address, target.tls),
            ("[::1]:80".parse().unwrap(), false)
        );
        assert_eq!((target.host.as_str(), target.path.as_str()), ("[::1]", "/"));
    }

    #[test]
    fn other_machines_are_refused_unless_allowed() {
        for url in [
            "http://192.0.2.1/",
            "http://[2001:db8::1]:81/x",
            "http://0.0.0.0:80/",
        ] {
            let error = Target::parse(url, false).unwrap_err();
            assert!(matches!(error, LoadError::Remote { .. }), "{url}: {error}");
            assert!(Target::parse(url, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "x",
            "/x",
            "ftp://127.0.0.1/",
            "http://u@127.0.0.1/",
            "http://127.0.0.1:99999/",
        ] {
            assert!(
                matches!(Target::parse(url, false), Err(LoadError::Url { .. })),
                "{url}"
            );
        }
    }
}
