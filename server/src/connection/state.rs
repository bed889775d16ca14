//! What is known of one connection. Its task keeps it up to date; the tick reads it.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::lending::{Lender, SendBuffer};
use super::networks::{Member, Networks};
use super::preamble::{self, Said};
use super::rates::{Limited, Rates};
use super::seats::{Full, Seat};
use super::timing::Timing;
use crate::body::AckMeter;
use crate::body::readahead::Slot;
use crate::config::proxies::Proxies;
use crate::http::request::Request;
use crate::io::Socket;
use crate::memory::budget::{Allowance, Claim};
use crate::memory::limits::{PENDING_BYTES_FREE, REQUEST_HEAD_BYTES_MAX};
use crate::stats::Phase;
use crate::tls::Session;

/// Why the tick ended a connection's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// A request head took too long: to be answered 408.
    HeadTimeout,
    /// Any other deadline, or the end of draining: the socket is gone.
    Closed,
}

/// Why a proxy's connection isn't served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntroductionError {
    /// It begins with something else than a header of the PROXY protocol.
    Malformed,
    /// There is no seat for the client that it named.
    Full(Full),
}

/// One connection.
pub struct Connection {
    /// The socket.
    pub socket: Rc<Socket>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The address that a proxy gave for the whole connection, or the peer's.
    introduced: Cell<IpAddr>,
    /// The address of the client of the present request.
    client: Cell<IpAddr>,
    /// What arrived of a proxy's preamble, as long as one is expected.
    preamble: RefCell<Option<Vec<u8>>>,
    /// The client's network.
    pub member: Rc<Member>,
    /// How fast it is sent to.
    pub limited: Limited,
    /// The state that it is in.
    pub phase: Cell<Phase>,
    /// When it entered that state.
    pub since: Cell<Instant>,
    /// User memory held beyond the task itself.
    pub held_bytes: Cell<usize>,
    /// What was sent, and how fast the peer acknowledges it.
    pub meter: AckMeter,
    /// `SO_SNDBUF`, and what is borrowed for it.
    pub send_buffer: SendBuffer,
    /// What is borrowed for an incomplete request head.
    head: RefCell<Claim>,
    /// How its request goes.
    pub timing: Timing,
    /// What is read ahead for it.
    pub readahead: Slot,
    /// The kernel's memory for the socket, as of the last sample.
    pub socket_bytes: Cell<u64>,
    /// The part of that in the send queue.
    pub send_queue_bytes: Cell<u64>,
    /// Set by the tick before it wakes the task.
    pub close_reason: Cell<Option<CloseReason>>,
    /// Its seat; none for a connection that is refused.
    seat: RefCell<Option<Seat>>,
    /// Its TLS session, once there is one.
    session: OnceCell<Box<RefCell<Session>>>,
}

impl Connection {
    /// A connection just accepted. Without a seat it is one that is refused.
    pub fn new(
        lender: &Rc<Lender>,
        networks: &Rc<Networks>,
        rates: &Arc<Rates>,
        socket: Rc<Socket>,
        peer: SocketAddr,
        seat: Option<Seat>,
    ) -> Connection {
        let now = Instant::now();
        let member = Rc::new(networks.join(peer.ip()));
        Connection {
            socket,
            peer,
            introduced: Cell::new(peer.ip()),
            client: Cell::new(peer.ip()),
            preamble: RefCell::new(None),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            held_bytes: Cell::new(0),
            meter: AckMeter::new(now),
            send_buffer: SendBuffer::new(lender, &member),
            member,
            limited: Limited::new(rates, peer.ip(), now),
            head: RefCell::new(Claim::empty(lender.budget())),
            timing: Timing::new(now),
            readahead: Slot::default(),
            socket_bytes: Cell::new(0),
            send_queue_bytes: Cell::new(0),
            close_reason: Cell::new(None),
            seat: RefCell::new(seat),
            session: OnceCell::new(),
        }
    }

    /// From now on it has this session.
    pub fn secure(&self, session: Session) {
        // There is one handshake.
        let _ = self.session.set(Box::new(RefCell::new(session)));
    }

    /// Its TLS session, if it has one.
    pub fn session(&self) -> Option<&RefCell<Session>> {
        self.session.get().map(|session| &**session)
    }

    /// From now on a proxy's preamble is expected.
    pub fn expect_preamble(&self) {
        *self.preamble.borrow_mut() = Some(Vec::new());
    }

    /// Takes bytes that were received. Those that belong to a proxy's preamble are left out of what is returned.
    pub fn introduce<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, IntroductionError> {
        let mut preamble = self.preamble.borrow_mut();
        let Some(pending) = preamble.as_mut() else {
            return Ok(Cow::Borrowed(bytes));
        };
        let before = pending.len();
        pending.extend_from_slice(bytes);
        match preamble::parse(pending) {
            Said::NeedMore => Ok(Cow::Borrowed(&[])),
            Said::Malformed => Err(IntroductionError::Malformed),
            Said::Client(client, length) => {
                *preamble = None;
                let client = client.unwrap_or(self.peer.ip());
                self.introduced.set(client);
                self.set_client(client);
                if client != self.peer.ip() {
                    self.assign_seat(client)?;
                }
                Ok(Cow::Borrowed(&bytes[length - before..]))
            }
        }
    }

    /// Takes the seat of a connection that is about to be closed.
    pub fn take_seat(&self) -> Option<Seat> {
        self.seat.borrow_mut().take().map(Seat::vacated)
    }

    /// Counts the connection as one of this client's. If it has too many, this one keeps its seat until it was told so.
    fn assign_seat(&self, client: IpAddr) -> Result<(), IntroductionError> {
        match self.seat.borrow_mut().as_mut() {
            Some(seat) => seat.assign(client).map_err(IntroductionError::Full),
            None => Ok(()),
        }
    }

    /// Notes whose request this is.
    pub fn attribute(&self, request: &Request, proxies: &Proxies) {
        let introduced = self.introduced.get();
        let told = request
            .forwarded
            .as_ref()
            .filter(|_| proxies.trusts(introduced))
            .and_then(|told| told.client(proxies.told, |address| proxies.trusts(address)));
        self.set_client(told.unwrap_or(introduced));
    }

    /// The address of the client: the peer's, or what trusted proxies said.
    pub fn client(&self) -> IpAddr {
        self.client.get()
    }

    /// The client turns out to be at this address. It is in the middle of no response.
    fn set_client(&self, address: IpAddr) {
        if self.client.replace(address) != address {
            self.member.move_to(address);
            self.limited.move_to(address, Instant::now());
        }
    }

    /// Claims room for what a connection holds of heads, once that is more than its state pays for; `false` if it can't be
    /// had. In steps of the longest head: if heads claimed as they grow, very many that begin together would take all
    /// there is and none could be finished.
    pub fn claim_head(&self, held_bytes: usize) -> bool {
        let bytes = match held_bytes {
            0..=PENDING_BYTES_FREE => 0,
            _ => held_bytes.next_multiple_of(REQUEST_HEAD_BYTES_MAX),
        };
        self.head
            .borrow_mut()
            .resize(bytes as u64, Allowance::Eighth)
    }

    /// Notes the state that the connection is in.
    pub fn enter(&self, phase: Phase, held_bytes: usize, now: Instant) {
        self.held_bytes.set(held_bytes);
        if self.phase.replace(phase) != phase {
            self.member.set_sending(phase == Phase::Sending);
            self.since.set(now);
        }
    }
}
