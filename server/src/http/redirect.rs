//! Redirects from a listener without TLS to the one with it.

use crate::memory::limits::HEADER_FIELDS_MAX;

/// Where a request should have gone: what its head asks for, with https and at this port. `None` if the head doesn't tell
/// the host.
pub fn location(head: &[u8], port: u16) -> Option<String> {
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(head).ok()?;
    let target = request.path?;
    let (authority, path) = match target.split_once("://") {
        // The host of a target in absolute form counts (RFC 9112 section 3.2.2).
        Some((_, rest)) if !target.starts_with('/') => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            (rest.get(..at)?, rest.get(at..)?)
        }
        _ => {
            let mut hosts = request.headers.iter();
            let host = hosts.find(|field| field.name.eq_ignore_ascii_case("host"))?;
            (std::str::from_utf8(host.value).ok()?.trim_ascii(), target)
        }
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || !is_plain(host) || !is_plain(path) {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(match port {
        443 => format!("https://{host}{slash}{path}"),
        port => format!("https://{host}:{port}{slash}{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_the_target_stay() {
        let to = |target: &str, host: &str, port| {
            location(
                format!("GET {target} HTTP/1.1\r\nAccept: */*\r\nHOST: {host}\r\n\r\n").as_bytes(),
                port,
            )
        };
        let is = |url: &str| Some(url.to_owned());
        assert_eq!(
            to("/a%20b?c=d", "x.org", 443),
            is("https://x.org/a%20b?c=d")
        );
        assert_eq!(to("/", "x.org:80", 8443), is("https://x.org:8443/"));
        assert_eq!(to("/a", "[::1]:80", 443), is("https://[::1]/a"));
        assert_eq!(to("/a", "[::1]", 443), is("https://[::1]/a"));
        assert_eq!(to("//x.org/a", "y.org", 443), is("https://y.org//x.org/a"));
        assert_eq!(
            to("/a?b=c://d", "y.org", 443),
            is("https://y.org/a?b=c://d")
        );
        // The target says where the client believes to be.
        assert_eq!(to("http://x.org:80/a", "y.org", 443), is("https://x.org/a"));
        assert_eq!(to("http://x.org?a", "y.org", 443), is("https://x.org/?a"));
        assert_eq!(to("/a", "", 443), None);
        assert_eq!(location(b"GET /a HTTP/1.0\r\n\r\n", 443), None);
    }
}
