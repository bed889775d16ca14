//! Performs a connection's actions through `io` and feeds the results back.
//!
//! The way of a GET: wait for a request, look its object up, then wait for credit, produce no more
//! than that, offer it to the socket, and forget it, until the body is sent. Nothing is read or
//! decoded before the kernel reported room, and no pool buffer is held while waiting for a client, but
//! the few that the kernel sends from ([`zero_copy`](crate::body::zero_copy)).

use std::io;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use crate::body::hot;
use crate::body::produce::ProduceError;
use crate::body::readahead;
use crate::body::resource::{self, Resource};
use crate::body::splice;
use crate::connection::core::{Connection, Core, Ending};
use crate::connection::gate::Admission;
use crate::http::head::Response;
use crate::http::protocol::{Action, Protocol};
use crate::io::pool::Message;
use crate::io::{self as kernel, Cut, Interest, is_retry};
use crate::memory::limits::{
    LINGER_BYTES_MAX, LINGER_PAUSE_LEAST, LINGER_PAUSE_MOST, REQUEST_HEAD_BYTES_MAX,
};

type ResourceProtocol = Protocol<Resource>;

/// Serves one connection until it ends. With `refusal`, says only that and closes.
pub async fn drive(core: Rc<Core>, connection: Rc<Connection>, refusal: Option<Response>) {
    let mut conn = match refusal {
        None => ResourceProtocol::default(),
        Some(response) => ResourceProtocol::refusing(response),
    };
    loop {
        if core.draining.get() {
            conn.drain();
        }
        connection.enter(conn.phase(), conn.held_bytes());
        if !connection.claim_head(conn.held_bytes()) {
            // Long heads of very many clients at once: what they would hold isn't there.
            conn.memory_refused(SystemTime::now());
        }
        let action = conn.next();
        let result = match action {
            Action::Receive => receive(&core, &connection, &mut conn).await,
            Action::Open => {
                open(&core, &mut conn).await;
                Ok(())
            }
            Action::Send => send(&core, &connection, &mut conn).await,
            Action::Linger => linger(&core, &connection, &mut conn).await,
            Action::Close => return connection.socket.leave(core.send_timeout),
        };
        if let Err(error) = result {
            // The peer is gone, or a deadline ended the connection.
            tracing::debug!(%error, phase = ?conn.phase(), "connection ended");
            conn.closed();
        }
        if action == Action::Send && matches!(conn.next(), Action::Send | Action::Open) {
            // Perhaps nothing waited: the others get their turn by hand.
            core.io.turn().await;
        }
    }
}

async fn receive(
    core: &Core,
    connection: &Connection,
    conn: &mut ResourceProtocol,
) -> io::Result<()> {
    core.io.ready(&connection.socket, Interest::Read).await?;
    match connection.ending.take() {
        Some(Ending::HeadTimeout) => {
            conn.head_timeout(SystemTime::now());
            return Ok(());
        }
        Some(Ending::Closed) => return Err(io::ErrorKind::TimedOut.into()),
        None => {}
    }
    let mut scratch = core.scratch.borrow_mut();
    let room = REQUEST_HEAD_BYTES_MAX - conn.pending_bytes().min(REQUEST_HEAD_BYTES_MAX - 1);
    match connection.socket.receive(&mut scratch[..room]) {
        // What the last response left in the queue still holds memory: it is seen out first.
        Ok(0) if connection.socket.unacknowledged_bytes()? > 0 => conn.linger(),
        Ok(0) => conn.peer_closed(),
        Ok(count) => conn.received(&scratch[..count], SystemTime::now()),
        Err(error) if is_retry(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn open(core: &Core, conn: &mut ResourceProtocol) {
    let Some(request) = conn.request() else {
        return;
    };
    match Box::pin(resource::open(core, request)).await {
        Ok((description, resource)) => conn.opened(&description, resource, SystemTime::now()),
        Err(failure) => conn.open_failed(failure.status, failure.reason, SystemTime::now()),
    }
}

/// Waits for credit, then produces and sends one piece of the response.
async fn send(
    core: &Rc<Core>,
    connection: &Connection,
    conn: &mut ResourceProtocol,
) -> io::Result<()> {
    let Some(out) = conn.outgoing() else {
        return Ok(());
    };
    let socket = &connection.socket;
    if out.is_unsent() {
        connection.start_ahead(core, out.remaining())?;
        connection.begins.set(true);
        connection.ahead_from.set(0);
    }
    let admitted = wait_for_credit(core, connection, out.remaining()).await?;

    let head = out.head().slice(..out.head().len().min(admitted));
    let body = out.body();
    let for_body = (body.end - body.start).min((admitted - head.len()) as u64);
    let at_hand = || match out.object() {
        Some(Resource::Object(object)) if for_body > 0 => {
            match hot::send(core, connection, &head, object, body.clone(), for_body)? {
                None => splice::pass(core, connection, &head, object, body.clone(), for_body),
                taken => Ok(taken),
            }
        }
        _ => Ok(None),
    };
    if let Some(taken) = at_hand()? {
        sent(core, connection, conn, taken);
        return Ok(());
    }
    let head_bytes = head.len();
    let message = match out.object().filter(|_| for_body > 0) {
        None => Message::new(head.clone(), Vec::new(), Vec::new()),
        Some(resource) => {
            if matches!(resource, Resource::Object(object) if object.sharing().is_shared()) {
                // Those who come after have what is kept, and their turn, first: so they catch up, and stay together.
                core.io.turn().await;
                if let Some(taken) = at_hand()? {
                    sent(core, connection, conn, taken);
                    return Ok(());
                }
            }
            let mut wanted = body.start..body.start + for_body;
            if let Err(error) = resource.prepare(core, wanted.start).await {
                return give_up(core, connection, conn, error);
            }
            let ahead = match resource {
                Resource::Object(object) => {
                    readahead::reach(core, connection, object, &body).await?
                }
                _ => None,
            };
            if let Some(ahead) = &ahead {
                wanted.end = wanted.end.min(ahead.range.end);
            }
            // Boxed, and only when it's this one's turn, so that a connection that waits doesn't hold room
            // for a piece's state.
            let _turn = match core.producing.try_acquire() {
                Ok(turn) => turn,
                Err(_) => {
                    let turn = core.producing.acquire().await;
                    // What many wait for at once, the first have produced and verified by now.
                    if let Some(taken) = at_hand()? {
                        sent(core, connection, conn, taken);
                        return Ok(());
                    }
                    turn.map_err(io::Error::other)?
                }
            };
            match Box::pin(resource.produce(core, wanted, ahead.as_deref())).await {
                Ok(piece) => {
                    let slices = piece.slices.into_iter().map(|s| (s.window, s.bytes));
                    Message::new(head.clone(), piece.chunks, slices.collect())
                }
                Err(error) => return give_up(core, connection, conn, error),
            }
        }
    };
    let offered = message.bytes();
    let cut = connection.cut((offered as u64) < out.remaining())?;
    let by_reference = match cut {
        // What was read ahead is of another pool, of which no peer may keep anything.
        Cut::Whole if message.is_own() => core
            .zero_copy
            .send(&core.io, &core.pool, connection, message),
        _ => Err(message),
    };
    let (bodies, result) = match by_reference {
        Ok(result) => (&core.stats.zero_copy_bytes, result),
        Err(message) => (&core.stats.copied_bytes, socket.send(message.whole(), cut)),
    };
    let taken = kernel::taken(result)?;
    bodies.add(taken.saturating_sub(head_bytes) as u64);
    core.stats.discarded_bytes.add((offered - taken) as u64);
    sent(core, connection, conn, taken);
    Ok(())
}

/// The kernel took `taken` bytes of the response.
fn sent(core: &Core, connection: &Connection, conn: &mut ResourceProtocol, taken: usize) {
    core.stats.sent_bytes.add(taken as u64);
    connection
        .sent_bytes
        .set(connection.sent_bytes.get() + taken as u64);
    if let Some(status) = conn.sent(taken as u64, SystemTime::now()) {
        core.stats.count_response(status.code());
    }
}

/// Waits until the socket takes some of the `remaining` bytes, and says how many now. On the way the
/// connection may earn a larger buffer.
async fn wait_for_credit(
    core: &Core,
    connection: &Connection,
    remaining: u64,
) -> io::Result<usize> {
    let mut polled = false;
    loop {
        if connection.ending.get().is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let space = connection.socket.send_space()?;
        let room = space.buffer_bytes.saturating_sub(space.queued_bytes);
        if remaining > u64::from(room) && connection.grows(core, Instant::now())? {
            continue;
        }
        match core.gate.admit(space, remaining, polled) {
            Admission::Bytes(bytes) => return Ok(bytes as usize),
            Admission::Wait => core.io.ready(&connection.socket, Interest::Write).await?,
        }
        polled = true;
    }
}

/// The body can't go on: an error if nothing was sent yet, else a reset, so that no client takes a
/// short body for a whole one.
fn give_up(
    core: &Core,
    connection: &Connection,
    conn: &mut ResourceProtocol,
    error: ProduceError,
) -> io::Result<()> {
    if let Some(resource) = conn.outgoing().and_then(|out| out.object()) {
        tracing::error!(name = resource.name(), "the object can't be read: {error}");
    }
    let (status, reason) = error.answer();
    if conn.body_failed(status, reason, SystemTime::now()) {
        core.stats.reset_bodies.add(1);
        connection.socket.abort();
    }
    Ok(())
}

/// Lets the peer take the last response: its end is announced, and what the peer still sends is thrown
/// away, since closing with unread bytes would reset the connection under it (RFC 9112 section 9.6).
///
/// The descriptor is kept until everything is acknowledged, whatever the peer does: what a closed socket
/// still has queued is memory that no connection would account for.
async fn linger(
    core: &Core,
    connection: &Connection,
    conn: &mut ResourceProtocol,
) -> io::Result<()> {
    let socket = &connection.socket;
    socket.finish_sending();
    let mut thrown_away = 0;
    loop {
        core.io.ready(socket, Interest::Read).await?;
        let received = socket.receive(&mut core.scratch.borrow_mut()[..]);
        match received {
            Ok(0) => break,
            Ok(count) if thrown_away < LINGER_BYTES_MAX => thrown_away += count,
            Err(error) if is_retry(&error) && connection.ending.get().is_none() => {}
            // Too much, or too late.
            _ => {
                socket.abort();
                break;
            }
        }
    }
    // There is no event for the last acknowledgement.
    let mut pause = LINGER_PAUSE_LEAST;
    while connection.ending.get().is_none()
        && socket.unacknowledged_bytes()? > 0
        && !socket.is_gone()
    {
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LINGER_PAUSE_MOST);
    }
    conn.closed();
    Ok(())
}
