//! The client's address as proxies in front tell it: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! A client can send such a field too, so only what trusted proxies added counts. Each appends the address that it was
//! connected from: the list is read from its end, past trusted proxies, to the first address that is none.

use std::net::{IpAddr, SocketAddr};

use super::field;
use crate::config::proxies::ClientAddress;

/// The fields of one request, as they were sent; several of one name are one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// `X-Forwarded-For`.
    pub x_forwarded_for: Option<String>,
    /// `Forwarded`.
    pub forwarded: Option<String>,
}

impl Forwarded {
    /// The client's address, for a request of a peer that is a trusted proxy, as `told` in one field: a client could forge the
    /// other. `None` if no field tells it: then the proxy
    /// itself is the client.
    pub fn client(
        &self,
        told: ClientAddress,
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        match told {
            ClientAddress::XForwardedFor => {
                let nodes = self
                    .x_forwarded_for
                    .as_deref()?
                    .rsplit(',')
                    .map(field::trim);
                first_outside(nodes.filter(|node| !node.is_empty()).map(node), is_trusted)
            }
            ClientAddress::Forwarded => {
                let elements = split_back(self.forwarded.as_deref()?, b',');
                first_outside(elements.map(for_node), is_trusted)
            }
        }
    }

    /// Gives back what the lists have room for beyond what they hold.
    pub fn shrink(&mut self) {
        let lists = [&mut self.x_forwarded_for, &mut self.forwarded];
        for list in lists.into_iter().flatten() {
            list.shrink_to_fit();
        }
    }

    /// Bytes on the heap, and of this itself.
    pub fn held_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
        size_of::<Forwarded>() + text(&self.x_forwarded_for) + text(&self.forwarded)
    }
}

/// The first of these that is no trusted proxy, or else the last. A proxy that hides its peer (`unknown`, `_name`) ends what
/// is known.
fn first_outside(
    nodes: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut client = None;
    for node in nodes {
        let address = node?;
        client = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// The node of the `for` pair of one element (RFC 7239 section 4).
fn for_node(element: &str) -> Option<IpAddr> {
    let mut pairs = split_back(element, b';').map(|pair| pair.split_once('='));
    let value = pairs.find_map(|pair| {
        let (name, value) = pair?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    // Addresses need no escapes, so a quoted string that has one is none.
    let quoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    node(quoted.unwrap_or(value))
}

/// An address, perhaps with a port; an IPv6 address with a port is in brackets (RFC 7239 section 6). A proxy may say another
/// word for the port.
fn node(text: &str) -> Option<IpAddr> {
    let is_word = |port: &str| {
        let word = port.strip_prefix('_').unwrap_or_default();
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !word.is_empty() && word.bytes().all(is_allowed)
    };
    let text = match text.rsplit_once(':') {
        Some((address, port)) if is_word(port) => address,
        _ => text,
    };
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address: IpAddr = match bare.parse() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

/// The parts between separators that are in no quoted string, trimmed, without empty ones, from the last to the first.
/// What a client sent stands in front of what the proxies added, and may open a quoted string that it doesn't close: read
/// from the end, it can't swallow what follows.
fn split_back(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    let next = move || {
        let text = rest?;
        let mut quoted = false;
        let start = text.bytes().enumerate().rev().find(|&(at, b)| {
            // In a string a quote behind an odd number of backslashes is a part of it. The one that ends it always ends it.
            let escapes = || {
                text.as_bytes()[..at]
                    .iter()
                    .rev()
                    .take_while(|&&b| b == b'\\')
            };
            if b == b'"' && !(quoted && escapes().count() % 2 == 1) {
                quoted = !quoted;
            }
            b == separator && !quoted
        });
        let start = start.map(|(at, _)| at);
        rest = start.map(|start| &text[..start]);
        Some(field::trim(&text[start.map_or(0, |start| start + 1)..]))
    };
    std::iter::from_fn(next).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_trusted(address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
    }

    fn by_list(list: &str) -> Option<String> {
        let fields = Forwarded {
            x_forwarded_for: Some(list.into()),
            ..Forwarded::default()
        };
        let client = fields.client(ClientAddress::XForwardedFor, is_trusted);
        assert_eq!(fields.client(ClientAddress::Forwarded, is_trusted), None);
        client.map(|address| address.to_string())
    }

    fn by_pairs(list: &str) -> Option<String> {
        let fields = Forwarded {
            forwarded: Some(list.into()),
            ..Forwarded::default()
        };
        let client = fields.client(ClientAddress::Forwarded, is_trusted);
        assert_eq!(
            fields.client(ClientAddress::XForwardedFor, is_trusted),
            None
        );
        client.map(|address| address.to_string())
    }

    #[test]
    fn the_last_that_is_no_proxy_of_ours_is_the_client() {
        for (list, client) in [
            ("192.0.2.1", Some("192.0.2.1")),
            // What the client claims is before what the proxy saw.
            ("1.1.1.1, 192.0.2.1", Some("192.0.2.1")),
            ("1.1.1.1, 192.0.2.1, 10.0.0.1,10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.3, 10.0.0.1", Some("10.0.0.3")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1, ,", Some("192.0.2.1")),
            ("192.0.2.1, unknown", None),
            ("192.0.2.1, unknown, 10.0.0.1", None),
            ("", None),
            ("192.0.2.1 10.0.0.1", None),
        ] {
            assert_eq!(by_list(list).as_deref(), client, "{list}");
        }
    }

    #[test]
    fn pairs() {
        for (list, client) in [
            ("for=192.0.2.1", Some("192.0.2.1")),
            ("For=192.0.2.1;proto=http;by=10.0.0.9", Some("192.0.2.1")),
            ("proto=http; FOR=\"192.0.2.1:80\"", Some("192.0.2.1")),
            (
                "for=\"[2001:db8:cafe::17]:4711\"",
                Some("2001:db8:cafe::17"),
            ),
            (
                "for=1.1.1.1, for=192.0.2.1, for=10.0.0.1",
                Some("192.0.2.1"),
            ),
            // Commas and semicolons in quotes are no separators.
            ("for=192.0.2.1;host=\"a,b;for=6.6.6.6\"", Some("192.0.2.1")),
            (
                "host=\"a\\\",for=6.6.6.6\";for=192.0.2.1",
                Some("192.0.2.1"),
            ),
            ("for=\"192.0.2.1:_port\"", Some("192.0.2.1")),
            ("for=\"[2001:db8::1]:_p.1-\"", Some("2001:db8::1")),
            ("for=\"192.0.2.1:_\"", None),
            ("for=\"192.0.2.1:_a b\"", None),
            ("for=_hidden", None),
            ("for=unknown", None),
            ("for=192.0.2.1, for=_hidden, for=10.0.0.1", None),
            ("by=10.0.0.1", None),
            ("for=\"", None),
            ("for", None),
        ] {
            assert_eq!(by_pairs(list).as_deref(), client, "{list}");
        }
    }

    /// A client sent `for=6.6.6.6;a="`, and the string that it opened swallowed what the proxy added: it could have any
    /// address.
    #[test]
    fn what_a_client_sent_does_not_reach_into_what_the_proxy_added() {
        for sent in [
            "for=6.6.6.6;a=\"",
            "for=6.6.6.6;a=\"\\",
            "for=6.6.6.6;a=\"b\\\"",
            "for=\"",
            "for=\"6.6.6.6\"\"",
            "\"\\\\\"\"\\",
            "for=6.6.6.6;",
            "=;,\\",
            "",
        ] {
            for added in [
                "for=192.0.2.1",
                "for=\"192.0.2.1:80\";host=\"a,b;\\\"c\"",
                "host=\"\\\\\";for=192.0.2.1",
                "for=192.0.2.1, for=10.0.0.1",
            ] {
                let list = format!("{sent}, {added}");
                assert_eq!(by_pairs(&list).as_deref(), Some("192.0.2.1"), "{list}");
            }
        }
    }
}
