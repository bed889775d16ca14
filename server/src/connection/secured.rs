//! TLS on a connection: its handshake, what it receives in records, and its last message.
//!
//! A client that has sent nothing yet costs a seat and no more. From its first byte until the session is made it has one
//! of a core's places for handshakes, whose memory is planned; others wait with their bytes in the kernel, and the one that
//! came last has the next place (`places`).

use std::io;
use std::rc::Rc;

use super::core::Core;
use super::places::Secured;
use super::state::{Connection, IntroductionError};
use crate::io::{Interest, is_transient, sent_or_zero};
use crate::tls::handshake::{Established, Handshake};
use crate::tls::session::ReceiveError;
use crate::tls::{Alert, Session, Workspace};

/// Performs the handshake of a connection. Returns what the client has sent right behind it.
///
/// # Errors
/// Why there is no session. The client has been told, as far as it can be.
pub async fn handshake(
    core: &Core,
    secured: &Secured,
    connection: &Rc<Connection>,
) -> io::Result<Arrived> {
    ready(core, connection, Interest::Read).await?;
    let stats = core.stats();
    let _place = match secured.place(connection).await {
        Ok(place) => place,
        Err(error) => {
            stats.tls_handshakes_failed.add(1);
            let alert = Alert::INTERNAL_ERROR.plain_record();
            let _ = connection.socket.send_whole([&alert[..]].into_iter());
            return Err(error);
        }
    };
    // Boxed, so that one that waits for its place holds no room for this.
    let outcome = Box::pin(negotiate(core, secured, connection)).await;
    match outcome {
        Ok(established) => {
            stats.tls_handshakes.add(1);
            stats
                .tls_handshakes_resumed
                .add(u64::from(established.is_resumed));
            connection.secure(established.session);
            receive_more(core, connection, |_| Err(io::ErrorKind::WouldBlock.into()))
        }
        Err(error) => {
            stats.tls_handshakes_failed.add(1);
            Err(error)
        }
    }
}

async fn negotiate(
    core: &Core,
    secured: &Secured,
    connection: &Rc<Connection>,
) -> io::Result<Established> {
    let mut handshake = Handshake::new(&secured.acceptor).map_err(io::Error::other)?;
    loop {
        let bytes = {
            let mut scratch = core.scratch.borrow_mut();
            match connection.socket.receive(&mut scratch[..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => introduced(connection, &scratch[..count])?,
                Err(error) if is_transient(&error) => Vec::new(),
                Err(error) => return Err(error),
            }
        };
        let outcome = match bytes.is_empty() {
            true => Ok(None),
            false => handshake.received(&bytes),
        };
        while !handshake.outgoing().is_empty() {
            let outgoing = [handshake.outgoing()].into_iter();
            let sent = sent_or_zero(connection.socket.send_whole(outgoing))?;
            connection.meter.add_sent(sent as u64);
            handshake.sent(sent);
            if !handshake.outgoing().is_empty() {
                ready(core, connection, Interest::Write).await?;
            }
        }
        match outcome {
            Ok(Some(established)) => return Ok(established),
            Ok(None) => ready(core, connection, Interest::Read).await?,
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// The bytes that don't belong to a proxy's preamble.
fn introduced(connection: &Connection, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match connection.introduce(bytes) {
        Ok(bytes) => Ok(bytes.into_owned()),
        Err(IntroductionError::Malformed) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it doesn't begin with a header of the PROXY protocol",
        )),
        Err(IntroductionError::Full(_)) => Err(io::ErrorKind::ResourceBusy.into()),
    }
}

/// Waits for a socket, or for the connection to be ended.
async fn ready(core: &Core, connection: &Connection, interest: Interest) -> io::Result<()> {
    core.io().ready(&connection.socket, interest).await?;
    match connection.close_reason.get() {
        None => Ok(()),
        Some(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a client sent.
pub enum Arrived {
    /// Bytes, perhaps none yet.
    Bytes(Vec<u8>),
    /// It sends nothing more.
    End,
    /// It is wrong, and was told so.
    Wrong(ReceiveError),
}

/// Receives what has come, as far as its records are whole.
///
/// # Errors
/// The connection's.
pub fn receive(core: &Core, connection: &Connection) -> io::Result<Arrived> {
    receive_more(core, connection, |buffer| connection.socket.receive(buffer))
}

/// Opens what has come before and what `more` puts behind it, as far as records are whole.
fn receive_more(
    core: &Core,
    connection: &Connection,
    more: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Arrived> {
    let (Some(session), Some(workspace)) = (connection.session(), &core.sources.workspace) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let (session, workspace) = (&mut *session.borrow_mut(), &mut *workspace.borrow_mut());
    if session.peer_has_ended() {
        return Ok(Arrived::End);
    }
    let buffer = &mut workspace.incoming;
    let before = session.incoming().len();
    buffer[..before].copy_from_slice(session.incoming());
    let count = match more(&mut buffer[before..]) {
        Ok(0) => return Ok(Arrived::End),
        Ok(count) => count,
        // Records that came behind a handshake are whole all the same.
        Err(error) if is_transient(&error) => 0,
        Err(error) => return Err(error),
    };
    match session.receive(workspace, before + count) {
        Ok(0) if session.peer_has_ended() => Ok(Arrived::End),
        Ok(content) => Ok(Arrived::Bytes(workspace.incoming[..content].to_vec())),
        Err(error) => {
            if let ReceiveError::Wrong(alert) = error {
                // Once: what it doesn't get now it doesn't need.
                let _ = end(connection, session, workspace, alert);
            }
            Ok(Arrived::Wrong(error))
        }
    }
}

/// Sends the last message, or what of it can be sent now. Returns whether all of it has left.
fn end(
    connection: &Connection,
    session: &mut Session,
    workspace: &mut Workspace,
    alert: Alert,
) -> io::Result<bool> {
    let ended = session.end(alert, workspace, |bytes| {
        sent_or_zero(connection.socket.send_whole([bytes].into_iter()))
    });
    connection.meter.add_sent(session.take_wire_bytes());
    ended
}

/// Says that nothing more comes, and waits until that has left.
///
/// # Errors
/// The connection's.
pub async fn close(core: &Core, connection: &Connection) -> io::Result<()> {
    while !close_now(core, connection)? {
        ready(core, connection, Interest::Write).await?;
    }
    Ok(())
}

/// The same, as far as it can be done without waiting. Returns whether all of it has left.
///
/// # Errors
/// The connection's.
pub fn close_now(core: &Core, connection: &Connection) -> io::Result<bool> {
    let (Some(session), Some(workspace)) = (connection.session(), &core.sources.workspace) else {
        return Ok(true);
    };
    let (session, workspace) = (&mut session.borrow_mut(), &mut workspace.borrow_mut());
    end(connection, session, workspace, Alert::CLOSE_NOTIFY)
}
