//! A session: what a connection keeps of TLS after its handshake, and how its records are made.
//!
//! # Nothing is kept of what is sent
//! A record is a function of key, number and content, and all content can be produced again. So what a socket does not take
//! is forgotten. Of records that it took nothing of, nothing remains at all: their numbers are used anew, with any
//! content, since nobody has seen them. Of the one that it took a part of, the length of its content, the bytes that left,
//! and its tag are kept. It is made again before anything else is. If its tag is another one its content is not what it
//! was, and the connection ends before a further byte leaves: two contents under one number would give away both. The tag
//! depends on every bit of the content and on a key that no client chooses.
//!
//! Messages of the protocol itself (alerts, KeyUpdate) are some dozen bytes, and are kept until they are sent.

use std::io;
use std::num::NonZeroUsize;

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ExtractedSecrets, ProtocolVersion, SupportedCipherSuite};

use super::Alert;
use super::record::{
    CONTENT_BYTES_MAX, ContentType, Keys, RECORD_BYTES_MAX, RecordKey, RecordTag, SealError,
    TAG_BYTES, record_bytes,
};
use super::traffic::{TrafficSecrets, UnknownSecrets};

/// Messages that carry no content, in a row: KeyUpdate, warnings, empty records. Each is work that a peer has for nothing.
const QUIET_MAX: u32 = 32;

/// Content to send, filled into records as they are made.
pub trait Content {
    /// How much there is.
    fn bytes(&self) -> usize;

    /// Fills in the next bytes. No more are asked for than there are.
    ///
    /// # Errors
    /// If they can't be had.
    fn fill(&mut self, into: &mut [u8]) -> io::Result<()>;
}

/// Slices, one after another.
pub struct Slices<I>(I, usize);

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Slices<std::iter::Peekable<I>> {
    /// All of them.
    pub fn new(slices: I) -> Self {
        let bytes = slices.clone().map(<[u8]>::len).sum();
        Slices(slices.peekable(), bytes)
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Content for Slices<std::iter::Peekable<I>> {
    fn bytes(&self) -> usize {
        self.1
    }

    fn fill(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let next = self.0.peek_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
            let now = next.len().min(into.len());
            let (start, rest) = into.split_at_mut(now);
            start.copy_from_slice(&next[..now]);
            *next = &next[now..];
            into = rest;
            self.1 -= now;
            if next.is_empty() {
                self.0.next();
            }
        }
        Ok(())
    }
}

/// What one core makes and opens records with.
pub struct Workspace {
    /// Where records are made that leave.
    outgoing: Box<[u8]>,
    /// Where those land that come.
    pub incoming: Box<[u8]>,
    keys: Keys,
}

impl Workspace {
    /// For records of so much content at a time, and as many keys.
    pub fn new(outgoing_bytes: usize, keys: NonZeroUsize) -> Workspace {
        Workspace {
            outgoing: vec![0; outgoing_bytes].into(),
            incoming: vec![0; RECORD_BYTES_MAX].into(),
            keys: Keys::new(keys),
        }
    }
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content can't be had. Nothing has left.
    #[error("the content can't be read: {0}")]
    Content(io::Error),
    /// The connection's error.
    #[error(transparent)]
    Connection(io::Error),
}

/// The record of which a part has left.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    /// Bytes of its content.
    content: usize,
    /// Bytes of the record that have left.
    sent: usize,
    tag: RecordTag,
}

/// A session.
pub struct Session {
    sealer: RecordKey,
    opener: RecordKey,
    /// What the next keys come from, with TLS 1.3.
    secrets: Option<TrafficSecrets>,
    /// Records that one key may seal.
    records_max: u64,
    unfinished: Option<Unfinished>,
    /// Messages that are sealed and not sent.
    control: Vec<u8>,
    /// The beginning of a record that isn't whole.
    incoming: Vec<u8>,
    /// Whether the peer asked for new keys.
    update_asked: bool,
    quiet: u32,
    /// Bytes that have left and were not asked for.
    wire_bytes: u64,
    /// Whether the last message that is sent has been made.
    has_ended: bool,
    /// Whether the last message of the peer has come.
    peer_has_ended: bool,
}

/// Why a peer's bytes can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// The peer is wrong, and is to get this alert.
    #[error("TLS: {0} is the answer to what the client sent")]
    Wrong(Alert),
    /// The peer ended the connection with this alert.
    #[error("TLS: the client sent the alert {0}")]
    Ended(Alert),
}

impl Session {
    /// The session of a handshake, and the bytes that came behind it.
    ///
    /// # Errors
    /// If the secrets are of a cipher that isn't known.
    pub(super) fn new(
        keys: ExtractedSecrets,
        kernel: &KernelConnection<ServerConnectionData>,
        secrets: Option<TrafficSecrets>,
        incoming: Vec<u8>,
    ) -> Result<Session, UnknownSecrets> {
        let version = kernel.protocol_version();
        let suite = match kernel.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls13(suite) => &suite.common,
            SupportedCipherSuite::Tls12(suite) => &suite.common,
        };
        if version == ProtocolVersion::TLSv1_3 && secrets.is_none() {
            return Err(UnknownSecrets);
        }
        Ok(Session {
            sealer: RecordKey::new(version, keys.tx)?,
            opener: RecordKey::new(version, keys.rx)?,
            records_max: suite.confidentiality_limit,
            secrets: secrets.filter(|_| version == ProtocolVersion::TLSv1_3),
            unfinished: None,
            control: Vec::new(),
            peer_has_ended: false,
            incoming,
            update_asked: false,
            quiet: 0,
            wire_bytes: 0,
            has_ended: false,
        })
    }

    /// Bytes that are held beyond the session itself.
    pub fn held_bytes(&self) -> usize {
        self.incoming.len() + self.control.len()
    }

    /// Bytes of content whose records fit a `room`; one at least.
    pub fn content_for(&self, room: usize) -> usize {
        let overhead = self.sealer.layout().overhead();
        let whole = CONTENT_BYTES_MAX + overhead;
        let content = room / whole * CONTENT_BYTES_MAX + (room % whole).saturating_sub(overhead);
        content.max(1)
    }

    /// Bytes of the records of so much content.
    pub fn room_for(&self, content: u64) -> u64 {
        let records = content.div_ceil(CONTENT_BYTES_MAX as u64).max(1);
        content.saturating_add(records.saturating_mul(self.sealer.layout().overhead() as u64))
    }

    /// Bytes of content of the record of which a part has left, which must be given again, alone, before anything else.
    pub fn unfinished(&self) -> Option<usize> {
        self.unfinished.map(|record| record.content)
    }

    /// Whether the key has sealed so much that the connection should end after this response: it can't be changed with
    /// TLS 1.2.
    pub fn is_worn(&self) -> bool {
        self.secrets.is_none() && self.sealer.sequence >= self.records_max / 2
    }

    /// Seals content, in the `workspace`, and sends it with `send`, which says how many bytes were taken. Returns how many bytes
    /// of content have left in whole records. What did not leave is forgotten.
    ///
    /// # Errors
    /// [`WriteError`]; also if a record that is made again is not what it was.
    ///
    /// # Panics
    /// If the workspace is too small for the content and what is [added](Session::content_for) to it.
    pub fn write(
        &mut self,
        content: &mut dyn Content,
        workspace: &mut Workspace,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Result<usize, WriteError> {
        let Workspace {
            outgoing: scratch,
            keys,
            ..
        } = workspace;
        if self.unfinished.is_none() {
            self.prepare(keys).map_err(WriteError::Connection)?;
            if !self.flush(&mut send).map_err(WriteError::Connection)? {
                return Ok(0);
            }
        }
        let (layout, again) = (self.sealer.layout(), self.unfinished);
        let (mut end, mut sequence) = (0, self.sealer.sequence);
        while content.bytes() > 0 {
            let bytes = match again {
                Some(record) => record.content,
                None => content.bytes().min(CONTENT_BYTES_MAX),
            };
            if sequence >= self.records_max {
                // With TLS 1.3 the key is changed before the next record. Otherwise there is none.
                break;
            }
            let record = &mut scratch[end..end + bytes + layout.overhead()];
            let place = layout.before()..layout.before() + bytes;
            content
                .fill(&mut record[place])
                .map_err(WriteError::Content)?;
            let tag = self
                .sealer
                .seal(keys, ContentType::APPLICATION_DATA, sequence, record)
                .map_err(|error: SealError| WriteError::Connection(io::Error::other(error)))?;
            if again.is_some_and(|record| record.tag != tag) {
                let why = "what a TLS record was made of is not the same any more";
                return Err(WriteError::Connection(io::Error::other(why)));
            }
            end += record.len();
            sequence += 1;
            if again.is_some() {
                break;
            }
        }
        if end == 0 {
            let why = "a key has sealed as many TLS records as it may";
            return Err(WriteError::Connection(io::Error::other(why)));
        }
        let start = again.map_or(0, |record| record.sent);
        let sent = send(&scratch[start..end]).map_err(WriteError::Connection)?;
        self.wire_bytes += sent as u64;
        Ok(self.note_sent(&scratch[..end], start + sent))
    }

    /// Notes that the first `left` bytes of these records have left, and returns how much content that was.
    fn note_sent(&mut self, records: &[u8], left: usize) -> usize {
        let overhead = self.sealer.layout().overhead();
        let (mut at, mut content) = (0, 0);
        let again = self.unfinished.take();
        while at < left {
            let bytes = match again {
                Some(record) => record.content,
                None => (records.len() - at - overhead).min(CONTENT_BYTES_MAX),
            };
            let end = at + bytes + overhead;
            if left < end {
                let mut tag = [0; TAG_BYTES];
                tag.copy_from_slice(&records[end - TAG_BYTES..end]);
                self.unfinished = Some(Unfinished {
                    content: bytes,
                    sent: left - at,
                    tag,
                });
                break;
            }
            self.sealer.sequence += 1;
            content += bytes;
            at = end;
        }
        // It took nothing more of it.
        if left == 0 {
            self.unfinished = again;
        }
        content
    }

    /// Makes what must be sent before content: KeyUpdate, if the peer asked for one, or if the key is used up.
    fn prepare(&mut self, keys: &mut Keys) -> io::Result<()> {
        let is_used_up = self.sealer.sequence >= self.records_max;
        let Some(secrets) = &mut self.secrets else {
            return Ok(());
        };
        if !std::mem::take(&mut self.update_asked) && !is_used_up {
            return Ok(());
        }
        secrets.ours = secrets.ours.next().map_err(io::Error::other)?;
        let next = self
            .sealer
            .renewed(&secrets.ours)
            .map_err(io::Error::other)?;
        // RFC 8446 section 4.6.3: the last message under the old key; none is asked for in return.
        self.control_message(keys, ContentType::HANDSHAKE, &[24, 0, 0, 1, 0])?;
        self.sealer = next;
        Ok(())
    }

    fn control_message(
        &mut self,
        keys: &mut Keys,
        kind: ContentType,
        content: &[u8],
    ) -> io::Result<()> {
        let layout = self.sealer.layout();
        let start = self.control.len();
        self.control
            .resize(start + layout.overhead() + content.len(), 0);
        let record = &mut self.control[start..];
        record[layout.before()..][..content.len()].copy_from_slice(content);
        let sequence = self.sealer.sequence;
        self.sealer
            .seal(keys, kind, sequence, record)
            .map_err(io::Error::other)?;
        self.sealer.sequence += 1;
        Ok(())
    }

    /// Sends messages that wait. Returns whether none is left.
    fn flush(&mut self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        if self.control.is_empty() {
            return Ok(true);
        }
        let sent = send(&self.control)?;
        self.wire_bytes += sent as u64;
        self.control.drain(..sent);
        if self.control.is_empty() {
            self.control = Vec::new();
        }
        Ok(self.control.is_empty())
    }

    /// Makes the last message, an alert, and sends what waits. Returns whether all of it has left, or nothing can: in the
    /// middle of a record no message can be sent.
    ///
    /// # Errors
    /// The connection's.
    pub fn end(
        &mut self,
        alert: Alert,
        workspace: &mut Workspace,
        send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        if self.unfinished.is_some() {
            return Ok(true);
        }
        if !std::mem::replace(&mut self.has_ended, true) {
            let keys = &mut workspace.keys;
            self.control_message(keys, ContentType::ALERT, &alert.bytes())?;
        }
        self.flush(send)
    }

    /// The beginning of a record that came before; the next bytes belong behind it.
    pub fn incoming(&self) -> &[u8] {
        &self.incoming
    }

    /// Bytes that left since this was asked last, whatever they were.
    pub fn take_wire_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.wire_bytes)
    }

    /// Opens the records that have come, in place: the first `length` bytes of what is incoming in the workspace. Their
    /// content is then at the beginning of that, this much of it. A record that isn't whole is kept.
    ///
    /// # Errors
    /// [`ReceiveError`]. No further record can be opened then.
    pub fn receive(
        &mut self,
        workspace: &mut Workspace,
        length: usize,
    ) -> Result<usize, ReceiveError> {
        let Workspace { incoming, keys, .. } = workspace;
        let bytes = &mut incoming[..length];
        let payload_bytes_max = self.opener.layout().payload_bytes_max();
        let (mut at, mut end) = (0, 0);
        while !self.peer_has_ended
            && let Some(length) =
                record_bytes(&bytes[at..], payload_bytes_max).map_err(ReceiveError::Wrong)?
        {
            let Some(record) = bytes.get_mut(at..at + length) else {
                break;
            };
            let opened = self.opener.open(keys, record);
            let (kind, place) = opened.map_err(ReceiveError::Wrong)?;
            let place = at + place.start..at + place.end;
            at += length;
            self.quiet = match place.is_empty() || kind != ContentType::APPLICATION_DATA {
                true => self.quiet + 1,
                false => 0,
            };
            if self.quiet > QUIET_MAX {
                return Err(ReceiveError::Wrong(Alert::UNEXPECTED_MESSAGE));
            }
            match kind {
                ContentType::APPLICATION_DATA => {
                    let length = place.len();
                    bytes.copy_within(place, end);
                    end += length;
                }
                ContentType::ALERT => self.peer_has_ended = is_last(&bytes[place])?,
                ContentType::HANDSHAKE => {
                    self.update_asked |= key_update(self.secrets.is_some(), &bytes[place])?;
                    self.change_opener()
                        .map_err(|_| ReceiveError::Wrong(Alert::INTERNAL_ERROR))?;
                }
                _ => return Err(ReceiveError::Wrong(Alert::UNEXPECTED_MESSAGE)),
            }
        }
        if !self.peer_has_ended {
            self.incoming = bytes[at..].to_vec();
        }
        Ok(end)
    }

    /// From now on a key seals so many records and no more.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, most: u64) {
        self.records_max = most;
    }

    /// Whether the peer said that it sends nothing more.
    pub fn peer_has_ended(&self) -> bool {
        self.peer_has_ended
    }

    fn change_opener(&mut self) -> Result<(), UnknownSecrets> {
        let secrets = self.secrets.as_mut().ok_or(UnknownSecrets)?;
        secrets.peers = secrets.peers.next()?;
        self.opener = self.opener.renewed(&secrets.peers)?;
        Ok(())
    }
}

/// Whether an alert says that the peer sends nothing more.
fn is_last(content: &[u8]) -> Result<bool, ReceiveError> {
    /// The peer is about to close (RFC 8446 section 6.1).
    const USER_CANCELED: u8 = 90;
    const WARNING: u8 = 1;
    match *content {
        [_, 0] => Ok(true),
        [WARNING, _] | [_, USER_CANCELED] => Ok(false),
        [_, description] => Err(ReceiveError::Ended(Alert(description))),
        _ => Err(ReceiveError::Wrong(Alert::DECODE_ERROR)),
    }
}

/// Whether a KeyUpdate asks for one in return. Nothing else may come after the handshake.
fn key_update(is_13: bool, content: &[u8]) -> Result<bool, ReceiveError> {
    let wrong = match (is_13, content) {
        (true, [24, 0, 0, 1, asked @ (0 | 1)]) => return Ok(*asked == 1),
        (true, [24, ..]) => Alert::DECODE_ERROR,
        (true, _) => Alert::UNEXPECTED_MESSAGE,
        (false, _) => Alert::NO_RENEGOTIATION,
    };
    Err(ReceiveError::Wrong(wrong))
}
