//! Seats: how many connections may be open, in all and from one address.
//!
//! Shared by the cores, since the kernel spreads connections over them as it likes; touched when a
//! connection is accepted and when it ends.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::values::PerAddress;
use crate::memory::limits::{ADDRESS_CONNECTIONS_LEAST, ADDRESS_PART};

/// The seats of one server.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    seats: usize,
    /// Connections that one address may have.
    per_address: AtomicUsize,
    /// Whether that holds for clients on this machine, too.
    holds_here: AtomicBool,
    /// Whether a core found no seat for a client, nor anybody who gives way.
    wanted: AtomicBool,
    /// Connections by address, counted only while there is a limit on them.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// No limit on the connections of an address.
const UNLIMITED: usize = usize::MAX;

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
    pub fn new(seats: usize, per_address: PerAddress) -> Arc<Seats> {
        let all = Seats {
            taken: AtomicUsize::new(0),
            seats,
            per_address: AtomicUsize::new(UNLIMITED),
            holds_here: AtomicBool::new(true),
            wanted: AtomicBool::new(false),
            addresses: Mutex::default(),
        };
        all.limit_addresses(per_address);
        Arc::new(all)
    }

    /// Sets how many connections one address may have from now on. Those that are open stay; if there was no limit
    /// before they don't count.
    pub fn limit_addresses(&self, per_address: PerAddress) {
        let most = match per_address {
            PerAddress::Usual => (self.seats / ADDRESS_PART).max(ADDRESS_CONNECTIONS_LEAST),
            PerAddress::Unlimited => UNLIMITED,
            PerAddress::Most(most) => most,
        };
        let holds_here = per_address != PerAddress::Usual;
        self.holds_here.store(holds_here, Ordering::Relaxed);
        self.per_address.store(most, Ordering::Relaxed);
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats in all.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// Seats taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Notes that a core found no seat for a client, nor anybody who gives way.
    pub fn want_room(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether some core noted that. Then this one is to make room, and no other.
    pub fn wants_room(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
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
    /// The seat, counted for no address any more.
    pub fn vacated(mut self) -> Seat {
        self.leave_address();
        self
    }

    fn leave_address(&mut self) {
        let Some(address) = self.address.take() else {
            return;
        };
        let mut addresses = self.seats.addresses();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }

    /// Gives the seat to a client at `address`, if it may have another. Otherwise it is nobody's still.
    pub fn assign(&mut self, address: IpAddr) -> Result<(), Full> {
        let most = self.seats.per_address.load(Ordering::Relaxed);
        let is_exempt = || {
            address.to_canonical().is_loopback() && !self.seats.holds_here.load(Ordering::Relaxed)
        };
        if most != UNLIMITED && !is_exempt() {
            let network = client_address(address);
            let mut addresses = self.seats.addresses();
            let count = addresses.entry(network).or_default();
            if *count >= most {
                drop(addresses);
                return Err(Full::Address);
            }
            *count += 1;
            drop(addresses);
            self.address = Some(network);
        }
        Ok(())
    }
}

/// One client: an IPv4 address, or an IPv6 network of 64 bits, of which a client has all addresses.
pub(super) fn client_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave_address();
        self.seats.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a seat for a client at `address`.
    fn take(seats: &Arc<Seats>, address: IpAddr) -> Result<Seat, Full> {
        let mut seat = seats.reserve().ok_or(Full::Server)?;
        seat.assign(address).map(|()| seat)
    }

    #[test]
    fn one_address_usually_has_a_quarter_of_the_seats() {
        let count = |seats: &Arc<Seats>, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let mut all = Vec::new();
            while let Ok(seat) = take(seats, address) {
                all.push(seat);
            }
            all.len()
        };
        let seats = Seats::new(1000, PerAddress::Usual);
        assert_eq!(count(&seats, "192.0.2.1"), 250);
        assert_eq!(count(&seats, "127.0.0.1"), 1000, "a proxy on this machine");
        let few = Seats::new(100, PerAddress::Usual);
        assert_eq!(count(&few, "2001:db8::1"), 64);
        few.limit_addresses(PerAddress::Most(3));
        assert_eq!(count(&few, "127.0.0.1"), 3);
    }

    #[test]
    fn seats_come_back() {
        let seats = Seats::new(2, PerAddress::Unlimited);
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = take(&seats, address).unwrap();
        let _second = take(&seats, address).unwrap();
        assert_eq!(take(&seats, address).unwrap_err(), Full::Server);
        drop(first);
        assert!(take(&seats, address).is_ok());
        assert_eq!(seats.taken(), 1);
    }

    #[test]
    fn the_limit_of_an_address_may_change() {
        let seats = Seats::new(10, PerAddress::Unlimited);
        let one = IpAddr::from([10, 0, 0, 1]);
        let before = take(&seats, one).unwrap();
        seats.limit_addresses(PerAddress::Most(1));
        let counted = take(&seats, one).unwrap();
        assert_eq!(take(&seats, one).unwrap_err(), Full::Address);
        drop(before);
        assert_eq!(take(&seats, one).unwrap_err(), Full::Address);
        seats.limit_addresses(PerAddress::Unlimited);
        let _third = take(&seats, one).unwrap();
        seats.limit_addresses(PerAddress::Most(1));
        drop(counted);
        assert!(take(&seats, one).is_ok());
    }

    #[test]
    fn one_address_cannot_take_them_all() {
        let seats = Seats::new(10, PerAddress::Most(1));
        let one = IpAddr::from([10, 0, 0, 1]);
        let seat = take(&seats, one).unwrap();
        assert_eq!(take(&seats, one).unwrap_err(), Full::Address);
        assert_eq!(seats.taken(), 1, "a refusal takes no seat");
        assert!(take(&seats, IpAddr::from([10, 0, 0, 2])).is_ok());
        drop(seat);
        let _seat = take(&seats, one).unwrap();
        // An IPv4 client on an IPv6 socket is the same client; one IPv6 network is one client.
        assert_eq!(
            take(&seats, "::ffff:10.0.0.1".parse().unwrap()).unwrap_err(),
            Full::Address
        );
        let _v6 = take(&seats, "2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(
            take(&seats, "2001:db8::2".parse().unwrap()).unwrap_err(),
            Full::Address
        );
        assert!(take(&seats, "2001:db8:0:1::2".parse().unwrap()).is_ok());
    }
}
