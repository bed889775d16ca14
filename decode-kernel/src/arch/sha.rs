//! SHA-256's compression of several messages of equal length: which back-end takes which lanes.
//!
//! Wide back-ends keep a message per lane of a register and cost the same whether or not all lanes
//! are in use; narrow ones take a few messages in turns. A [`ShaKernel`] has one of either.

use std::sync::OnceLock;

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
use super::x86_64::{sha_avx2::ShaAvx2, sha_avx512::ShaAvx512, sha_ni::ShaNi};
use super::{Company, Kernel};
use crate::sha256::{Block, State};

/// Back-ends for SHA-256 that this CPU can run.
#[derive(Clone, Copy)]
pub struct ShaKernel {
    name: &'static str,
    narrow: Narrow,
    #[cfg(target_arch = "x86_64")]
    wide: Option<Wide>,
}

/// Few messages in turns.
#[derive(Clone, Copy)]
enum Narrow {
    #[cfg(target_arch = "x86_64")]
    ShaNi(ShaNi),
    /// The crate `sha2`, one by one; it knows the instructions of many CPUs by itself.
    Crate,
}

/// Many messages in lockstep.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Wide {
    backend: WideBackend,
    /// From how many messages on it is faster than the narrow one.
    from: usize,
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum WideBackend {
    Avx512(ShaAvx512),
    Avx2(ShaAvx2),
}

/// From how many messages on 16 lanes of AVX-512 are faster than the SHA extensions, and than the
/// crate without them; and 8 lanes of AVX2 than that. Measured on Zen 5.
#[cfg(target_arch = "x86_64")]
const AVX512_FROM: usize = 10;
#[cfg(target_arch = "x86_64")]
const AVX512_FROM_WITHOUT_NI: usize = 2;
#[cfg(target_arch = "x86_64")]
const AVX2_FROM_WITHOUT_NI: usize = 3;

/// Messages compressed by one call of a back-end, at most.
const GROUP_MAX: usize = 16;

impl ShaKernel {
    /// Each back-end that this CPU can run, by itself; the last is `portable`.
    pub fn available() -> impl Iterator<Item = ShaKernel> {
        let names = ["avx512", "avx2", "sha-ni", "portable"];
        names.into_iter().filter_map(ShaKernel::alone)
    }

    /// The fastest for any number of messages, of what goes with `kernel`: everything the CPU has
    /// where that is the best; where it is AVX2's, nothing wider; else the crate.
    pub fn with(kernel: Kernel) -> ShaKernel {
        match kernel.company() {
            Company::Any => ShaKernel::mixed(true),
            Company::Avx2 => ShaKernel::mixed(false),
            Company::Portable => ShaKernel::PORTABLE,
        }
    }

    /// The crate alone.
    const PORTABLE: ShaKernel = ShaKernel {
        name: "portable",
        narrow: Narrow::Crate,
        #[cfg(target_arch = "x86_64")]
        wide: None,
    };

    /// A back-end for few messages and one for many, each where it is faster.
    #[cfg(target_arch = "x86_64")]
    fn mixed(use_avx512: bool) -> ShaKernel {
        let avx512 = ShaAvx512::detect().filter(|_| use_avx512);
        let (name, narrow, wide) = match (ShaNi::detect(), avx512, ShaAvx2::detect()) {
            (Some(ni), Some(avx512), _) => {
                let (backend, from) = (WideBackend::Avx512(avx512), AVX512_FROM);
                let wide = Wide { backend, from };
                ("avx512 and sha-ni", Narrow::ShaNi(ni), Some(wide))
            }
            // AVX2 is slower, with any number of messages.
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

    /// There's nothing to mix.
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

    /// The one of this process: it goes with [`Kernel::chosen`].
    pub fn chosen() -> ShaKernel {
        static CHOSEN: OnceLock<ShaKernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| ShaKernel::with(Kernel::chosen()))
    }

    /// Its back-ends.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Compresses the blocks of `message(lane)` into each lane's state, where the messages of all
    /// lanes are of one length.
    pub(crate) fn compress<'m>(
        self,
        mut states: &mut [State],
        message: impl Fn(usize) -> &'m [Block],
    ) {
        let mut lane = 0;
        let mut group: [&[Block]; GROUP_MAX] = [&[]; GROUP_MAX];
        while !states.is_empty() {
            let taker = self.taker(states.len());
            let (now, later) = states.split_at_mut(taker.messages(states.len()));
            let group = &mut group[..now.len()];
            for (offset, part) in group.iter_mut().enumerate() {
                *part = message(lane + offset);
            }
            // The back-ends' unsafe code rests on this.
            assert!(
                group.iter().all(|part| part.len() == group[0].len()),
                "messages of one length"
            );
            taker.compress(now, group);
            lane += now.len();
            states = later;
        }
    }

    /// Who takes the next of so many messages.
    fn taker(self, messages: usize) -> Taker {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide
            && messages >= wide.from
        {
            return Taker::Wide(wide.backend);
        }
        let _ = messages;
        Taker::Narrow(self.narrow)
    }
}

enum Taker {
    #[cfg(target_arch = "x86_64")]
    Wide(WideBackend),
    Narrow(Narrow),
}

impl Taker {
    /// How many of so many messages it takes at once.
    fn messages(&self, of: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Taker::Wide(WideBackend::Avx512(_)) => of.min(ShaAvx512::LANES),
            #[cfg(target_arch = "x86_64")]
            Taker::Wide(WideBackend::Avx2(_)) => of.min(ShaAvx2::LANES),
            #[cfg(target_arch = "x86_64")]
            Taker::Narrow(Narrow::ShaNi(_)) => {
                // Five are better taken as three and two than as four and one.
                of.div_ceil(of.div_ceil(ShaNi::STREAMS_MAX))
            }
            Taker::Narrow(Narrow::Crate) => of.min(1),
        }
    }

    /// Compresses no more messages than [`Taker::messages`] says, all of one length.
    fn compress(&self, states: &mut [State], messages: &[&[Block]]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Taker::Wide(WideBackend::Avx512(backend)) => backend.compress(states, messages),
            #[cfg(target_arch = "x86_64")]
            Taker::Wide(WideBackend::Avx2(backend)) => backend.compress(states, messages),
            #[cfg(target_arch = "x86_64")]
            Taker::Narrow(Narrow::ShaNi(backend)) => backend.compress(states, messages),
            Taker::Narrow(Narrow::Crate) => {
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
