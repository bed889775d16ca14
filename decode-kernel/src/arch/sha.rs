//! SHA-256's compression of several messages of equal length, and the choice of the back-end for
//! each group of lanes.
//!
//! Wide back-ends keep one message in each lane of a register and cost the same whether or not all
//! lanes are in use. Narrow ones interleave a few messages. A [`ShaKernel`] has one of each kind.

use std::sync::OnceLock;

use sha2::block_api::compress256;

use super::sha_block::{Block, State};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{sha_avx2::ShaAvx2, sha_avx512::ShaAvx512, sha_ni::ShaNi};
use super::{Instructions, Kernel};

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
