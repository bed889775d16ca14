//! The network that a client is in.

use std::net::IpAddr;

/// The network of a client: an IPv4 /24, or an IPv6 /48, which is what a site is given (RFC 6177). Its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Network {
        /// Beyond the 48 bits of any IPv6 prefix.
        const V4: u64 = 1 << 48;
        Network(match address.to_canonical() {
            IpAddr::V4(address) => V4 | u64::from(address.to_bits() >> 8),
            IpAddr::V6(address) => (address.to_bits() >> 80) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_24_and_48_bits() {
        let same = |a: &str, b: &str| {
            Network::from(a.parse::<IpAddr>().unwrap())
                == Network::from(b.parse::<IpAddr>().unwrap())
        };
        assert!(same("192.0.2.1", "192.0.2.255") && !same("192.0.2.1", "192.0.3.1"));
        assert!(same("::ffff:192.0.2.9", "192.0.2.1"));
        assert!(same("2001:db8:1::1", "2001:db8:1:ffff::2"));
        assert!(!same("2001:db8:1::1", "2001:db8:2::1"));
    }
}
