//! The record layer: how one record is sealed and opened, by one key.
//!
//! TLS 1.3 (RFC 8446 section 5):
//!
//! ```text
//! header: 23, 3, 3, length (2)    the header is what is authenticated besides
//! sealed: content, content type (1)    tag (16)
//! ```
//!
//! TLS 1.2 (RFC 5246 section 6.2, RFC 5288, RFC 7905):
//!
//! ```text
//! header: content type, 3, 3, length (2)    sequence number (8), type, version, length of the content are authenticated
//! explicit nonce (8), with AES-GCM    sealed: content    tag (16)
//! ```
//!
//! The nonce is the initialization vector XOR the sequence number, whose sender counts for itself. With AES-GCM of TLS 1.2
//! its last 8 bytes are sent, and a receiver takes what it gets.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use lru::LruCache;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use zeroize::Zeroizing;

use super::Alert;
use super::traffic::{TrafficSecret, UnknownSecrets};

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 5;
/// Bytes of content that a record may have.
pub const CONTENT_BYTES_MAX: usize = 16_384;
/// Bytes that a record may have behind its header: TLS 1.2 allows the most (RFC 5246 section 6.2.3).
pub const PAYLOAD_BYTES_MAX: usize = CONTENT_BYTES_MAX + 2048;
/// Bytes of a whole record.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// What a record has besides its content, at most.
pub const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

const EXPLICIT_NONCE_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const KEY_BYTES_MAX: usize = 32;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType(pub u8);

impl ContentType {
    /// A change of ciphers, which says nothing in TLS 1.3.
    pub const CHANGE_CIPHER_SPEC: ContentType = ContentType(20);
    /// An alert.
    pub const ALERT: ContentType = ContentType(21);
    /// Handshake messages.
    pub const HANDSHAKE: ContentType = ContentType(22);
    /// Bytes of the application.
    pub const APPLICATION_DATA: ContentType = ContentType(23);
}

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// TLS 1.3.
    V13,
    /// TLS 1.2 with AES-GCM, which sends a part of the nonce.
    V12ExplicitNonce,
    /// TLS 1.2 with ChaCha20-Poly1305.
    V12,
}

impl Layout {
    /// Bytes before the content.
    pub fn before(self) -> usize {
        match self {
            Layout::V13 | Layout::V12 => HEADER_BYTES,
            Layout::V12ExplicitNonce => HEADER_BYTES + EXPLICIT_NONCE_BYTES,
        }
    }

    /// Bytes behind the content.
    pub fn behind(self) -> usize {
        match self {
            Layout::V13 => 1 + TAG_BYTES,
            Layout::V12 | Layout::V12ExplicitNonce => TAG_BYTES,
        }
    }

    /// Bytes that a record may have behind its header (RFC 8446 section 5.2, RFC 5246 section 6.2.3).
    pub fn payload_bytes_max(self) -> usize {
        match self {
            Layout::V13 => CONTENT_BYTES_MAX + 256,
            Layout::V12 | Layout::V12ExplicitNonce => PAYLOAD_BYTES_MAX,
        }
    }

    /// Bytes that a record has besides its content.
    pub fn overhead(self) -> usize {
        self.before() + self.behind()
    }
}

/// The tag of a record. Two records with one key and one number have the same only if their content is the same.
pub type RecordTag = [u8; TAG_BYTES];

/// Seals or opens the records of one direction. It holds the key itself; what is made of that for use, some 600 bytes, is
/// in a core's [`Keys`].
pub struct RecordKey {
    /// Tells it from all others.
    id: u64,
    algorithm: &'static Algorithm,
    key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    iv: [u8; NONCE_BYTES],
    layout: Layout,
    /// The number of the next record.
    pub sequence: u64,
}

/// The keys of the connections that one core served last, made ready for use. To make one ready takes as long as to seal some
/// KiB, and a client that waits needs none.
pub struct Keys(LruCache<u64, LessSafeKey>);

impl Keys {
    /// None yet, so many at most.
    pub fn new(most: NonZeroUsize) -> Keys {
        Keys(LruCache::new(most))
    }

    fn ready(&mut self, of: &RecordKey) -> Result<&LessSafeKey, UnknownSecrets> {
        self.0.try_get_or_insert(of.id, || {
            let key = &of.key[..of.algorithm.key_len()];
            let key = UnboundKey::new(of.algorithm, key).map_err(|_| UnknownSecrets)?;
            Ok(LessSafeKey::new(key))
        })
    }
}

impl RecordKey {
    /// A key of these secrets, whose next record has this number.
    ///
    /// # Errors
    /// If they are of a cipher that isn't known.
    pub fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<RecordKey, UnknownSecrets> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(UnknownSecrets),
        };
        let layout = match version {
            ProtocolVersion::TLSv1_3 => Layout::V13,
            ProtocolVersion::TLSv1_2 if algorithm == &CHACHA20_POLY1305 => Layout::V12,
            ProtocolVersion::TLSv1_2 => Layout::V12ExplicitNonce,
            _ => return Err(UnknownSecrets),
        };
        let key = key.as_ref().get(..algorithm.key_len());
        let key = key.ok_or(UnknownSecrets)?;
        let mut place = Zeroizing::new([0; KEY_BYTES_MAX]);
        place[..key.len()].copy_from_slice(key);
        Ok(RecordKey {
            id: next_id(),
            algorithm,
            key: place,
            iv: iv.as_ref().try_into().map_err(|_| UnknownSecrets)?,
            layout,
            sequence,
        })
    }

    /// The key that takes this one's place, made of the next secret (RFC 8446 section 7.3).
    ///
    /// # Errors
    /// If the secret is of a hash that isn't known.
    pub fn renewed(&self, secret: &TrafficSecret) -> Result<RecordKey, UnknownSecrets> {
        let mut renewed = RecordKey {
            id: next_id(),
            algorithm: self.algorithm,
            key: Zeroizing::new([0; KEY_BYTES_MAX]),
            iv: [0; NONCE_BYTES],
            layout: self.layout,
            sequence: 0,
        };
        secret.expand("key", &mut renewed.key[..self.algorithm.key_len()])?;
        secret.expand("iv", &mut renewed.iv)?;
        Ok(renewed)
    }

    /// How its records look.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn nonce(&self, sequence: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= of_number;
        }
        nonce
    }

    /// Makes `record` one of `kind` with number `sequence`. Its content is in place, behind [`Layout::before`] bytes, and
    /// [`Layout::behind`] bytes are free after it. Returns the tag, which the record ends with.
    ///
    /// The caller sees to it that no other content leaves under the same number.
    ///
    /// # Errors
    /// If the content is longer than the cipher can seal, which no record's is.
    ///
    /// # Panics
    /// If `record` is shorter than an empty one.
    pub fn seal(
        &self,
        keys: &mut Keys,
        kind: ContentType,
        sequence: u64,
        record: &mut [u8],
    ) -> Result<RecordTag, SealError> {
        let (before, behind) = (self.layout.before(), self.layout.behind());
        let length = record.len() - before - behind;
        let payload = (record.len() - HEADER_BYTES) as u16;
        let nonce = self.nonce(sequence);
        let outer = match self.layout {
            Layout::V13 => ContentType::APPLICATION_DATA,
            Layout::V12 | Layout::V12ExplicitNonce => kind,
        };
        let (header, rest) = record.split_at_mut(before);
        header[..3].copy_from_slice(&[outer.0, 3, 3]);
        header[3..HEADER_BYTES].copy_from_slice(&payload.to_be_bytes());
        header[HEADER_BYTES..].copy_from_slice(&nonce[NONCE_BYTES - (before - HEADER_BYTES)..]);
        let (sealed, tag_place) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = keys.ready(self).map_err(|_| SealError)?;
        let tag = match self.layout {
            Layout::V13 => {
                sealed[length] = kind.0;
                let aad = Aad::from(&header[..HEADER_BYTES]);
                key.seal_in_place_separate_tag(nonce, aad, sealed)
            }
            Layout::V12 | Layout::V12ExplicitNonce => {
                let aad = Aad::from(aad_v12(sequence, kind, length));
                key.seal_in_place_separate_tag(nonce, aad, sealed)
            }
        };
        let tag = tag.map_err(|_| SealError)?;
        tag_place.copy_from_slice(tag.as_ref());
        tag.as_ref().try_into().map_err(|_| SealError)
    }

    /// Opens the next record in place. Returns what it carries, and where in it that is.
    ///
    /// # Errors
    /// The alert that the peer is to get.
    pub fn open(
        &mut self,
        keys: &mut Keys,
        record: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), Alert> {
        let (header, payload) = record.split_at_mut(HEADER_BYTES);
        let sequence = self.sequence;
        let mut nonce = self.nonce(sequence);
        let key = keys.ready(self).map_err(|_| Alert::INTERNAL_ERROR)?;
        let outer = ContentType(header[0]);
        let (kind, length) = match self.layout {
            Layout::V13 => {
                if outer != ContentType::APPLICATION_DATA {
                    return Err(Alert::UNEXPECTED_MESSAGE);
                }
                let nonce = Nonce::assume_unique_for_key(nonce);
                let aad = Aad::from(&header[..]);
                let opened = key.open_in_place(nonce, aad, payload);
                let opened = opened.map_err(|_| Alert::BAD_RECORD_MAC)?;
                // Zeros behind the content type are padding.
                let last = opened.iter().rposition(|&byte| byte != 0);
                let last = last.ok_or(Alert::UNEXPECTED_MESSAGE)?;
                (ContentType(opened[last]), last)
            }
            Layout::V12 | Layout::V12ExplicitNonce => {
                let explicit = self.layout.before() - HEADER_BYTES;
                let length = payload.len().checked_sub(explicit + TAG_BYTES);
                let length = length.ok_or(Alert::BAD_RECORD_MAC)?;
                let (explicit, sealed) = payload.split_at_mut(explicit);
                nonce[NONCE_BYTES - explicit.len()..].copy_from_slice(explicit);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let aad = Aad::from(aad_v12(sequence, outer, length));
                let opened = key.open_in_place(nonce, aad, sealed);
                (outer, opened.map_err(|_| Alert::BAD_RECORD_MAC)?.len())
            }
        };
        if length > CONTENT_BYTES_MAX {
            return Err(Alert::RECORD_OVERFLOW);
        }
        self.sequence = sequence.checked_add(1).ok_or(Alert::INTERNAL_ERROR)?;
        let start = self.layout.before();
        Ok((kind, start..start + length))
    }
}

/// A number that no other key has.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A record that can't be sealed.
#[derive(Debug, thiserror::Error)]
#[error("a record can't be sealed")]
pub struct SealError;

/// What TLS 1.2 authenticates besides the content.
fn aad_v12(sequence: u64, kind: ContentType, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&[kind.0, 3, 3]);
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}

/// Bytes of the record that `bytes` begin with, its header included; `None` if the header isn't whole. Behind its header it may
/// have so many.
///
/// # Errors
/// The alert that the peer is to get, if that is no record or one that is too long.
pub fn record_bytes(bytes: &[u8], payload_bytes_max: usize) -> Result<Option<usize>, Alert> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    if !(20..=23).contains(&header[0]) || header[1] != 3 {
        return Err(Alert::DECODE_ERROR);
    }
    let payload = usize::from(u16::from_be_bytes([header[3], header[4]]));
    match payload <= payload_bytes_max {
        true => Ok(Some(HEADER_BYTES + payload)),
        false => Err(Alert::RECORD_OVERFLOW),
    }
}
