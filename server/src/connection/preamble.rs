//! What a proxy says before the first request: a header of the PROXY protocol, version 1 or 2
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! It is expected of trusted proxies only, and then required: a receiver must not guess whether there is one.

use std::net::IpAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// The longest header: 536 bytes is what the protocol wants receivers to take at least, with what goes beyond addresses.
pub const PREAMBLE_BYTES_MAX: usize = 536;

/// The longest header of version 1, its end of line included.
const LINE_BYTES_MAX: usize = 107;

/// What a proxy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Not all of it yet.
    NeedMore,
    /// The client's address, none if the proxy speaks for itself; and how many bytes said so.
    Client(Option<IpAddr>, usize),
    /// Something else.
    Malformed,
}

/// Reads the header that `bytes` begin with.
pub fn parse(bytes: &[u8]) -> Said {
    // The parser takes any byte for the blank behind `PROXY`.
    if !is_begun(bytes) {
        return Said::Malformed;
    }
    let most = match bytes.first() {
        Some(b'P') => LINE_BYTES_MAX,
        _ => PREAMBLE_BYTES_MAX,
    };
    if let Some(line) = line(bytes)
        && !is_right(line)
    {
        return Said::Malformed;
    }
    // What goes into its checksum isn't needed here: nobody but a trusted proxy sends it.
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((_, length)) if length > most => Said::Malformed,
        Ok((header, length)) => {
            let client = header.proxied_address();
            Said::Client(
                client.map(|address| address.source.ip().to_canonical()),
                length,
            )
        }
        Err(Error::BufferTooShort) if bytes.len() < most => Said::NeedMore,
        Err(_) => Said::Malformed,
    }
}

/// Whether a header may begin so: a request is found out at once.
fn is_begun(bytes: &[u8]) -> bool {
    const V1: &[u8] = b"PROXY ";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    [V1, V2].iter().any(|start| {
        let both = start.len().min(bytes.len());
        start[..both] == bytes[..both]
    })
}

/// The whole line of version 1, behind `PROXY ` and without its end.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b"PROXY ")?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    Some(&rest[..end])
}

/// Whether a line is as version 1 has it, in what the parser takes otherwise: it reads signs and leading zeros, and takes
/// whatever begins with `UNKNOWN`.
fn is_right(line: &[u8]) -> bool {
    let mut words = line.split(|&b| b == b' ');
    if words.next() == Some(b"UNKNOWN") {
        return true;
    }
    let is_port = |word: &[u8]| match word {
        [b'0'] => true,
        [b'0', ..] => false,
        word => word.iter().all(u8::is_ascii_digit),
    };
    // Two addresses, and two ports.
    !line.starts_with(b"UNKNOWN") && words.skip(2).all(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_TCP4: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x12\x34\x00\x50";

    #[test]
    fn both_versions_with_a_request_behind() {
        let client = Some("192.0.2.1".parse().unwrap());
        for header in [b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n", V2_TCP4] {
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Said::NeedMore, "{end}");
            }
            let all = [header, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&all), Said::Client(client, header.len()));
        }
        let no_port = b"PROXY TCP4 192.0.2.1 10.0.0.1 0 80\r\n";
        assert_eq!(parse(no_port), Said::Client(client, no_port.len()));
        let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
        let client = Some("2001:db8::1".parse().unwrap());
        assert_eq!(parse(v6), Said::Client(client, v6.len()));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        for header in [&local[..], b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN x y\r\n"] {
            assert_eq!(parse(header), Said::Client(None, header.len()));
        }
    }

    #[test]
    fn anything_else() {
        let long = [b"PROXY TCP4 ", &[b'1'; 600][..]].concat();
        let long_line = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
        let mut many_more = V2_TCP4.to_vec();
        many_more[14..16].copy_from_slice(&u16::to_be_bytes(2000));
        many_more.resize(600, 0);
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"G",
            b"PROXY TCP4 a b 1 2\r\n",
            b"PROXY\xa0UNKNOWN\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 99999 80\r\n",
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 80\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 80\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 080\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x12\x34\x00\x50",
            &long,
            &long_line,
            &many_more,
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(parse(bytes), Said::Malformed, "{shown}");
        }
    }
}
