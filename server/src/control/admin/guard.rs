//! Who may ask the admin listener: by which name, and with which secret.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::http::uri::Authority;
use hyper::{Request, Version};

use crate::config::Live;
use crate::config::address::{Address, AdminAddress};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no Host, or more than one, or what it has is none.
    NoHost,
    /// It asks for a name that is not ours.
    Host,
    /// It lacks the token.
    Token,
}

/// The paths that need no token: they say a word, and load balancers ask for them.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Whether a request may be answered. Over a socket in the file system only those come who may open it, so its `Host` does
/// not matter.
pub(super) fn check<B>(
    request: &Request<B>,
    admin: &AdminAddress,
    live: &Live,
) -> Result<(), Refusal> {
    if let AdminAddress::Tcp(address) = admin {
        check_host(request, address, &live.admin_hosts)?;
    }
    match &live.admin_token {
        Some(token) if !OPEN.contains(&request.uri().path()) => {
            let secret = secret(request).ok_or(Refusal::Token)?;
            token.is(&secret).then_some(()).ok_or(Refusal::Token)
        }
        _ => Ok(()),
    }
}

/// A page of any site can have a browser ask this listener, by a name that the site's owner lets point here (DNS
/// rebinding), and read the answer. Such a name can't be an address, and is none of ours.
fn check_host<B>(request: &Request<B>, address: &Address, names: &[String]) -> Result<(), Refusal> {
    let mut fields = request.headers().get_all(HOST).iter();
    let host = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::NoHost);
    }
    // The target's authority goes before Host (RFC 9112 section 3.2.2).
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| Refusal::NoHost)?,
        // No browser asks in this way.
        (None, None) if request.version() == Version::HTTP_10 => return Ok(()),
        (None, None) => return Err(Refusal::NoHost),
    };
    if authority.as_str().contains('@') {
        return Err(Refusal::NoHost);
    }
    let name = authority.host().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_own = match address {
        Address::Named { host, .. } => host.eq_ignore_ascii_case(name),
        _ => false,
    };
    let known = bare.unwrap_or(name).parse::<IpAddr>().is_ok()
        || name == "localhost"
        || is_own
        || names.iter().any(|known| known == name);
    known.then_some(()).ok_or(Refusal::Host)
}

/// The secret of a request: a bearer token (RFC 6750), or the password of any user (RFC 7617), which browsers can send.
fn secret<B>(request: &Request<B>) -> Option<Vec<u8>> {
    let mut fields = request.headers().get_all(AUTHORIZATION).iter();
    let value = fields.next()?.as_bytes();
    // Which of two counts, whoever stands in front may see otherwise.
    if fields.next().is_some() {
        return None;
    }
    let (scheme, credentials) = value.split_at_checked(value.iter().position(|b| *b == b' ')?)?;
    let credentials = credentials.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(credentials.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let mut text = STANDARD.decode(credentials).ok()?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some(text.split_off(colon + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Options, Settings};

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/status");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn live(options: Options) -> Live {
        (*Settings::new(options, 1).unwrap().reloadable()).clone()
    }

    #[test]
    fn only_our_names_are_answered() {
        let admin: AdminAddress = "edge-1.example:9090".parse().unwrap();
        let live = live(Options {
            admin_host: vec!["Ops.Example".to_owned()],
            ..Options::default()
        });
        let asked = |host: &str| check(&request(&[("host", host)]), &admin, &live);
        for host in [
            "127.0.0.1:9090",
            "192.0.2.7",
            "[::1]:9090",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:9090",
            "edge-1.example:9090",
            "ops.example",
            "ops.example.:1",
        ] {
            assert_eq!(asked(host), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "1.evil.example",
            "127.0.0.1.x",
        ] {
            assert_eq!(asked(host), Err(Refusal::Host), "{host}");
        }
        for host in [
            "",
            "a b",
            "localhost@evil.example",
            "user:1@localhost",
            "[::1",
        ] {
            assert_eq!(asked(host), Err(Refusal::NoHost), "{host}");
        }
        let twice = request(&[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(check(&twice, &admin, &live), Err(Refusal::NoHost));
        assert_eq!(check(&request(&[]), &admin, &live), Err(Refusal::NoHost));
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check(&old, &admin, &live), Ok(()));
        let mut absolute = request(&[("host", "localhost")]);
        *absolute.uri_mut() = "http://evil.example/status".parse().unwrap();
        assert_eq!(check(&absolute, &admin, &live), Err(Refusal::Host));
        let unix = "unix:/run/a.sock".parse().unwrap();
        assert_eq!(check(&request(&[("host", "x")]), &unix, &live), Ok(()));
    }

    #[test]
    fn a_token_is_asked_for_if_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef").unwrap();
        let live = live(Options {
            admin_token_file: Some(file),
            ..Options::default()
        });
        let admin = "unix:/run/a.sock".parse().unwrap();
        let asked = |value: &str| check(&request(&[("authorization", value)]), &admin, &live);
        for good in [
            "Bearer 0123456789abcdef",
            "bearer  0123456789abcdef",
            // x:0123456789abcdef
            "Basic eDowMTIzNDU2Nzg5YWJjZGVm",
        ] {
            assert_eq!(asked(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcdeg",
            "0123456789abcdef",
            "Digest 0123456789abcdef",
            "Basic 0123456789abcdef",
            "Basic !",
            // 0123456789abcdef without a user
            "Basic MDEyMzQ1Njc4OWFiY2RlZg==",
        ] {
            assert_eq!(asked(bad), Err(Refusal::Token), "{bad}");
        }
        let good = ("authorization", "Bearer 0123456789abcdef");
        let twice = request(&[good, ("authorization", "Bearer x")]);
        assert_eq!(check(&twice, &admin, &live), Err(Refusal::Token));
        assert_eq!(check(&request(&[]), &admin, &live), Err(Refusal::Token));
        for path in OPEN {
            let mut open = request(&[]);
            *open.uri_mut() = path.parse().unwrap();
            assert_eq!(check(&open, &admin, &live), Ok(()), "{path}");
        }
    }
}
