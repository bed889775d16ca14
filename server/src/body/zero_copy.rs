//! Which pieces are sent zero-copy, and to which networks that is no gain.
//!
//! A zero-copy send ring its piece's pool buffer until the peer has acknowledged it, and a pinned buffer can't be taken
//! back. So only peers that acknowledge soon are sent to so, by their rate in the last sample. A peer that stops just
//! then keeps two buffers at most until its send timeout, and all such peers together half of the pool; the other half
//! is for everybody, so that no piece waits for another's peer. A piece that may not pin its buffer now is copied: no
//! connection waits for a notification either.
//!
//! Some networks copy in the end: loopback and veth, those under a packet capture, and devices that can't gather. Then
//! pinning was for nothing. The kernel says so with the notification, and that peer's network is sent to by copy for
//! [`ZERO_COPY_RETRY`].

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;

use super::turn::Turn;
use crate::config::values::ZeroCopyMode;
use crate::engine::Engine;
use crate::io::{Message, Pool, ZeroCopyRing};
use crate::memory::limits::{
    ZERO_COPY_BYTES_MIN, ZERO_COPY_HOLD, ZERO_COPY_NETWORKS_MAX, ZERO_COPY_PINS_MAX,
    ZERO_COPY_POOL_PART, ZERO_COPY_RETRY,
};
use crate::stats::CoreStats;

/// A network of peers that are probably reached by the same route: a /24 of IPv4, a /48 of IPv6, with the other bits
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of a peer.
    pub fn of(peer: IpAddr) -> Network {
        Network(match peer.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !0 << 8).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !0 << 80).into()),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 48 })
    }
}

/// The networks to which the kernel was found to copy, the most recent ones.
struct Copying(LruCache<Network, Instant>);

impl Copying {
    fn new() -> Copying {
        const MOST: NonZeroUsize = NonZeroUsize::new(ZERO_COPY_NETWORKS_MAX).unwrap();
        Copying(LruCache::new(MOST))
    }

    /// The kernel reported a copy. Returns whether that is news.
    fn note(&mut self, network: Network, now: Instant) -> bool {
        self.0.put(network, now + ZERO_COPY_RETRY).is_none()
    }

    fn holds(&mut self, network: Network, now: Instant) -> bool {
        let until = self.0.peek(&network).copied();
        if until.is_some_and(|until| now >= until) {
            self.0.pop(&network);
            return false;
        }
        until.is_some()
    }
}

/// Whether a peer that acknowledges `rate` bytes a second will soon have acknowledged this many.
fn acknowledges_soon(bytes: u64, rate: u64) -> bool {
    u128::from(bytes) * 1000 <= u128::from(rate) * ZERO_COPY_HOLD.as_millis()
}

/// What is remembered of a send until its buffer is back.
struct Sent {
    to: SocketAddr,
    at: Instant,
}

/// One core's zero-copy sends.
pub struct ZeroCopy {
    mode: ZeroCopyMode,
    /// Made for the first zero-copy send; `None` if that failed.
    ring: OnceCell<Option<Rc<ZeroCopyRing<Sent>>>>,
    /// The kernel refused a send for a reason of its own.
    refused: Cell<bool>,
    copying: RefCell<Copying>,
    /// Buffers that may be pinned.
    pins_max: usize,
    stats: Arc<CoreStats>,
}

impl ZeroCopy {
    /// For a core with this pool. `mode` is [`ZeroCopyMode::Off`] where the kernel can't.
    pub fn new(mode: ZeroCopyMode, pool: &Pool, stats: Arc<CoreStats>) -> Rc<ZeroCopy> {
        Rc::new(ZeroCopy {
            mode,
            ring: OnceCell::new(),
            refused: Cell::new(false),
            copying: RefCell::new(Copying::new()),
            pins_max: pool.buffers() / ZERO_COPY_POOL_PART,
            stats,
        })
    }

    /// Offers a message to a socket without waiting for room, if it may be sent zero-copy; else gives it back.
    /// The count is what was taken, of the head and then of the slices.
    pub fn send(
        self: &Rc<Self>,
        engine: &Engine,
        turn: &Turn<'_>,
        message: Message,
    ) -> Result<io::Result<usize>, Message> {
        if self.mode == ZeroCopyMode::Off
            || message.bytes() - message.head().len() < ZERO_COPY_BYTES_MIN
            || self.refused.get()
        {
            return Err(message);
        }
        let now = Instant::now();
        if !self.may_pin(turn, message.bytes() as u64, now) {
            return Err(message);
        }
        let Some(ring) = self.ring(engine) else {
            return Err(message);
        };
        let socket = turn.socket;
        // It goes into the same packet as the beginning of the slices.
        let head = message.head().len();
        let ahead = match head {
            0 => Ok(0),
            _ => socket.send_more([&message.head()[..]].into_iter()),
        };
        match ahead {
            Ok(sent) if sent == head => {}
            short => return Ok(short),
        }
        let tag = Sent {
            to: turn.peer,
            at: now,
        };
        let result = ring.send(socket, message.without_head(), tag);
        self.settle(ring);
        match result {
            Ok(taken) => Ok(Ok(head + taken)),
            Err(error) if is_refusal(&error) || !ring.is_usable() => {
                self.refused.set(true);
                let advice = match error.raw_os_error() {
                    Some(libc::ENOMEM) => "; raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=)",
                    _ => "",
                };
                tracing::warn!("zero-copy sends are off on this core: {error}{advice}");
                // The slices are produced again, and copied.
                Ok(Ok(head))
            }
            Err(_) if head > 0 => Ok(Ok(head)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Whether a piece of this many bytes may keep its buffer until the connection's peer has it.
    fn may_pin(&self, turn: &Turn<'_>, bytes: u64, now: Instant) -> bool {
        if let Some(Some(ring)) = self.ring.get() {
            self.settle(ring);
            if ring.pinned_sends() >= self.pins_max {
                return false;
            }
            let age = |sent: &Sent| now.saturating_duration_since(sent.at);
            let (its, late) = ring.with_tags(|tags| {
                tags.filter(|sent| sent.to == turn.peer)
                    .fold((0, false), |(its, late), sent| {
                        (its + 1, late || age(sent) > ZERO_COPY_HOLD)
                    })
            });
            if its >= ZERO_COPY_PINS_MAX || late && self.mode == ZeroCopyMode::Auto {
                return false;
            }
        }
        let queued = || turn.socket.unacknowledged_bytes().map(u64::from);
        self.pins_max > 0
            && (self.mode == ZeroCopyMode::Always
                || acknowledges_soon(bytes, turn.meter.rate())
                    && !self.copies(turn.peer, now)
                    && queued()
                        .is_ok_and(|queued| acknowledges_soon(queued + bytes, turn.meter.rate())))
    }

    fn copies(&self, peer: SocketAddr, now: Instant) -> bool {
        let network = Network::of(peer.ip());
        self.copying.borrow_mut().holds(network, now)
    }

    /// The ring, made when it is needed for the first time: where no client is fast enough, or the kernel
    /// copies everywhere, none is.
    fn ring(self: &Rc<Self>, engine: &Engine) -> Option<&Rc<ZeroCopyRing<Sent>>> {
        let made = self
            .ring
            .get_or_init(|| match engine.io.zero_copy_ring(&engine.pool) {
                Ok(ring) => {
                    let ring = Rc::new(ring);
                    tokio::task::spawn_local(Rc::clone(self).watch(Rc::clone(&ring)));
                    Some(ring)
                }
                Err(error) => {
                    tracing::warn!("zero-copy sends are off on this core: {error}");
                    None
                }
            });
        made.as_ref()
    }

    async fn watch(self: Rc<Self>, ring: Rc<ZeroCopyRing<Sent>>) {
        loop {
            ring.wait_for_completion().await;
            self.settle(&ring);
        }
    }

    /// Takes note of the sends that ended.
    fn settle(&self, ring: &ZeroCopyRing<Sent>) {
        for sent in ring.take_completed() {
            if !sent.copied {
                continue;
            }
            self.stats.zero_copy_copied_bytes.add(sent.bytes as u64);
            let network = Network::of(sent.tag.to.ip());
            if self.mode == ZeroCopyMode::Auto
                && self.copying.borrow_mut().note(network, Instant::now())
            {
                tracing::info!(%network, "zero-copy sends to this network are off: the kernel copies");
            }
        }
        self.stats.pinned_buffers.set(ring.pinned_sends() as u64);
        let copying = self.copying.borrow().0.len();
        self.stats.zero_copy_networks_off.set(copying as u64);
    }
}

/// Whether an error is the kernel's own trouble, not the connection's.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOMEM | libc::ENOBUFS | libc::EINVAL | libc::EOPNOTSUPP | libc::EFAULT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_prefix_of_its_peers_addresses() {
        let network = |text: &str| Network::of(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2::3"), "2001:db8:1::/48");
    }

    #[test]
    fn copying_is_remembered_for_a_time_and_of_few_networks() {
        let mut copying = Copying::new();
        let network = |n: u32| Network::of(IpAddr::V4((n << 8).into()));
        let now = Instant::now();
        assert!(!copying.holds(network(1), now));
        assert!(copying.note(network(1), now));
        assert!(!copying.note(network(1), now), "known already");
        assert!(copying.holds(network(1), now + ZERO_COPY_RETRY / 2));
        assert!(!copying.holds(network(1), now + ZERO_COPY_RETRY));
        assert_eq!(copying.0.len(), 0);
        for n in 0..2 * ZERO_COPY_NETWORKS_MAX as u32 {
            copying.note(network(n), now);
        }
        assert_eq!(copying.0.len(), ZERO_COPY_NETWORKS_MAX);
        assert!(!copying.holds(network(0), now));
    }

    #[test]
    fn slow_peers_do_not_acknowledge_soon() {
        assert!(!acknowledges_soon(1, 0));
        assert!(!acknowledges_soon(256 << 10, 10 << 20));
        assert!(acknowledges_soon(256 << 10, 100 << 20));
        assert!(!acknowledges_soon(2 << 20, 100 << 20), "much is queued");
        assert!(acknowledges_soon(u64::MAX / 2000, u64::MAX));
    }
}
