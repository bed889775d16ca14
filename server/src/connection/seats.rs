//! Seats: how many connections may be open, in all and from one address.
//!
//! Shared by the cores, since the kernel spreads connections over them as it likes; touched when a
//! connection is accepted and when it ends.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The seats of one server.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    seats: usize,
    /// Connections by address, kept only if there is a limit on them.
    addresses: Option<Addresses>,
}

#[derive(Debug)]
struct Addresses {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The server has as many connections as its memory is planned for.
    Server,
    /// This client has as many as one may have.
    Address,
}

/// One connection's place. Dropping it frees the place.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    address: Option<IpAddr>,
}

impl Seats {
    /// This many seats, and at most so many for one address.
    pub fn new(seats: usize, per_address: Option<usize>) -> Arc<Seats> {
        let addresses = per_address.map(|most| Addresses {
            most,
            taken: Mutex::default(),
        });
        Arc::new(Seats {
            taken: AtomicUsize::new(0),
            seats,
            addresses,
        })
    }

    /// Seats in all.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// Seats taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes a seat for a client at `address`.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Full> {
        self.reserve().ok_or(Full::Server)?.assign(address)
    }

    /// Takes a seat for a client that is not known yet.
    pub fn reserve(self: &Arc<Self>) -> Option<Seat> {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.seats).then_some(taken + 1)
            })
            .ok()?;
        Some(Seat {
            seats: Arc::clone(self),
            address: None,
        })
    }
}

impl Seat {
    /// Gives the seat to a client at `address`, if it may have another. Otherwise the seat is free again.
    pub fn assign(mut self, address: IpAddr) -> Result<Seat, Full> {
        if let Some(addresses) = &self.seats.addresses {
            let network = network(address);
            let mut taken = addresses
                .taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(network).or_default();
            if *count >= addresses.most {
                return Err(Full::Address);
            }
            *count += 1;
            self.address = Some(network);
        }
        Ok(self)
    }
}

/// One client: an IPv4 address, or an IPv6 network of 64 bits, of which a client has all addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let (Some(address), Some(addresses)) = (self.address, &self.seats.addresses) {
            let mut taken = addresses
                .taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = taken.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    taken.remove(&address);
                }
            }
        }
        self.seats.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_come_back() {
        let seats = Seats::new(2, None);
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = seats.take(address).unwrap();
        let _second = seats.take(address).unwrap();
        assert_eq!(seats.take(address).unwrap_err(), Full::Server);
        drop(first);
        assert!(seats.take(address).is_ok());
        assert_eq!(seats.taken(), 1);
    }

    #[test]
    fn one_address_cannot_take_them_all() {
        let seats = Seats::new(10, Some(1));
        let one = IpAddr::from([10, 0, 0, 1]);
        let seat = seats.take(one).unwrap();
        assert_eq!(seats.take(one).unwrap_err(), Full::Address);
        assert_eq!(seats.taken(), 1, "a refusal takes no seat");
        assert!(seats.take(IpAddr::from([10, 0, 0, 2])).is_ok());
        drop(seat);
        let _seat = seats.take(one).unwrap();
        // An IPv4 client on an IPv6 socket is the same client; one IPv6 network is one client.
        assert_eq!(
            seats.take("::ffff:10.0.0.1".parse().unwrap()).unwrap_err(),
            Full::Address
        );
        let _v6 = seats.take("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(
            seats.take("2001:db8::2".parse().unwrap()).unwrap_err(),
            Full::Address
        );
        assert!(seats.take("2001:db8:0:1::2".parse().unwrap()).is_ok());
    }
}
