//! A handshake: bytes of the peer in, bytes for the peer out, until there is a session.

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{Error, HandshakeKind};

use super::record::{PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, record_bytes};
use super::traffic::{self, TrafficSecrets};
use super::{Acceptor, Alert, Session};

/// Why there is no session. What the peer is to be told is among the outgoing bytes.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer, or we, can't go on.
    #[error("TLS handshake: {0}")]
    Refused(#[from] Error),
    /// There is no certificate for the name.
    #[error("TLS handshake: no certificate is for the name that the client asks for")]
    Name,
    /// The peer has gone.
    #[error("TLS handshake: the client closed the connection")]
    Closed,
    /// A message is too long.
    #[error("TLS handshake: a message is too long")]
    TooLong,
    /// The session can't be made.
    #[error("TLS handshake: {0}")]
    Secrets(#[from] super::traffic::UnknownSecrets),
}

/// One handshake.
pub struct Handshake {
    /// `None` once it is done.
    connection: Option<Box<UnbufferedServerConnection>>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Bytes of that which the library was given: whole records.
    given: usize,
    has_answered: bool,
    /// What the next keys come from, once that is known.
    secrets: Option<TrafficSecrets>,
}

/// What came of a handshake.
pub struct Established {
    /// The session. What the peer has sent already is to be received.
    pub session: Session,
    /// Whether the peer came with a ticket.
    pub is_resumed: bool,
}

impl Handshake {
    /// A handshake of which nothing has come yet.
    ///
    /// # Errors
    /// If the library can't.
    pub fn new(acceptor: &Acceptor) -> Result<Handshake, HandshakeError> {
        Ok(Handshake {
            connection: Some(Box::new(acceptor.connection()?)),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            given: 0,
            has_answered: false,
            secrets: None,
        })
    }

    /// Goes on with bytes that came. Returns the session once it is made; what is [outgoing](Handshake::outgoing) is to be
    /// sent in any case.
    ///
    /// # Errors
    /// [`HandshakeError`]. What the peer is to be told of it is outgoing.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Option<Established>, HandshakeError> {
        if self.incoming.len() + bytes.len() > RECORD_BYTES_MAX {
            let alert = Alert::RECORD_OVERFLOW.plain_record();
            self.outgoing.extend_from_slice(&alert);
            return Err(HandshakeError::TooLong);
        }
        self.incoming.extend_from_slice(bytes);
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        let outcome = self.process(&mut connection);
        self.secrets = traffic::take().or(self.secrets.take());
        match outcome {
            Ok(false) => {
                self.connection = Some(connection);
                Ok(None)
            }
            Ok(true) => {
                let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                let incoming = std::mem::take(&mut self.incoming);
                Ok(Some(Established {
                    session: Session::new(secrets, &kernel, self.secrets.take(), incoming)?,
                    is_resumed,
                }))
            }
            Err(HandshakeError::Refused(error)) if self.is_about_the_name(&error) => {
                let alert = Alert::UNRECOGNIZED_NAME.plain_record();
                self.outgoing.extend_from_slice(&alert);
                Err(HandshakeError::Name)
            }
            Err(error) => {
                // The library has an alert for it, perhaps behind messages of ours. It gives them away before it looks at what
                // has come; it would panic if it looked at that again.
                while connection.wants_write()
                    && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                        connection.process_tls_records(&mut []).state
                    && encode(&mut self.outgoing, |into| data.encode(into)).is_ok()
                {
                }
                let is_an_alert = matches!(error, HandshakeError::Refused(Error::AlertReceived(_)));
                if self.outgoing.is_empty() && !self.has_answered && !is_an_alert {
                    let alert = Alert::UNEXPECTED_MESSAGE.plain_record();
                    self.outgoing.extend_from_slice(&alert);
                }
                Err(error)
            }
        }
    }

    /// Whether it failed since no certificate is for the name. Nothing else is refused in these words.
    fn is_about_the_name(&self, error: &Error) -> bool {
        let words = "no server certificate chain resolved";
        !self.has_answered && matches!(error, Error::General(text) if text == words)
    }

    /// Goes on as far as the bytes at hand allow. Returns whether the handshake is done.
    ///
    /// The library is given one record after another, so that those behind the handshake's last are left to the session: of
    /// what it reads of them itself, the secrets that it gives away know nothing.
    fn process(
        &mut self,
        connection: &mut UnbufferedServerConnection,
    ) -> Result<bool, HandshakeError> {
        loop {
            let status: UnbufferedStatus<'_, '_, ServerConnectionData> =
                connection.process_tls_records(&mut self.incoming[..self.given]);
            let discard = status.discard.min(self.given);
            let mut is_blocked = false;
            let mut end = None;
            match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.outgoing, |into| data.encode(into))?;
                    self.has_answered = true;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => is_blocked = true,
                Ok(ConnectionState::WriteTraffic(_)) => end = Some(Ok(true)),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    end = Some(Err(HandshakeError::Closed));
                }
                Ok(_) => {
                    let error = Error::General("content before the handshake was done".to_owned());
                    end = Some(Err(error.into()));
                }
                Err(error) => end = Some(Err(error.into())),
            }
            self.incoming.drain(..discard);
            self.given -= discard;
            if let Some(end) = end {
                return end;
            }
            if is_blocked {
                let rest = &self.incoming[self.given..];
                match record_bytes(rest, PAYLOAD_BYTES_MAX) {
                    Ok(Some(length)) if length <= rest.len() => self.given += length,
                    Ok(_) => return Ok(false),
                    // The library has the words for it.
                    Err(_) => self.given = self.incoming.len(),
                }
            }
        }
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// So many bytes of that were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.outgoing.drain(..bytes);
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
    }
}

/// Appends what `encode` writes.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), HandshakeError> {
    let start = outgoing.len();
    let failed = |error: EncodeError| Error::General(error.to_string());
    let written = match encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => {
            outgoing.resize(start + needed.required_size, 0);
            encode(&mut outgoing[start..]).map_err(failed)?
        }
        result => result.map_err(failed)?,
    };
    outgoing.truncate(start + written);
    Ok(())
}
