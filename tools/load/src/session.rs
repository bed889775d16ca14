//! One client's TLS session, by rustls's unbuffered API: what was received is decrypted out of a buffer that all clients
//! of a thread share, so a waiting client costs its keys and no buffer, and a fast one reads many records at once.
//!
//! Nothing outside this file and [`tls`](crate::tls) names rustls.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConnection, Error, HandshakeKind, ProtocolVersion, StreamOwned};
use tokio::net::TcpStream;

use crate::scratch::{RECORDS_READ_BYTES, Scratch};
use crate::tls::TlsClient;

/// The bytes before a record's content: type, version and length.
const HEADER_BYTES: usize = 5;
/// The largest record with its header, as TLS 1.2 allows it.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + 16 * 1024 + 2048;

/// What the two sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// Version, cipher suite and key exchange.
    pub(crate) name: String,
    pub(crate) resumed: bool,
}

/// A session, from the ClientHello to the end.
pub(crate) struct Session {
    connection: UnbufferedClientConnection,
    /// Received and not decrypted yet: a part of a record. Empty, and without memory, most of the time.
    held: Vec<u8>,
    /// Made and not sent yet.
    unsent: Vec<u8>,
    /// An error that was found behind bytes which were returned first.
    failed: Option<Error>,
    /// The server's close_notify has come.
    notified: bool,
    /// The connection has ended.
    ended: bool,
}

impl Session {
    pub(crate) fn new(client: &TlsClient) -> io::Result<Session> {
        let config = Arc::clone(&client.config);
        let connection = UnbufferedClientConnection::new(config, client.name.clone());
        let mut session = Session {
            connection: connection.map_err(tls_error)?,
            held: Vec::new(),
            unsent: Vec::new(),
            failed: None,
            notified: false,
            ended: false,
        };
        // Makes the ClientHello.
        session.process(&mut [], &mut [])?;
        Ok(session)
    }

    /// Sends of the ClientHello's bytes as many as `part` says; instead of the handshake.
    pub(crate) async fn half_open(
        mut self: Box<Self>,
        tcp: &TcpStream,
        part: impl FnOnce(usize) -> usize,
    ) -> io::Result<()> {
        self.unsent.truncate(part(self.unsent.len()));
        self.send(tcp).await
    }

    /// Does the handshake, to the moment when the client's part is sent.
    pub(crate) async fn handshake(
        &mut self,
        tcp: &TcpStream,
        scratch: &RefCell<Scratch>,
    ) -> io::Result<Negotiated> {
        loop {
            self.send(tcp).await?;
            if !self.connection.is_handshaking() {
                return Ok(self.negotiated());
            }
            match self.step(tcp, RECORDS_READ_BYTES, &mut scratch.borrow_mut()) {
                Ok(0) if self.is_over() => return Err(closed("closed during the handshake")),
                Ok(0) => continue,
                Ok(_) => {
                    let reason = "bytes from the server before a request";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            tcp.readable().await?;
        }
    }

    fn negotiated(&self) -> Negotiated {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2".to_owned(),
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3".to_owned(),
            other => format!("{other:?}"),
        };
        let suite = self.connection.negotiated_cipher_suite();
        let suite = suite.map_or("no suite".to_owned(), |suite| {
            format!("{:?}", suite.suite())
        });
        // A resumed session of TLS 1.2 has no key exchange.
        let group = self.connection.negotiated_key_exchange_group();
        let group = group.map_or(String::new(), |group| format!(" {:?}", group.name()));
        let kind = self.connection.handshake_kind();
        // One round trip more, which a comparison of times should know of.
        let retried = match kind {
            Some(HandshakeKind::FullWithHelloRetryRequest) => ", hello asked for again",
            _ => "",
        };
        Negotiated {
            name: format!("{version} {suite}{group}{retried}"),
            resumed: kind == Some(HandshakeKind::Resumed),
        }
    }

    /// Reads until there is plaintext, and puts it at the front of `scratch.read`; 0: the end. For a `wish` smaller than a
    /// record exactly one record is read, which may be longer than the wish; otherwise as much as has come.
    pub(crate) fn read(
        &mut self,
        tcp: &TcpStream,
        wish: usize,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        loop {
            let got = self.step(tcp, wish, scratch)?;
            if got > 0 || self.is_over() {
                return Ok(got);
            }
        }
    }

    /// Reads and decrypts once. There may be no plaintext in what came.
    fn step(&mut self, tcp: &TcpStream, wish: usize, scratch: &mut Scratch) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(tls_error(error));
        }
        if self.is_over() {
            return Ok(0);
        }
        // An answer to the server's KeyUpdate, if the socket had no room for it.
        self.try_send(tcp)?;
        let filled = self.fill(tcp, wish, &mut scratch.records)?;
        if self.ended {
            return Ok(0);
        }
        let records = &mut scratch.records[..filled];
        let result = self.process(records, &mut scratch.read);
        // Also in vain: the server should get the alert that names its mistake.
        let sent = self.try_send(tcp);
        let (used, got) = result?;
        self.hold(&scratch.records[used..filled]);
        sent?;
        Ok(got)
    }

    /// Puts what is held at the front of `records` and reads behind it. Returns the number of bytes there.
    fn fill(&mut self, tcp: &TcpStream, wish: usize, records: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.held.len();
        records[..filled].copy_from_slice(&self.held);
        let single = wish < RECORD_BYTES_MAX;
        let mut want = match (single, missing(&records[..filled])) {
            (false, _) => RECORDS_READ_BYTES.min(wish).min(records.len() - filled),
            (true, 0) => HEADER_BYTES,
            (true, missing) => missing,
        };
        loop {
            if want == 0 || want > records.len() - filled {
                let reason = format!("a handshake message of more than {filled} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            match tcp.try_read(&mut records[filled..filled + want]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(filled);
                }
                Ok(got) => filled += got,
                Err(error) => {
                    self.ended = error.kind() != io::ErrorKind::WouldBlock;
                    self.hold(&records[..filled]);
                    return Err(error);
                }
            }
            want = missing(&records[..filled]);
            if !single || want == 0 {
                return Ok(filled);
            }
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        if *bytes != *self.held {
            self.held = bytes.to_vec();
        }
    }

    /// Handles the records at the front of `records` and puts their plaintext at the front of `plain`. Returns how many
    /// bytes were used and how many of plaintext there are.
    fn process(&mut self, records: &mut [u8], plain: &mut [u8]) -> io::Result<(usize, usize)> {
        let (mut used, mut got) = (0, 0);
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut records[used..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let payload = record.map_err(tls_error)?.payload;
                        plain[got..got + payload.len()].copy_from_slice(payload);
                        got += payload.len();
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.unsent, |room| match data.encode(room) {
                        Err(EncodeError::InsufficientSize(size)) => Ok(Err(size)),
                        Err(error @ EncodeError::AlreadyEncoded) => Err(io::Error::other(error)),
                        Ok(bytes) => Ok(Ok(bytes)),
                    })?;
                }
                // It is sent by the caller, from `unsent`.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.notified = true,
                Ok(_) => return Ok((used + discard, got)),
                Err(error) => {
                    self.encode_alert(&mut records[used + discard..]);
                    if got == 0 {
                        return Err(tls_error(error));
                    }
                    self.failed = Some(error);
                    return Ok((records.len(), got));
                }
            }
            used += discard;
        }
    }

    /// After an error rustls has an alert for the server, unless the error is the server's alert.
    fn encode_alert(&mut self, records: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.connection.process_tls_records(records).state
        {
            let mut room = [0; 64];
            let bytes = data.encode(&mut room).unwrap_or(0);
            self.unsent.extend_from_slice(&room[..bytes]);
        }
    }

    /// Encrypts `bytes` and sends them.
    pub(crate) async fn write_all(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        self.encrypt(Some(bytes))?;
        self.send(tcp).await
    }

    /// Says that nothing more will come. The connection stays open, for the server's own close_notify.
    pub(crate) fn close_notify(&mut self, tcp: &TcpStream) {
        // Nobody waits for it: if the socket has no room, then the end of the connection has to do.
        if self.encrypt(None).is_ok() {
            let _ = self.try_send(tcp);
        }
    }

    /// Encrypts `bytes`, or a close_notify.
    fn encrypt(&mut self, bytes: Option<&[u8]>) -> io::Result<()> {
        // What is held is passed in too: rustls may have seen a part of it.
        let mut held = std::mem::take(&mut self.held);
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut held);
        let unsent = &mut self.unsent;
        let result = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => append(unsent, |room| {
                let encrypted = match bytes {
                    Some(bytes) => traffic.encrypt(bytes, room),
                    None => traffic.queue_close_notify(room),
                };
                match encrypted {
                    Err(EncryptError::InsufficientSize(size)) => Ok(Err(size)),
                    Err(error) => Err(io::Error::other(error)),
                    Ok(bytes) => Ok(Ok(bytes)),
                }
            }),
            Ok(_) => Err(closed("the session has ended")),
            Err(error) => Err(tls_error(error)),
        };
        held.drain(..discard);
        self.held = held;
        result
    }

    /// Sends everything that is unsent.
    async fn send(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while !self.try_send(tcp)? {
            tcp.writable().await?;
        }
        Ok(())
    }

    /// Sends what the socket takes. Returns whether that was everything.
    fn try_send(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match tcp.try_write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        // The ClientHello's memory would stay as long as the client.
        self.unsent = Vec::new();
        Ok(true)
    }

    fn is_over(&self) -> bool {
        self.notified || self.ended
    }

    /// Whether the connection has ended without a close_notify, so that nobody knows whether all has come.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.ended && !self.notified
    }
}

/// A session for one request that may block.
pub(crate) fn blocking(
    client: &TlsClient,
    tcp: std::net::TcpStream,
) -> io::Result<impl io::Read + io::Write> {
    let connection = ClientConnection::new(Arc::clone(&client.config), client.name.clone());
    Ok(StreamOwned::new(connection.map_err(tls_error)?, tcp))
}

/// How many bytes are missing to the end of the record in which `bytes` end; 0: they end with a record.
fn missing(mut bytes: &[u8]) -> usize {
    while bytes.len() >= HEADER_BYTES {
        let end = HEADER_BYTES + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        match bytes.get(end..) {
            Some(rest) => bytes = rest,
            None => return end - bytes.len(),
        }
    }
    match bytes.len() {
        0 => 0,
        length => HEADER_BYTES - length,
    }
}

/// Appends what `encode` writes into the room that it gets; it says how much it needs if the room is too small.
fn append(
    bytes: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> io::Result<Result<usize, InsufficientSizeError>>,
) -> io::Result<()> {
    let before = bytes.len();
    let written = match encode(&mut [])? {
        Ok(written) => written,
        Err(InsufficientSizeError { required_size }) => {
            bytes.resize(before + required_size, 0);
            encode(&mut bytes[before..])?.unwrap_or(0)
        }
    };
    bytes.truncate(before + written);
    Ok(())
}

fn closed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, reason)
}

fn tls_error(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether an error is TLS's own: an alert, or a record that should not be.
pub(crate) fn is_tls_error(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_is_found() {
        let record = |length: u16| {
            let mut bytes = vec![23, 3, 3];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.resize(HEADER_BYTES + usize::from(length), 0);
            bytes
        };
        for (before, length) in [(None, 0u16), (None, 1), (Some(300u16), 700), (Some(0), 5)] {
            let mut bytes = before.map(record).unwrap_or_default();
            let start = bytes.len();
            bytes.extend(record(length));
            assert_eq!(missing(&bytes[..start]), 0);
            for end in start + 1..=bytes.len() {
                let expected = match end - start {
                    part @ 0..HEADER_BYTES => HEADER_BYTES - part,
                    _ => bytes.len() - end,
                };
                assert_eq!(
                    missing(&bytes[..end]),
                    expected,
                    "{before:?} {length} {end}"
                );
            }
        }
    }
}
