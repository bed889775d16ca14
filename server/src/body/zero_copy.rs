//! Which pieces are sent zero-copy, and to which networks that is no gain.
//!
//! A zero-copy send pins its piece's pool buffer until the peer has acknowledged it, and a pinned buffer can't be taken
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
    ZERO_COPY_BYTES_MIN, ZERO_COPY_HOLD, ZERO_COPY_PINS_MAX, ZERO_COPY_POOL_PART, ZERO_COPY_RETRY,
    ZERO_COPY_ROUTES_MAX,
};
use crate::stats::CoreStats;

/// A network of peers that are reached by the same way, as far as can be told: a /24 of IPv4, a /48 of IPv6,
/// with the other bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route(IpAddr);

impl Route {
    /// The network of a peer.
    pub fn to(peer: IpAddr) -> Route {
        Route(match peer.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !0 << 8).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !0 << 80).into()),
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 48 })
    }
}

/// The routes on which the kernel copied lately. Of very many, those found last.
struct Copying(LruCache<Route, Instant>);

impl Copying {
    fn new() -> Copying {
        const MOST: NonZeroUsize = NonZeroUsize::new(ZERO_COPY_ROUTES_MAX).unwrap();
        Copying(LruCache::new(MOST))
    }

    /// The kernel reported a copy. Returns whether that is news.
    fn note(&mut self, route: Route, now: Instant) -> bool {
        self.0.put(route, now + ZERO_COPY_RETRY).is_none()
    }

    fn holds(&mut self, route: Route, now: Instant) -> bool {
        let until = self.0.peek(&route).copied();
        if until.is_some_and(|until| now >= until) {
            self.0.pop(&route);
            return false;
        }
        until.is_some()
    }
}

/// Whether a peer that acknowledges `rate` bytes a second will soon have acknowledged this many.
fn gives_back_soon(bytes: u64, rate: u64) -> bool {
    u128::from(bytes) * 1000 <= u128::from(rate) * ZERO_COPY_HOLD.as_millis()
}

/// What is remembered of a send until its buffer is back.
struct Sent {
    to: SocketAddr,
    at: Instant,
}

/// One core's zero-copy sends.
pub struct ZeroCopy {
    when: ZeroCopyMode,
    /// Made for the first send that is to go this way; `None` if that failed.
    pins: OnceCell<Option<Rc<ZeroCopyRing<Sent>>>>,
    /// The kernel refused a send for a reason of its own.
    refused: Cell<bool>,
    copying: RefCell<Copying>,
    /// Buffers that may be pinned.
    pins_max: usize,
    stats: Arc<CoreStats>,
}

impl ZeroCopy {
    /// For a core with this pool. `when` is [`ZeroCopyMode::Off`] where the kernel can't.
    pub fn new(when: ZeroCopyMode, pool: &Pool, stats: Arc<CoreStats>) -> Rc<ZeroCopy> {
        Rc::new(ZeroCopy {
            when,
            pins: OnceCell::new(),
            refused: Cell::new(false),
            copying: RefCell::new(Copying::new()),
            pins_max: pool.buffers() / ZERO_COPY_POOL_PART,
            stats,
        })
    }

    /// Offers a message to a socket without waiting for room, if it is to go this way; else gives it back.
    /// The count is what was taken, of the head and then of the slices.
    pub fn send(
        self: &Rc<Self>,
        engine: &Engine,
        turn: &Turn<'_>,
        message: Message,
    ) -> Result<io::Result<usize>, Message> {
        if self.when == ZeroCopyMode::Off
            || message.bytes() - message.head().len() < ZERO_COPY_BYTES_MIN
            || self.refused.get()
        {
            return Err(message);
        }
        let now = Instant::now();
        if !self.may_pin(turn, message.bytes() as u64, now) {
            return Err(message);
        }
        let Some(pins) = self.pins(engine) else {
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
        let result = pins.send(socket, message.without_head(), tag);
        self.settle(pins);
        match result {
            Ok(taken) => Ok(Ok(head + taken)),
            Err(error) if is_refusal(&error) || !pins.is_usable() => {
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
        if let Some(Some(pins)) = self.pins.get() {
            self.settle(pins);
            if pins.pinned_sends() >= self.pins_max {
                return false;
            }
            let age = |sent: &Sent| now.saturating_duration_since(sent.at);
            let (its, late) = pins.with_tags(|tags| {
                tags.filter(|sent| sent.to == turn.peer)
                    .fold((0, false), |(its, late), sent| {
                        (its + 1, late || age(sent) > ZERO_COPY_HOLD)
                    })
            });
            if its >= ZERO_COPY_PINS_MAX || late && self.when == ZeroCopyMode::Auto {
                return false;
            }
        }
        let queued = || turn.socket.unacknowledged_bytes().map(u64::from);
        self.pins_max > 0
            && (self.when == ZeroCopyMode::Always
                || gives_back_soon(bytes, turn.meter.rate())
                    && !self.copies(turn.peer, now)
                    && queued()
                        .is_ok_and(|queued| gives_back_soon(queued + bytes, turn.meter.rate())))
    }

    fn copies(&self, peer: SocketAddr, now: Instant) -> bool {
        let route = Route::to(peer.ip());
        self.copying.borrow_mut().holds(route, now)
    }

    /// The ring, made when it is needed for the first time: where no client is fast enough, or the kernel
    /// copies everywhere, none is.
    fn pins(self: &Rc<Self>, engine: &Engine) -> Option<&Rc<ZeroCopyRing<Sent>>> {
        let made = self
            .pins
            .get_or_init(|| match engine.io.zero_copy_ring(&engine.pool) {
                Ok(pins) => {
                    let pins = Rc::new(pins);
                    tokio::task::spawn_local(Rc::clone(self).watch(Rc::clone(&pins)));
                    Some(pins)
                }
                Err(error) => {
                    tracing::warn!("zero-copy sends are off on this core: {error}");
                    None
                }
            });
        made.as_ref()
    }

    async fn watch(self: Rc<Self>, pins: Rc<ZeroCopyRing<Sent>>) {
        loop {
            pins.wait_for_completion().await;
            self.settle(&pins);
        }
    }

    /// Takes note of the sends that ended.
    fn settle(&self, pins: &ZeroCopyRing<Sent>) {
        for sent in pins.take_completed() {
            if !sent.copied {
                continue;
            }
            self.stats.zero_copy_copied_bytes.add(sent.bytes as u64);
            let route = Route::to(sent.tag.to.ip());
            if self.when == ZeroCopyMode::Auto
                && self.copying.borrow_mut().note(route, Instant::now())
            {
                tracing::info!(%route, "zero-copy sends are off there: the kernel copies");
            }
        }
        self.stats.pinned_buffers.set(pins.pinned_sends() as u64);
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
    fn a_route_is_a_network_of_peers() {
        let route = |text: &str| Route::to(text.parse().unwrap()).to_string();
        assert_eq!(route("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(route("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(route("2001:db8:1:2::3"), "2001:db8:1::/48");
    }

    #[test]
    fn copying_is_remembered_for_a_time_and_not_of_all() {
        let mut copying = Copying::new();
        let route = |n: u32| Route::to(IpAddr::V4((n << 8).into()));
        let now = Instant::now();
        assert!(!copying.holds(route(1), now));
        assert!(copying.note(route(1), now));
        assert!(!copying.note(route(1), now), "known already");
        assert!(copying.holds(route(1), now + ZERO_COPY_RETRY / 2));
        assert!(!copying.holds(route(1), now + ZERO_COPY_RETRY));
        assert_eq!(copying.0.len(), 0);
        for n in 0..2 * ZERO_COPY_ROUTES_MAX as u32 {
            copying.note(route(n), now);
        }
        assert_eq!(copying.0.len(), ZERO_COPY_ROUTES_MAX);
        assert!(!copying.holds(route(0), now));
    }

    #[test]
    fn slow_peers_do_not_give_back_soon() {
        assert!(!gives_back_soon(1, 0));
        assert!(!gives_back_soon(256 << 10, 10 << 20));
        assert!(gives_back_soon(256 << 10, 100 << 20));
        assert!(!gives_back_soon(2 << 20, 100 << 20), "much is queued");
        assert!(gives_back_soon(u64::MAX / 2000, u64::MAX));
    }
}
