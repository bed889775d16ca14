//! Takes connections from a core's listener: to serve them, or to say that there is no place.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers;
use super::core::Core;
use super::driver::{Transport, drive};
use super::seats::{Full, Seat, Seats};
use super::state::Connection;
use crate::config::values::OverLimit;
use crate::io::{Interest, Socket};
use crate::memory::limits::{ACCEPTS_PER_TURN, REFUSALS_MAX};
use crate::tls::Alert;

/// How long accepting pauses when there is no place, or no descriptor.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections and starts a task for each, until the core drains.
pub async fn accept(
    core: Rc<Core>,
    (listener, transport): (Rc<Socket>, Transport),
    seats: Arc<Seats>,
    over: OverLimit,
) {
    loop {
        let ready = core.io().ready(&listener, Interest::Read).await;
        if core.draining.get() {
            return;
        }
        if let Err(error) = ready {
            tracing::error!(%error, "waiting for connections failed");
            tokio::time::sleep(PAUSE).await;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let reserved = match over {
                // Reserved first: between a look and the accept, another core could take the last seat.
                OverLimit::Wait => seats.reserve().or_else(|| {
                    // Nobody gives way to nobody.
                    let is_waiting = listener.is_readable_now();
                    is_waiting.then(|| take_seat(&core, &seats)).flatten()
                }),
                // Not so here: a seat held for nobody would make another core refuse somebody.
                OverLimit::Refuse => None,
            };
            let full = match over {
                OverLimit::Wait => reserved.is_none(),
                OverLimit::Refuse => {
                    seats.taken() >= seats.seats() && core.refusing.get() >= REFUSALS_MAX
                }
            };
            if full {
                // Others wait in the backlog, which is short and part of the plan.
                tokio::time::sleep(PAUSE).await;
                break;
            }
            match listener.accept() {
                Ok((socket, peer)) => {
                    let seat = match reserved {
                        Some(seat) => Ok(seat),
                        None => take_seat(&core, &seats).ok_or(Full::Server),
                    };
                    admit(&core, (socket, transport), peer, seat);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The peer was gone before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
        // There may be more: the others have their turn first.
        core.io().yield_now().await;
    }
}

/// Takes a seat, perhaps that of an idle connection.
fn take_seat(core: &Core, seats: &Arc<Seats>) -> Option<Seat> {
    let seat = seats.reserve().or_else(|| core.make_room(Instant::now()));
    if seat.is_none() {
        seats.want_room();
    }
    seat
}

/// Starts serving a connection, or refusing it. Those being refused have no seat: a crowd that keeps
/// coming back doesn't keep others out.
fn admit(
    core: &Rc<Core>,
    (socket, transport): (Socket, Transport),
    peer: SocketAddr,
    seat: Result<Seat, Full>,
) {
    let site = core.context().site;
    let is_proxy = site.proxies.trusts(peer.ip());
    // A proxy's connections are those of its clients.
    let seat = match is_proxy {
        true => seat,
        false => seat.and_then(|mut seat| seat.assign(peer.ip()).map(|()| seat)),
    };
    let (seat, refusal) = match seat {
        Ok(seat) => {
            core.stats().accepted_connections.add(1);
            (Some(seat), None)
        }
        Err(full) => {
            core.stats().refused_connections.add(1);
            if transport == Transport::Tls {
                // Telling it more would take a handshake.
                let alert = Alert::INTERNAL_ERROR.plain_record();
                let _ = socket.send_whole([&alert[..]].into_iter());
                return;
            }
            if core.refusing.get() >= REFUSALS_MAX {
                return;
            }
            core.refusing.set(core.refusing.get() + 1);
            (None, Some(answers::no_seat(core, full)))
        }
    };
    tracing::debug!(%peer, refused = refusal.is_some(), "accepted");
    let refused = refusal.is_some();
    let connection = Rc::new(Connection::new(
        &core.lender,
        &core.networks,
        &core.rates,
        Rc::new(socket),
        peer,
        seat,
    ));
    if is_proxy && site.proxies.preamble && !refused {
        connection.expect_preamble();
    }
    let listed = Listed {
        slot: core.connections.borrow_mut().insert(Rc::clone(&connection)),
        core: Rc::clone(core),
        refused,
    };
    tokio::task::spawn_local(async move {
        drive(Rc::clone(&listed.core), connection, transport, refusal).await;
        drop(listed);
    });
}

/// A connection's entry among those of its core. It goes with the task, also if that panics: a library's error with one
/// client must not take a seat for ever.
struct Listed {
    core: Rc<Core>,
    slot: usize,
    refused: bool,
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Ok(mut connections) = self.core.connections.try_borrow_mut() {
            connections.try_remove(self.slot);
        }
        let refusing = &self.core.refusing;
        refusing.set(refusing.get() - usize::from(self.refused));
    }
}
