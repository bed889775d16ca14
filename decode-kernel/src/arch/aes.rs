//! AES-128's keystream in counter mode: one back-end per instruction set.

use std::sync::OnceLock;

use aes::Aes128;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher};
use ctr::{Ctr128BE, CtrCore};

#[cfg(target_arch = "x86_64")]
use super::x86_64::{aes_ni::AesNi, aes_ni::RoundKeys, aes_vaes::Vaes};
use super::{Instructions, Kernel};

/// A back-end for AES-128 that this CPU can run.
#[derive(Clone, Copy)]
pub struct AesKernel(Backend);

#[derive(Clone, Copy)]
enum Backend {
    #[cfg(target_arch = "x86_64")]
    Vaes(Vaes),
    #[cfg(target_arch = "x86_64")]
    AesNi(AesNi),
    /// The crates `aes` and `ctr`; they know the instructions of many CPUs by themselves.
    Portable,
}

impl AesKernel {
    /// The back-ends that this CPU can run, best first; the last is `portable`.
    pub fn available() -> impl Iterator<Item = AesKernel> {
        let names = ["vaes-512", "aes-ni", "portable"];
        names.into_iter().filter_map(AesKernel::detect)
    }

    /// The fastest back-end that uses no wider instructions than `kernel` (see
    /// [`ShaKernel::with`]).
    ///
    /// [`ShaKernel::with`]: super::ShaKernel::with
    pub fn with(kernel: Kernel) -> AesKernel {
        let names: &[&str] = match kernel.instructions() {
            Instructions::Any => &["vaes-512", "aes-ni"],
            Instructions::Avx2 => &["aes-ni"],
            Instructions::Portable => &[],
        };
        let best = names.iter().find_map(|name| AesKernel::detect(name));
        best.unwrap_or(AesKernel(Backend::Portable))
    }

    /// The back-end of this process, chosen along with [`Kernel::chosen`].
    pub fn chosen() -> AesKernel {
        static CHOSEN: OnceLock<AesKernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| AesKernel::with(Kernel::chosen()))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Vaes(_) => "vaes-512",
            #[cfg(target_arch = "x86_64")]
            Backend::AesNi(_) => "aes-ni",
            Backend::Portable => "portable",
        }
    }

    /// The back-end of this name, if this CPU can run it.
    fn detect(name: &str) -> Option<AesKernel> {
        match name {
            #[cfg(target_arch = "x86_64")]
            "vaes-512" => Some(AesKernel(Backend::Vaes(Vaes::detect()?))),
            #[cfg(target_arch = "x86_64")]
            "aes-ni" => Some(AesKernel(Backend::AesNi(AesNi::detect()?))),
            "portable" => Some(AesKernel(Backend::Portable)),
            _ => None,
        }
    }
}

impl std::fmt::Debug for AesKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AesKernel").field(&self.name()).finish()
    }
}

/// A key in the form that its back-end needs, with the back-end. It is overwritten when dropped.
pub(crate) struct Cipher(Keys);

enum Keys {
    #[cfg(target_arch = "x86_64")]
    Vaes(Vaes, RoundKeys),
    #[cfg(target_arch = "x86_64")]
    AesNi(AesNi, RoundKeys),
    Portable(Aes128),
}

impl Cipher {
    pub(crate) fn new(kernel: AesKernel, key: &[u8; 16]) -> Cipher {
        Cipher(match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Vaes(kernel) => Keys::Vaes(kernel, kernel.narrow().expand(key)),
            #[cfg(target_arch = "x86_64")]
            Backend::AesNi(kernel) => Keys::AesNi(kernel, kernel.expand(key)),
            Backend::Portable => Keys::Portable(Aes128::new(key.into())),
        })
    }

    /// Adds the keystream to `data`, which begins with block number `first`.
    pub(crate) fn apply(&self, first: u64, data: &mut [u8]) {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Keys::Vaes(kernel, keys) => kernel.apply(keys, first, data),
            #[cfg(target_arch = "x86_64")]
            Keys::AesNi(kernel, keys) => kernel.apply(keys, first, data),
            Keys::Portable(cipher) => {
                let counter = u128::from(first).to_be_bytes();
                let core = CtrCore::inner_iv_init(cipher.clone(), &counter.into());
                Ctr128BE::<Aes128>::from_core(core).apply_keystream(data);
            }
        }
    }
}
