//! Performs what a connection's protocol wants next, and reports what happened.
//!
//! The way of a GET: wait for a request, look its object up, then wait for credit, let the body's sources send no more
//! than that, and forget it, until the body is sent. Nothing is read or decoded before the kernel reported room,
//! except by [`readahead`](crate::body::readahead). No pool buffer is held while waiting for a client, except those that
//! the kernel sends from ([`zero_copy`](crate::body::zero_copy)).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::answers::{self, Answer};
use super::core::Core;
use super::gate::Admission;
use super::lookup::{self, Opened, Refused};
use super::rates::Reservation;
use super::request_log;
use super::secured::{self, Arrived};
use super::state::{CloseReason, Connection, IntroductionError};
use crate::body::ack_meter::Reader;
use crate::body::source::SendError;
use crate::body::turn::Way;
use crate::body::{Body, Turn};
use crate::http::outgoing::Outgoing;
use crate::http::protocol::{Action, Protocol};
use crate::http::response::{Context, Response};
use crate::io::{Interest, is_transient};
use crate::memory::limits::{
    LINGER_BYTES_MAX, LINGER_PAUSE_LEAST, LINGER_PAUSE_MOST, NOTHING_TAKEN_PAUSE, RATE_WAIT_MAX,
    REQUEST_HEAD_BYTES_MAX,
};
use crate::tls::Session;
use crate::units::{Length, ObjectOffset};

type BodyProtocol = Protocol<Body>;

/// What a listener's connections speak below HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nothing.
    Plain,
    /// TLS.
    Tls,
}

/// Serves one connection until it ends. With a `refusal` it sends only that and closes.
pub async fn drive(
    core: Rc<Core>,
    connection: Rc<Connection>,
    transport: Transport,
    refusal: Option<Response>,
) {
    let mut protocol = match (refusal, transport) {
        (None, Transport::Plain) => BodyProtocol::default(),
        (None, Transport::Tls) => BodyProtocol::secured(),
        (Some(answer), _) => BodyProtocol::refusing(answer),
    };
    if let (Transport::Tls, Some(secured)) = (transport, &core.secured) {
        match Box::pin(secured::handshake(&core, secured, &connection)).await {
            Ok(arrived) => {
                if let Err(error) = receive_arrived(&core, &connection, &mut protocol, arrived) {
                    tracing::debug!(%error, peer = %connection.peer, "connection ended");
                    protocol.closed();
                }
            }
            Err(error) => {
                tracing::debug!(%error, peer = %connection.peer, "no TLS session");
                protocol.linger();
            }
        }
    }
    let mut is_clean = true;
    loop {
        let now = Instant::now();
        if protocol.take_begun() {
            connection.timing.begin(now);
        }
        let mut held = held_bytes(&connection, &protocol);
        // Where very many clients send long heads at once, there is no memory for this one.
        while !connection.claim_head(held) && protocol.memory_refused(&core.context()) {
            held = held_bytes(&connection, &protocol);
        }
        connection.enter(protocol.phase(), held, now);
        let action = protocol.next();
        let result = match action {
            Action::Receive => receive(&core, &connection, &mut protocol).await,
            Action::Open => {
                open(&core, &connection, &mut protocol).await;
                Ok(())
            }
            Action::Send => send(&core, &connection, &mut protocol).await,
            Action::Linger => linger(&core, &connection, &mut protocol).await,
            Action::Close => {
                // A body that was cut off must not look whole.
                if is_clean {
                    let _ = secured::close_now(&core, &connection);
                }
                let timeout = core.live.borrow().send_timeout;
                return connection.socket.set_close_timeout(timeout);
            }
        };
        if let Err(error) = result {
            // The peer is gone, or a deadline ended the connection.
            tracing::debug!(%error, phase = ?protocol.phase(), "connection ended");
            is_clean &= action != Action::Send;
            protocol.closed();
        }
        if let Some(cut) = protocol.take_cut() {
            request_log::note_end(&core, &connection, cut, false, Instant::now());
        }
        if action == Action::Send && matches!(protocol.next(), Action::Send | Action::Open) {
            // Perhaps nothing was waited for: other connections get their turn by hand.
            core.io().yield_now().await;
        }
    }
}

async fn receive(
    core: &Core,
    connection: &Connection,
    protocol: &mut BodyProtocol,
) -> io::Result<()> {
    // A client's last message may have come with its request. Behind it nothing comes that could be waited for.
    let session = connection.session();
    if !session.is_some_and(|session| session.borrow().peer_has_ended()) {
        core.io().ready(&connection.socket, Interest::Read).await?;
    }
    match connection.close_reason.take() {
        Some(CloseReason::HeadTimeout) => {
            protocol.head_timeout(&core.context());
            return Ok(());
        }
        Some(CloseReason::Closed) => return Err(io::ErrorKind::TimedOut.into()),
        None => {}
    }
    if connection.session().is_some() {
        let arrived = secured::receive(core, connection)?;
        return receive_arrived(core, connection, protocol, arrived);
    }
    let mut scratch = core.scratch.borrow_mut();
    let room = REQUEST_HEAD_BYTES_MAX - protocol.pending_bytes().min(REQUEST_HEAD_BYTES_MAX - 1);
    match connection.socket.receive(&mut scratch[..room]) {
        Ok(0) => receive_end(connection, protocol)?,
        Ok(count) => match connection.introduce(&scratch[..count]) {
            Ok(bytes) => receive_bytes(core, protocol, &bytes),
            Err(IntroductionError::Full(full)) => {
                core.stats().refused_connections.add(1);
                *protocol = Protocol::refusing(answers::no_seat(core, full));
            }
            Err(IntroductionError::Malformed) => {
                tracing::warn!(
                    proxy = %connection.peer,
                    "a connection of a trusted proxy doesn't begin with a header of the PROXY protocol: closed"
                );
                return Err(io::ErrorKind::InvalidData.into());
            }
        },
        Err(error) if is_transient(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What came in TLS records.
fn receive_arrived(
    core: &Core,
    connection: &Connection,
    protocol: &mut BodyProtocol,
    arrived: Arrived,
) -> io::Result<()> {
    match arrived {
        Arrived::Bytes(bytes) => receive_bytes(core, protocol, &bytes),
        Arrived::End => receive_end(connection, protocol)?,
        Arrived::Wrong(error) => {
            tracing::debug!(%error, peer = %connection.peer, "connection ended");
            protocol.linger();
        }
    }
    Ok(())
}

fn receive_bytes(core: &Core, protocol: &mut BodyProtocol, bytes: &[u8]) {
    if !bytes.is_empty() {
        protocol.received(bytes, &core.context());
    }
}

/// The client sends nothing more.
fn receive_end(connection: &Connection, protocol: &mut BodyProtocol) -> io::Result<()> {
    // The rest of the last response is still queued and holds memory: the connection lingers until it is gone.
    match connection.socket.unacknowledged_bytes()? > 0 {
        true => protocol.linger(),
        false => protocol.peer_closed(),
    }
    Ok(())
}

/// What responses on a connection depend on now. One whose key is worn ends after a response, as when the server stops.
fn context_of(core: &Core, connection: &Connection) -> Context {
    let mut context = core.context();
    context.draining = is_ending(core, connection);
    context
}

/// Whether every response is now the connection's last.
fn is_ending(core: &Core, connection: &Connection) -> bool {
    let session = connection.session();
    core.draining.get() || session.is_some_and(|session| session.borrow().is_worn())
}

/// Bytes that are held for what the client sends and is sent.
fn held_bytes(connection: &Connection, protocol: &BodyProtocol) -> usize {
    let session = connection.session();
    protocol.held_bytes() + session.map_or(0, |session| session.borrow().held_bytes())
}

async fn open(core: &Core, connection: &Connection, protocol: &mut BodyProtocol) {
    let Some(request) = protocol.request() else {
        return;
    };
    let context = core.context();
    connection.attribute(request, &context.site.proxies);
    let opened = Box::pin(lookup::open(core, request, &context)).await;
    let rate = opened.as_ref().ok().and_then(|(_, rate)| *rate);
    connection.limited.set_request(rate);
    let context = context_of(core, connection);
    match opened {
        Ok((Opened::Object(description, body), _)) => {
            protocol.opened(&description, body, &context);
        }
        Ok((
            Opened::Document {
                length,
                fields,
                body,
            },
            _,
        )) => protocol.opened_document(length, &fields, body, &context),
        Err(Refused::Answer((status, reason))) => {
            protocol.open_failed(status, reason, &context);
        }
        Err(Refused::S3(error)) => protocol.open_refused(&error, &context),
    }
}

/// Waits for credit, then sends one piece of the response.
async fn send(core: &Core, connection: &Connection, protocol: &mut BodyProtocol) -> io::Result<()> {
    let Some(out) = protocol.outgoing() else {
        return Ok(());
    };
    if out.is_unsent() {
        connection
            .send_buffer
            .start(&connection.socket, out.remaining())?;
    }
    let mut admitted = wait_for_credit(core, connection, out.remaining()).await?;
    let mut reservation = keep_to_rate(connection, admitted as u64).await?;
    if let Some(reservation) = &reservation {
        admitted = reservation.bytes() as usize;
    }
    let charge = core
        .networks
        .turn(&connection.member, admitted as u64)
        .await;
    if charge.is_some() {
        // There may be more room now.
        let room = Box::pin(wait_for_credit(core, connection, out.remaining())).await?;
        admitted = match &reservation {
            Some(reservation) => room.min(reservation.bytes() as usize),
            None => room,
        };
    }
    // Boxed, as all is that is not there while a connection waits for credit: its task has room for that and no more.
    let sent = Box::pin(take_turn(core, connection, out, admitted)).await;
    if let (Some(charge), Ok(bytes)) = (charge, &sent) {
        charge.sent(*bytes as u64);
    }
    if let (Some(reservation), Ok(bytes)) = (&mut reservation, &sent) {
        reservation.sent(*bytes as u64);
    }
    match sent {
        Ok(bytes) => {
            note_sent(core, connection, protocol, bytes);
            if bytes == 0 {
                // The socket says that it has room, and took nothing: the kernel is short of memory for sockets (tcp_mem), and
                // there is no event for when it is not.
                Box::pin(tokio::time::sleep(NOTHING_TAKEN_PAUSE)).await;
            }
        }
        Err(SendError::Connection(error)) => return Err(error),
        Err(SendError::Piece(error)) => {
            let answer = answers::for_piece(&error);
            give_up(core, connection, protocol, &error, answer);
        }
        Err(SendError::Reopen(error)) => {
            let answer = answers::for_lookup(&error);
            give_up(core, connection, protocol, &error, answer);
        }
    }
    Ok(())
}

/// Sends one piece of at most so many bytes.
async fn take_turn(
    core: &Core,
    connection: &Connection,
    out: &Outgoing<Body>,
    admitted: usize,
) -> Result<usize, SendError> {
    let head = &out.head()[..out.head().len().min(admitted)];
    let body = out.body();
    let body = ObjectOffset(body.start)..ObjectOffset(body.end);
    let turn = Turn {
        socket: &connection.socket,
        way: connection.session().map_or(Way::Plain, Way::Sealed),
        workspace: core.sources.workspace.as_ref(),
        peer: connection.peer,
        meter: &connection.meter,
        send_buffer: connection.send_buffer.bytes(),
        admitted: body.length().min((admitted - head.len()) as u64),
        head,
        body,
        remaining: out.remaining(),
    };
    core.sources
        .send(&turn, out.object(), &connection.readahead)
        .await
}

/// Waits until the limits on rates let some of these bytes leave; `None` if there are no limits.
async fn keep_to_rate(connection: &Connection, bytes: u64) -> io::Result<Option<Reservation>> {
    if !connection.limited.is_limited() {
        return Ok(None);
    }
    let now = Instant::now();
    let Some(reservation) = connection.limited.reserve(bytes, now) else {
        return Ok(None);
    };
    if !reservation.wait().is_zero() {
        Box::pin(wait_until(connection, now + reservation.wait())).await?;
        // It is we who are slow.
        connection.meter.restart(Reader::LeastRate, Instant::now());
    }
    Ok(Some(reservation))
}

/// Waits for a time to come, or for the connection to be ended by its deadline.
async fn wait_until(connection: &Connection, until: Instant) -> io::Result<()> {
    loop {
        if connection.close_reason.get().is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(RATE_WAIT_MAX)).await;
    }
}

/// The kernel took `bytes` of the response.
fn note_sent(core: &Core, connection: &Connection, protocol: &mut BodyProtocol, bytes: usize) {
    let bytes = bytes as u64;
    core.stats().sent_bytes.add(bytes);
    connection.meter.add_sent(match connection.session() {
        None => bytes,
        Some(session) => session.borrow_mut().take_wire_bytes(),
    });
    // Asked at the beginning and at the end: shares get lost meanwhile.
    let degraded = core.access.is_some()
        && protocol.outgoing().is_some_and(|out| {
            let asked = out.is_unsent() || bytes >= out.remaining();
            asked && out.object().is_some_and(|body| body.resource.is_degraded())
        });
    let now = Instant::now();
    request_log::note_sent(core, connection, bytes, degraded, now);
    let ending = is_ending(core, connection);
    let context = || context_of(core, connection);
    if let Some(finished) = protocol.sent(bytes, ending, context) {
        request_log::note_end(core, connection, finished, true, now);
    }
}

/// Waits until the socket takes some of the `remaining` bytes, and says how many. Meanwhile the connection may earn a
/// larger send buffer.
async fn wait_for_credit(
    core: &Core,
    connection: &Connection,
    remaining: u64,
) -> io::Result<usize> {
    let Some(session) = connection.session() else {
        return wait_for_room(core, connection, remaining).await;
    };
    // In records they are more.
    let remaining = session.borrow().room_for(remaining);
    let room = wait_for_room(core, connection, remaining).await?;
    Ok(session.borrow().content_for(room))
}

async fn wait_for_room(core: &Core, connection: &Connection, remaining: u64) -> io::Result<usize> {
    let mut polled = false;
    loop {
        if connection.close_reason.get().is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let space = connection.socket.send_space()?;
        let room = space.buffer_bytes.saturating_sub(space.queued_bytes);
        if remaining > u64::from(room)
            && connection
                .send_buffer
                .grow(&connection.socket, &connection.meter, Instant::now())?
        {
            continue;
        }
        match core.gate.admit(space, remaining, polled) {
            Admission::Bytes(bytes) => return Ok(bytes as usize),
            Admission::Wait => core.io().ready(&connection.socket, Interest::Write).await?,
        }
        polled = true;
    }
}

/// The body can't go on: an error if nothing was sent yet, else a reset, so that no client takes a
/// short body for a whole one.
fn give_up(
    core: &Core,
    connection: &Connection,
    protocol: &mut BodyProtocol,
    error: &dyn std::fmt::Display,
    (status, reason): Answer,
) {
    if let Some(body) = protocol.outgoing().and_then(|out| out.object()) {
        tracing::error!(
            name = body.resource.name(),
            "the object can't be read: {error}"
        );
    }
    // A part of a TLS record has left that only the same bytes can end.
    let is_amid = |session: &RefCell<Session>| session.borrow().unfinished().is_some();
    if protocol.body_failed(status, reason, &core.context())
        || connection.session().is_some_and(is_amid)
    {
        core.stats().reset_bodies.add(1);
        connection.socket.reset();
    }
}

/// Lets the peer take the last response: its end is announced, and what the peer still sends is thrown
/// away, since closing with unread bytes would reset the connection under it (RFC 9112 section 9.6).
///
/// The descriptor is kept until everything is acknowledged, whatever the peer does: what a closed socket
/// still has queued is memory that no connection would account for.
async fn linger(
    core: &Core,
    connection: &Connection,
    protocol: &mut BodyProtocol,
) -> io::Result<()> {
    let socket = &connection.socket;
    secured::close(core, connection).await?;
    socket.shutdown_send();
    let mut thrown_away = 0;
    loop {
        core.io().ready(socket, Interest::Read).await?;
        let received = socket.receive(&mut core.scratch.borrow_mut()[..]);
        match received {
            Ok(0) => break,
            Ok(count) if thrown_away < LINGER_BYTES_MAX => thrown_away += count,
            Err(error) if is_transient(&error) && connection.close_reason.get().is_none() => {}
            // Too much, or too late.
            _ => {
                socket.reset();
                break;
            }
        }
    }
    // There is no event for the last acknowledgement.
    let mut pause = LINGER_PAUSE_LEAST;
    while connection.close_reason.get().is_none()
        && socket.unacknowledged_bytes()? > 0
        && !socket.is_closed()
    {
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LINGER_PAUSE_MOST);
    }
    protocol.closed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::costs::CONNECTION_USER_BYTES;

    /// Bytes of what a function returns.
    fn bytes_of<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_as_small_as_planned() {
        // What the allocator and the runtime add: headers, a waker, counts.
        const AROUND: usize = 256;
        let all = bytes_of(drive) + size_of::<Connection>() + AROUND;
        assert!(all as u64 <= CONNECTION_USER_BYTES, "{all} bytes");
    }
}
