//! The key of a day, a region and a secret, and what it makes of a string to sign.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::canonical::SCOPE_END;

/// What signs one day's requests to one region.
pub(super) struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    /// That of a secret.
    pub(super) fn new(secret: &str, date: &str, region: &str) -> SigningKey {
        let first = Zeroizing::new(format!("AWS4{secret}"));
        let step = |key: &[u8], part: &str| {
            let mut mac = new_mac(key);
            mac.update(part.as_bytes());
            Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))
        };
        let mut key = step(first.as_bytes(), date);
        for part in [region, "s3", SCOPE_END] {
            key = step(&key[..], part);
        }
        SigningKey(key)
    }

    /// The signature of a string to sign.
    pub(super) fn sign(&self, text: &str) -> [u8; 32] {
        self.mac(text).finalize().into_bytes().into()
    }

    /// Whether that is its signature, in constant time.
    pub(super) fn verifies(&self, text: &str, signature: &[u8; 32]) -> bool {
        self.mac(text).verify_slice(signature).is_ok()
    }

    fn mac(&self, text: &str) -> Hmac<Sha256> {
        let mut mac = new_mac(&self.0[..]);
        mac.update(text.as_bytes());
        mac
    }
}

fn new_mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do")
}
