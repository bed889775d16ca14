//! Rates: how many bytes per second a request, a connection, an address and a network may be sent.
//!
//! Each limit is a bucket, which knows when what it has allowed so far will have flowed at its rate. A connection whose
//! socket has room reserves some bytes in all of its buckets together, and waits until the last of them lets those flow.
//! So connections that share a bucket go one after another, each waits once for what it sends, and nothing is read or
//! produced meanwhile. Times are arguments.
//!
//! Buckets of addresses and networks are shared by the cores. They are looked up when a connection comes, and only while
//! there are such limits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::network::Network;
use super::seats::client_address;
use crate::config::values::{Rate, RateLimits};
use crate::memory::limits::{RATE_AHEAD, RATE_BYTES_LEAST, RATE_STEP};

/// A bucket of tokens, kept as a time (the generic cell rate algorithm of ITU-T I.371): when all that was allowed will have
/// flowed.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Nanoseconds on the clock of its users.
    until: AtomicU64,
}

impl Bucket {
    fn new(rate: Rate) -> Bucket {
        Bucket {
            rate: rate.max(1),
            until: AtomicU64::new(0),
        }
    }

    /// How long these bytes take to flow.
    fn nanos(&self, bytes: u64) -> u64 {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Allows more bytes, and says when they may leave.
    fn reserve(&self, bytes: u64, now: u64) -> u64 {
        let nanos = self.nanos(bytes);
        let flows = |until: u64| until.max(now).saturating_add(nanos);
        // Relaxed: the number is all that is shared.
        let before = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                Some(flows(until))
            });
        let before = before.unwrap_or_default().max(now);
        before.saturating_sub(RATE_AHEAD.as_nanos() as u64).max(now)
    }

    /// So many of the bytes did not leave.
    fn give_back(&self, bytes: u64) {
        let nanos = self.nanos(bytes);
        let _ = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                Some(until.saturating_sub(nanos))
            });
    }
}

/// Buckets by what they belong to. An entry lasts as long as a connection has it, and until what was allowed has flowed:
/// who comes again on a new connection has no new bucket.
#[derive(Debug)]
struct Buckets<K>(Mutex<HashMap<K, Arc<Bucket>>>);

impl<K> Default for Buckets<K> {
    fn default() -> Buckets<K> {
        Buckets(Mutex::default())
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn all(&self) -> MutexGuard<'_, HashMap<K, Arc<Bucket>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: K, rate: Rate, now: u64) -> Arc<Bucket> {
        let mut all = self.all();
        if all.len() == all.capacity() {
            // Before it grows.
            all.retain(|_, bucket| {
                Arc::strong_count(bucket) > 1 || bucket.until.load(Ordering::Relaxed) > now
            });
        }
        let bucket = all
            .entry(key)
            .or_insert_with(|| Arc::new(Bucket::new(rate)));
        if bucket.rate != rate {
            // The limit was changed. Connections that are open keep theirs.
            *bucket = Arc::new(Bucket::new(rate));
        }
        Arc::clone(bucket)
    }
}

/// The rates of one server.
#[derive(Debug)]
pub struct Rates {
    began: Instant,
    limits: Mutex<RateLimits>,
    addresses: Buckets<IpAddr>,
    networks: Buckets<Network>,
}

impl Rates {
    /// These limits, and nobody yet. No time before `now` is told from it.
    pub fn new(limits: RateLimits, now: Instant) -> Arc<Rates> {
        Arc::new(Rates {
            began: now,
            limits: Mutex::new(limits),
            addresses: Buckets::default(),
            networks: Buckets::default(),
        })
    }

    /// Sets other limits, for connections that come from now on.
    pub fn change(&self, limits: RateLimits) {
        *self.limits() = limits;
    }

    fn limits(&self) -> MutexGuard<'_, RateLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// The buckets of one connection.
#[derive(Debug)]
pub struct Limited {
    rates: Arc<Rates>,
    buckets: RefCell<Held>,
}

#[derive(Debug, Default)]
struct Held {
    request: Option<Arc<Bucket>>,
    connection: Option<Arc<Bucket>>,
    address: Option<Arc<Bucket>>,
    network: Option<Arc<Bucket>>,
}

impl Held {
    fn all(&self) -> impl Iterator<Item = &Arc<Bucket>> {
        let all = [
            &self.request,
            &self.connection,
            &self.address,
            &self.network,
        ];
        all.into_iter().flatten()
    }
}

impl Limited {
    /// Those of a connection from `client`.
    pub fn new(rates: &Arc<Rates>, client: IpAddr, now: Instant) -> Limited {
        let per_connection = rates.limits().per_connection;
        let limited = Limited {
            rates: Arc::clone(rates),
            buckets: RefCell::default(),
        };
        limited.buckets.borrow_mut().connection =
            per_connection.map(|rate| Arc::new(Bucket::new(rate)));
        limited.move_to(client, now);
        limited
    }

    /// The client turns out to be at another address.
    pub fn move_to(&self, client: IpAddr, now: Instant) {
        let (rates, now) = (&self.rates, self.rates.nanos(now));
        let RateLimits {
            per_address,
            per_network,
            ..
        } = *rates.limits();
        let mut buckets = self.buckets.borrow_mut();
        buckets.address =
            per_address.map(|rate| rates.addresses.get(client_address(client), rate, now));
        buckets.network = per_network.map(|rate| rates.networks.get(client.into(), rate, now));
    }

    /// Sets the rate of the present request; `None` is no limit.
    pub fn set_request(&self, rate: Option<Rate>) {
        self.buckets.borrow_mut().request = rate.map(|rate| Arc::new(Bucket::new(rate)));
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.buckets.borrow().all().next().is_some()
    }

    /// Reserves some of `wanted` bytes; `None` if there is no limit. The lower the rates, the fewer bytes: what takes about
    /// [`RATE_STEP`] to flow.
    pub fn reserve(&self, wanted: u64, now: Instant) -> Option<Reservation> {
        let buckets = self.buckets.borrow();
        let slowest = buckets.all().map(|bucket| bucket.rate).min()?;
        let step = u128::from(slowest) * RATE_STEP.as_millis() / 1000;
        let step = u64::try_from(step)
            .unwrap_or(u64::MAX)
            .max(RATE_BYTES_LEAST);
        let bytes = wanted.min(step);
        let now_nanos = self.rates.nanos(now);
        let buckets: Vec<Arc<Bucket>> = buckets.all().map(Arc::clone).collect();
        let ends = buckets
            .iter()
            .map(|bucket| bucket.reserve(bytes, now_nanos))
            .max();
        Some(Reservation {
            wait: Duration::from_nanos(ends.unwrap_or(now_nanos) - now_nanos),
            buckets,
            bytes,
            sent: 0,
        })
    }
}

/// Bytes that may leave at a time. What did not leave is given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    buckets: Vec<Arc<Bucket>>,
    wait: Duration,
    bytes: u64,
    sent: u64,
}

impl Reservation {
    /// How long to wait before they may leave, from when they were reserved.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// How many they are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many have left.
    pub fn sent(&mut self, bytes: u64) {
        self.sent = bytes.min(self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let left = self.bytes - self.sent;
        if left > 0 {
            self.buckets
                .iter()
                .for_each(|bucket| bucket.give_back(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: u64 = 256 << 10;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn limits(connection: Rate, address: Rate, network: Rate) -> RateLimits {
        let rate = |rate| Some(rate).filter(|rate| *rate > 0);
        RateLimits {
            per_connection: rate(connection),
            per_address: rate(address),
            per_network: rate(network),
        }
    }

    /// What connections, each always ready to send, are sent in this time.
    fn sent(connections: &[&Limited], begun: Instant, time: Duration) -> Vec<u64> {
        let mut sent = vec![0; connections.len()];
        let mut ready = vec![begun; connections.len()];
        // Who may send next does.
        while let Some(next) = (0..ready.len()).min_by_key(|&at| ready[at]) {
            let now = ready[next];
            if now >= begun + time {
                return sent;
            }
            let mut reserved = connections[next].reserve(PIECE, now).unwrap();
            sent[next] += reserved.bytes();
            reserved.sent(reserved.bytes());
            // It takes a moment, however fast the socket is.
            ready[next] = now + reserved.wait() + Duration::from_micros(10);
        }
        sent
    }

    fn assert_near(sent: u64, rate: Rate, seconds: u64) {
        let fair = rate * seconds;
        // What may be ahead, and a step of each.
        let slack = rate / 4 + 5 * RATE_BYTES_LEAST;
        assert!(
            sent >= fair - fair / 20 && sent <= fair + slack,
            "{sent} in {seconds} s at {rate}"
        );
    }

    #[test]
    fn each_limit_holds_for_what_it_limits() {
        const SECONDS: u64 = 10;
        let (begun, time) = (Instant::now(), Duration::from_secs(SECONDS));
        for rate in [1 << 10, 100_000, 10_000_000, 1_000_000_000] {
            let rates = Rates::new(limits(rate, 0, 0), begun);
            let [one, other] = [1, 1].map(|last| Limited::new(&rates, address(last), begun));
            for sent in sent(&[&one, &other], begun, time) {
                assert_near(sent, rate, SECONDS);
            }
            // Two addresses of one network.
            let rates = Rates::new(limits(0, rate, 0), begun);
            let all = [1, 1, 1, 2].map(|last| Limited::new(&rates, address(last), begun));
            let sent_to = sent(&[&all[0], &all[1], &all[2], &all[3]], begun, time);
            assert_near(sent_to[..3].iter().sum(), rate, SECONDS);
            assert_near(sent_to[3], rate, SECONDS);
            let rates = Rates::new(limits(0, 0, rate), begun);
            let all = [1, 1, 2].map(|last| Limited::new(&rates, address(last), begun));
            let sent_to = sent(&[&all[0], &all[1], &all[2]], begun, time);
            assert_near(sent_to.iter().sum(), rate, SECONDS);
        }
    }

    #[test]
    fn the_lowest_of_several_limits_holds_and_connections_take_turns() {
        let (begun, time) = (Instant::now(), Duration::from_secs(10));
        let rates = Rates::new(limits(500_000, 1_000_000, 0), begun);
        let all = [1, 1, 1, 1, 2].map(|last| Limited::new(&rates, address(last), begun));
        let sent_to = sent(&[&all[0], &all[1], &all[2], &all[3], &all[4]], begun, time);
        assert_near(sent_to[..4].iter().sum(), 1_000_000, 10);
        for &one in &sent_to[..4] {
            assert_near(one, 250_000, 10);
        }
        assert_near(sent_to[4], 500_000, 10);
        all[4].set_request(Some(10_000));
        assert_near(sent(&[&all[4]], begun + time, time)[0], 10_000, 10);
        all[4].set_request(None);
        assert_near(sent(&[&all[4]], begun + 2 * time, time)[0], 500_000, 10);
    }

    #[test]
    fn without_limits_nothing_is_reserved() {
        let now = Instant::now();
        let limited = Limited::new(&Rates::new(RateLimits::default(), now), address(1), now);
        assert!(limited.reserve(PIECE, now).is_none());
        limited.set_request(Some(1));
        assert!(limited.reserve(PIECE, now).is_some());
    }

    #[test]
    fn what_did_not_leave_is_given_back() {
        let now = Instant::now();
        let limited = Limited::new(&Rates::new(limits(1_000_000, 0, 0), now), address(1), now);
        for _ in 0..1000 {
            let reserved = limited.reserve(PIECE, now).unwrap();
            assert_eq!(reserved.wait(), Duration::ZERO);
        }
        for _ in 0..10 {
            limited.reserve(PIECE, now).unwrap().sent(PIECE);
        }
        assert!(limited.reserve(PIECE, now).unwrap().wait() > Duration::ZERO);
    }

    #[test]
    fn who_comes_again_has_the_same_bucket_until_it_is_empty() {
        let now = Instant::now();
        let rates = Rates::new(limits(0, 100_000, 0), now);
        let come = |last, now| Limited::new(&rates, address(last), now);
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            // Each takes one step and goes.
            let one = come(1, now);
            let mut reserved = one.reserve(PIECE, now).unwrap();
            waited = reserved.wait();
            reserved.sent(PIECE);
        }
        assert!(waited > Duration::from_secs(5), "{waited:?}");
        assert_eq!(
            come(2, now).reserve(PIECE, now).unwrap().wait(),
            Duration::ZERO
        );
        // Buckets that nobody has go when their time is over and room is short.
        let later = now + Duration::from_secs(3600);
        for last in 0..200 {
            come(last, later);
        }
        assert!(rates.addresses.all().len() < 200);
    }

    proptest! {
        /// Whatever is reserved, sent and given back at whatever times: no bucket ever lets more flow than its rate and what may
        /// be ahead.
        #[test]
        fn no_more_flows_than_the_rate(
            rate in 1024u64..1 << 32,
            steps in prop::collection::vec((0u64..2_000_000, 1u64..PIECE, 0u8..4), 1..200),
        ) {
            let begun = Instant::now();
            let limited = Limited::new(&Rates::new(limits(rate, 0, 0), begun), address(1), begun);
            let (mut now, mut sent) = (begun, 0u64);
            for (micros, wanted, part) in steps {
                now += Duration::from_micros(micros);
                let mut reserved = limited.reserve(wanted, now).unwrap();
                now += reserved.wait();
                prop_assert!(reserved.bytes() <= wanted && reserved.bytes() > 0);
                let leaves = reserved.bytes() * u64::from(part) / 3;
                reserved.sent(leaves);
                sent += leaves;
                let time = now - begun + RATE_AHEAD;
                let most = u128::from(rate) * time.as_nanos() / 1_000_000_000;
                let slack = u128::from(reserved.bytes()) + 200;
                prop_assert!(u128::from(sent) <= most + slack, "{sent} > {most}");
            }
        }
    }
}
