//! SHA-256's compression of several messages of equal length, and the choice of the back-end for
//! each group of lanes.
//!
//! Wide back-ends keep one message in each lane of a register and cost the same whether or not all
//! lanes are in use. Narrow ones interleave a few messages. A [`ShaKernel`] has one of each kind.

use std::sync::OnceLock;

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
use super::x86_64::{sha_avx2::ShaAvx2, sha_avx512::ShaAvx512, sha_ni::ShaNi};
use super::{Instructions, Kernel};

/// The eight words carried from block to block.
pub(crate) type State = [u32; 8];

/// The unit of compression.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// Bytes of a block (FIPS 180-4, section 1).
pub(crate) const BLOCK_BYTES: usize = 64;

/// The constants of the 64 rounds, sixteen by sixteen (section 4.2.2).
#[cfg(target_arch = "x86_64")]
pub(crate) const ROUND_CONSTANTS: [[u32; 16]; 4] = [
    [
        0x428a_2f98,
        0x7137_4491,
        0xb5c0_fbcf,
        0xe9b5_dba5,
        0x3956_c25b,
        0x59f1_11f1,
        0x923f_82a4,
        0xab1c_5ed5,
        0xd807_aa98,
        0x1283_5b01,
        0x2431_85be,
        0x550c_7dc3,
        0x72be_5d74,
        0x80de_b1fe,
        0x9bdc_06a7,
        0xc19b_f174,
    ],
    [
        0xe49b_69c1,
        0xefbe_4786,
        0x0fc1_9dc6,
        0x240c_a1cc,
        0x2de9_2c6f,
        0x4a74_84aa,
        0x5cb0_a9dc,
        0x76f9_88da,
        0x983e_5152,
        0xa831_c66d,
        0xb003_27c8,
        0xbf59_7fc7,
        0xc6e0_0bf3,
        0xd5a7_9147,
        0x06ca_6351,
        0x1429_2967,
    ],
    [
        0x27b7_0a85,
        0x2e1b_2138,
        0x4d2c_6dfc,
        0x5338_0d13,
        0x650a_7354,
        0x766a_0abb,
        0x81c2_c92e,
        0x9272_2c85,
        0xa2bf_e8a1,
        0xa81a_664b,
        0xc24b_8b70,
        0xc76c_51a3,
        0xd192_e819,
        0xd699_0624,
        0xf40e_3585,
        0x106a_a070,
    ],
    [
        0x19a4_c116,
        0x1e37_6c08,
        0x2748_774c,
        0x34b0_bcb5,
        0x391c_0cb3,
        0x4ed8_aa4a,
        0x5b9c_ca4f,
        0x682e_6ff3,
        0x748f_82ee,
        0x78a5_636f,
        0x84c8_7814,
        0x8cc7_0208,
        0x90be_fffa,
        0xa450_6ceb,
        0xbef9_a3f7,
        0xc671_78f2,
    ],
];

/// Back-ends for SHA-256 that this CPU can run.
#[derive(Clone, Copy)]
pub struct ShaKernel {
    name: &'static str,
    narrow: Narrow,
    #[cfg(target_arch = "x86_64")]
    wide: Option<Wide>,
}

/// A few messages, interleaved.
#[derive(Clone, Copy)]
enum Narrow {
    #[cfg(target_arch = "x86_64")]
    ShaNi(ShaNi),
    /// The crate `sha2`, one message after another; it detects the instructions of many CPUs
    /// itself.
    Crate,
}

/// Many messages in lockstep.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Wide {
    backend: WideBackend,
    /// The number of messages from which it is faster than the narrow back-end.
    from: usize,
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum WideBackend {
    Avx512(ShaAvx512),
    Avx2(ShaAvx2),
}

/// The number of messages from which 16 lanes of AVX-512 are faster than the SHA extensions, and
/// than the crate on CPUs without these; and from which 8 lanes of AVX2 are faster than the crate.
/// Measured on Zen 5.
#[cfg(target_arch = "x86_64")]
const AVX512_FROM: usize = 10;
#[cfg(target_arch = "x86_64")]
const AVX512_FROM_WITHOUT_NI: usize = 2;
#[cfg(target_arch = "x86_64")]
const AVX2_FROM_WITHOUT_NI: usize = 3;

/// The most messages that one call of a back-end compresses.
const GROUP_MAX: usize = 16;

impl ShaKernel {
    /// Each back-end that this CPU can run, alone; the last is `portable`.
    pub fn available() -> impl Iterator<Item = ShaKernel> {
        let names = ["avx512", "avx2", "sha-ni", "portable"];
        names.into_iter().filter_map(ShaKernel::alone)
    }

    /// The fastest back-ends for any number of messages that use no wider instructions than
    /// `kernel`. For the best kernel these are all that the CPU has, for AVX2's nothing wider than
    /// AVX2, and otherwise the crate.
    pub fn with(kernel: Kernel) -> ShaKernel {
        match kernel.instructions() {
            Instructions::Any => ShaKernel::mixed(true),
            Instructions::Avx2 => ShaKernel::mixed(false),
            Instructions::Portable => ShaKernel::PORTABLE,
        }
    }

    /// The crate alone.
    const PORTABLE: ShaKernel = ShaKernel {
        name: "portable",
        narrow: Narrow::Crate,
        #[cfg(target_arch = "x86_64")]
        wide: None,
    };

    /// One back-end for few messages and one for many, each used where it is faster.
    #[cfg(target_arch = "x86_64")]
    fn mixed(use_avx512: bool) -> ShaKernel {
        let avx512 = ShaAvx512::detect().filter(|_| use_avx512);
        let (name, narrow, wide) = match (ShaNi::detect(), avx512, ShaAvx2::detect()) {
            (Some(ni), Some(avx512), _) => {
                let (backend, from) = (WideBackend::Avx512(avx512), AVX512_FROM);
                let wide = Wide { backend, from };
                ("avx512 and sha-ni", Narrow::ShaNi(ni), Some(wide))
            }
            // AVX2 is slower than the SHA extensions for any number of messages.
            (Some(ni), None, _) => ("sha-ni", Narrow::ShaNi(ni), None),
            (None, Some(avx512), _) => {
                let (backend, from) = (WideBackend::Avx512(avx512), AVX512_FROM_WITHOUT_NI);
                let wide = Wide { backend, from };
                ("avx512 and portable", Narrow::Crate, Some(wide))
            }
            (None, None, Some(avx2)) => {
                let (backend, from) = (WideBackend::Avx2(avx2), AVX2_FROM_WITHOUT_NI);
                let wide = Wide { backend, from };
                ("avx2 and portable", Narrow::Crate, Some(wide))
            }
            (None, None, None) => return ShaKernel::PORTABLE,
        };
        ShaKernel { name, narrow, wide }
    }

    /// No back-ends to mix.
    #[cfg(not(target_arch = "x86_64"))]
    fn mixed(_: bool) -> ShaKernel {
        ShaKernel::PORTABLE
    }

    /// The back-end of this name and no other, if this CPU can run it.
    fn alone(name: &'static str) -> Option<ShaKernel> {
        #[cfg(target_arch = "x86_64")]
        let wide = |backend| ShaKernel {
            name,
            wide: Some(Wide { backend, from: 1 }),
            ..ShaKernel::PORTABLE
        };
        match name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => Some(wide(WideBackend::Avx512(ShaAvx512::detect()?))),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Some(wide(WideBackend::Avx2(ShaAvx2::detect()?))),
            #[cfg(target_arch = "x86_64")]
            "sha-ni" => Some(ShaKernel {
                name,
                narrow: Narrow::ShaNi(ShaNi::detect()?),
                ..ShaKernel::PORTABLE
            }),
            "portable" => Some(ShaKernel::PORTABLE),
            _ => None,
        }
    }

    /// The back-ends of this process, chosen along with [`Kernel::chosen`].
    pub fn chosen() -> ShaKernel {
        static CHOSEN: OnceLock<ShaKernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| ShaKernel::with(Kernel::chosen()))
    }

    /// Its back-ends.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Compresses the blocks of `message(lane)` into each lane's state. The messages of all lanes
    /// have the same length.
    pub(crate) fn compress<'m>(
        self,
        mut states: &mut [State],
        message: impl Fn(usize) -> &'m [Block],
    ) {
        let mut lane = 0;
        let mut group: [&[Block]; GROUP_MAX] = [&[]; GROUP_MAX];
        while !states.is_empty() {
            let chosen = self.choose(states.len());
            let (now, later) = states.split_at_mut(chosen.messages(states.len()));
            let group = &mut group[..now.len()];
            for (offset, part) in group.iter_mut().enumerate() {
                *part = message(lane + offset);
            }
            // The back-ends' unsafe code relies on this check.
            assert!(
                group.iter().all(|part| part.len() == group[0].len()),
                "messages of one length"
            );
            chosen.compress(now, group);
            lane += now.len();
            states = later;
        }
    }

    /// The back-end for the next of the remaining `messages`.
    fn choose(self, messages: usize) -> Chosen {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide
            && messages >= wide.from
        {
            return Chosen::Wide(wide.backend);
        }
        let _ = messages;
        Chosen::Narrow(self.narrow)
    }
}

enum Chosen {
    #[cfg(target_arch = "x86_64")]
    Wide(WideBackend),
    Narrow(Narrow),
}

impl Chosen {
    /// The number of messages that it compresses at once, when `of` are left.
    fn messages(&self, of: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Chosen::Wide(WideBackend::Avx512(_)) => of.min(ShaAvx512::LANES),
            #[cfg(target_arch = "x86_64")]
            Chosen::Wide(WideBackend::Avx2(_)) => of.min(ShaAvx2::LANES),
            #[cfg(target_arch = "x86_64")]
            Chosen::Narrow(Narrow::ShaNi(_)) => {
                // Five messages are faster as three and two than as four and one.
                of.div_ceil(of.div_ceil(ShaNi::STREAMS_MAX))
            }
            Chosen::Narrow(Narrow::Crate) => of.min(1),
        }
    }

    /// Compresses at most as many messages as [`Chosen::messages`] says, all of the same length.
    fn compress(&self, states: &mut [State], messages: &[&[Block]]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Chosen::Wide(WideBackend::Avx512(backend)) => backend.compress(states, messages),
            #[cfg(target_arch = "x86_64")]
            Chosen::Wide(WideBackend::Avx2(backend)) => backend.compress(states, messages),
            #[cfg(target_arch = "x86_64")]
            Chosen::Narrow(Narrow::ShaNi(backend)) => backend.compress(states, messages),
            Chosen::Narrow(Narrow::Crate) => {
                for (state, message) in states.iter_mut().zip(messages) {
                    compress256(state, message);
                }
            }
        }
    }
}

impl std::fmt::Debug for ShaKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ShaKernel").field(&self.name).finish()
    }
}
