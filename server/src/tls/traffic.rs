//! Traffic secrets of TLS 1.3: what keys are made of, and what the next secrets come from (RFC 8446 section 7).
//!
//! rustls has them too, in a value of more than a kilobyte that is meant for kernel TLS. Two secrets are a tenth of that, and
//! every connection has them for as long as it lasts. rustls tells them to a key log while it works on a handshake; ours
//! writes nothing down and keeps them for that handshake.

use std::cell::RefCell;

use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::KeyLog;
use zeroize::Zeroizing;

/// The longest secret: that of a hash of 384 bits.
const SECRET_BYTES_MAX: usize = 48;

/// The secret of one direction.
pub struct TrafficSecret {
    bytes: Zeroizing<[u8; SECRET_BYTES_MAX]>,
    length: u8,
}

/// The secrets of both directions.
pub struct TrafficSecrets {
    /// Of what is sent.
    pub ours: TrafficSecret,
    /// Of what is received.
    pub peers: TrafficSecret,
}

/// Secrets that no record can be made with.
#[derive(Debug, thiserror::Error)]
#[error("the traffic secrets are of a kind that is not known")]
pub struct UnknownSecrets;

/// How many bytes are wanted.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl TrafficSecret {
    fn new(secret: &[u8]) -> Option<TrafficSecret> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES_MAX]);
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(TrafficSecret {
            bytes,
            length: secret.len() as u8,
        })
    }

    /// Fills `into` with what comes of the secret by this label (HKDF-Expand-Label without a context, section 7.1).
    ///
    /// # Errors
    /// If the secret is of a hash that isn't known.
    pub fn expand(&self, label: &str, into: &mut [u8]) -> Result<(), UnknownSecrets> {
        let secret = &self.bytes[..usize::from(self.length)];
        let algorithm = match secret.len() {
            32 => HKDF_SHA256,
            48 => HKDF_SHA384,
            _ => return Err(UnknownSecrets),
        };
        let length = (into.len() as u16).to_be_bytes();
        let label_length = [(PREFIX.len() + label.len()) as u8];
        let info = [&length[..], &label_length, PREFIX, label.as_bytes(), &[0]];
        let key = Prk::new_less_safe(algorithm, secret);
        let expanded = key.expand(&info, Length(into.len()));
        let filled = expanded.and_then(|expanded| expanded.fill(into));
        filled.map_err(|_| UnknownSecrets)
    }

    /// The secret after this one (section 7.2).
    ///
    /// # Errors
    /// As [`TrafficSecret::expand`].
    pub fn next(&self) -> Result<TrafficSecret, UnknownSecrets> {
        let mut next = TrafficSecret {
            bytes: Zeroizing::new([0; SECRET_BYTES_MAX]),
            length: self.length,
        };
        let length = usize::from(self.length);
        self.expand("traffic upd", &mut next.bytes[..length])?;
        Ok(next)
    }
}

/// What every label begins with.
const PREFIX: &[u8] = b"tls13 ";

thread_local! {
    /// What was told of the handshake that this thread works on.
    static HEARD: RefCell<Heard> = const { RefCell::new(Heard { ours: None, peers: None }) };
}

struct Heard {
    ours: Option<TrafficSecret>,
    peers: Option<TrafficSecret>,
}

/// What rustls tells secrets to.
#[derive(Debug)]
pub struct Listener;

/// Names of the secrets (draft-ietf-tls-keylogfile).
const OURS: &str = "SERVER_TRAFFIC_SECRET_0";
const PEERS: &str = "CLIENT_TRAFFIC_SECRET_0";

impl KeyLog for Listener {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| match label {
            OURS => heard.ours = TrafficSecret::new(secret),
            PEERS => heard.peers = TrafficSecret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [OURS, PEERS].contains(&label)
    }
}

/// What was told since this was asked last on this thread. To be asked after every step of a handshake.
pub fn take() -> Option<TrafficSecrets> {
    let heard = HEARD.with_borrow_mut(|heard| (heard.ours.take(), heard.peers.take()));
    match heard {
        (Some(ours), Some(peers)) => Some(TrafficSecrets { ours, peers }),
        _ => None,
    }
}
